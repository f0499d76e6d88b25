from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.profilers import SimpleProfiler

from tests.training import assert_same_weights, classifier, loader, trainer, weights


@pytest.mark.parametrize("update", ["streamed", "fused"])
def test_a_profile_has_rows_of_every_block_and_changes_nothing(tmp_path: Path, update: str) -> None:
    profiler = SimpleProfiler()
    module, plain = classifier(depth=2, update=update), classifier(depth=2, update=update)
    trainer(tmp_path, profiler=profiler).fit(module, loader(100, 50))
    trainer(tmp_path).fit(plain, loader(100, 50))
    rows = profiler.recorded_durations
    for index in range(2):
        assert len(rows[f"block {index}: forward and loss"]) == 2
        assert len(rows[f"block {index}: update"]) == 2
        assert len(rows.get(f"block {index}: backward", [])) == 2 * (update == "streamed"), "fused: one for all blocks"
    assert_same_weights(weights(module), weights(plain))
    assert "local_step" not in vars(module.network[0])

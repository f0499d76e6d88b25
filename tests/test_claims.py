"""The page *What is said of Forward-Forward, measured*: its numbers, and that its words fit them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    import tables_claims

    return tables_claims


def test_a_loss_is_reached_on_the_line_between_two_points(tables: ModuleType) -> None:
    curve = [[100, 4.0], [200, 3.0], [400, 1.0]]
    assert tables.share_until(curve, 3.5) == pytest.approx(150 / 400)
    assert tables.share_until(curve, 1.0) == 1.0
    assert tables.share_until(curve, 4.5) == pytest.approx(100 / 400)
    with pytest.raises(ValueError, match="No point"):
        tables.share_until(curve, 0.5)


def test_every_race_is_between_equals(tables: ModuleType) -> None:
    races = list(tables.races())
    assert len(races) >= 3
    for race in races:
        assert race.run["layers"] == race.twin["layers"]
        assert ("--tokens" in race.run["command"]) == ("--tokens" in race.twin["command"])
        assert 0 < race.seconds <= race.run["ff_seconds"]
        assert 0 < race.twin_seconds <= race.twin["backprop_seconds"]

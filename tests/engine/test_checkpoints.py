"""Checkpoints that are damaged, foreign or of another network, and those that are right."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.engine.checkpoints import AtomicCheckpointIO, check_checkpoint, check_fit, misfits, unfinished
from ff_lightning.errors import InputError
from ff_lightning.losses import Swish
from ff_lightning.schedules import HoldThenDecay
from tests.command_line import QUIET, RECIPES, configs
from tests.training import classifier, loader, trainer

SMOKE = configs("digits_mlp", "with/smoke")


@pytest.fixture
def checkpoint(digits_run: Path) -> Path:
    """Checkpoint of a run from a recipe."""
    return digits_run / "last.ckpt"


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_of_ours_is_opened(checkpoint: Path) -> None:
    assert set(check_checkpoint(checkpoint)) >= {"state_dict", "ff_lightning", "hyper_parameters"}


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(keep: float, checkpoint: Path, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"cut\.ckpt`. The file cannot be loaded safely: it is cut short"):
        check_checkpoint(tmp_path / "cut.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "trap.ckpt")
    with pytest.raises(InputError, match="cannot be loaded safely"):
        check_checkpoint(tmp_path / "trap.ckpt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "not a checkpoint that Lightning wrote"),
        ({"model": {}}, "not a checkpoint that Lightning wrote"),
        ({"state_dict": {}, "pytorch-lightning_version": "2.6.6"}, "of another project"),
    ],
)
def test_a_foreign_file_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match=says):
        check_checkpoint(tmp_path / "foreign.ckpt")


def test_weights_of_another_network_are_refused_by_name(checkpoint: Path) -> None:
    state = check_checkpoint(checkpoint)["state_dict"]
    module = ff.FFClassifier.load_from_checkpoint(checkpoint)
    check_fit(module, state, checkpoint)
    state = dict(state)
    state["network.blocks.1.layer.linear.bias"] = torch.zeros(3)
    state["other"] = state.pop("network.blocks.0.layer.image.bias")
    with pytest.raises(InputError) as error:
        check_fit(module, state, "a.ckpt")
    assert str(error.value) == (
        "Passed `ckpt_path=a.ckpt`. It does not fit `FFClassifier` as the recipe builds it: "
        "`network.blocks.0.layer.image.bias` is missing; `other` is not in the network; "
        "`network.blocks.1.layer.linear.bias` has shape (3,) where the network has (500,)."
    )


def test_misfits_are_named_as_far_as_they_are_few() -> None:
    own = {name: torch.zeros(2) for name in "abc"}
    assert misfits(own, own) == ""
    assert misfits(own, {"a": torch.zeros(3), "c": torch.zeros(2), "d": torch.zeros(2)}) == (
        "`b` is missing; `d` is not in the network; `a` has shape (3,) where the network has (2,)"
    )
    assert misfits(own, {name: torch.zeros(2) for name in "xyz"}) == (
        "`a` is missing; `b` is missing; `c` is missing; and 3 more"
    )


@pytest.mark.parametrize("subcommand", ["fit", "test"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--model.network.widths", "[500, 400]"], "It does not fit `FFClassifier`"),
        (["--config", str(RECIPES / "with/twin.yaml")], "It does not fit `ImageTwin`"),
    ],
)
def test_the_command_line_refuses_what_does_not_fit(
    subcommand: str,
    change: list[str],
    says: str,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    args = [*change, "--ckpt_path", str(checkpoint), "--trainer.default_root_dir", str(tmp_path)]
    assert main([subcommand, *SMOKE, *QUIET, *args]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_a_recipe_rebuilds_its_module_safely(checkpoint: Path) -> None:
    module = ff.FFClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    assert isinstance(pl.LightningModule.load_from_checkpoint(checkpoint), ff.FFClassifier)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert isinstance(module.network[0].loss, Swish)
    assert module.network[0].loss.alpha == 20.0
    optimizer = module.make_optimizer(module.network[0].parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["fused"] is True
    assert isinstance(module.make_lr_scheduler(optimizer), HoldThenDecay)


WRITER = """
import sys
import torch
from ff_lightning.engine.checkpoints import AtomicCheckpointIO

while True:
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(4_000_000)}, sys.argv[1])
    print("written", flush=True)
"""


def test_a_kill_during_the_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path, part = tmp_path / "last.ckpt", unfinished(tmp_path / "last.ckpt")
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=RECIPES.parent) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        while not part.exists():
            assert writer.poll() is None
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert part.exists(), "killed in the middle of a write"
    assert path.stem not in part.name, "Lightning looks for checkpoints by parts of their names"
    assert torch.load(path, weights_only=True)["weights"].numel() == 4_000_000
    AtomicCheckpointIO().save_checkpoint({"count": 1}, path)
    assert torch.load(path, weights_only=True) == {"count": 1}
    assert list(tmp_path.iterdir()) == [path], "what a kill left is used up by the next write"


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"count": 0}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # stops a write as a full disk does
    try:
        with pytest.raises((OSError, RuntimeError)):
            AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(4_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path, weights_only=True) == {"count": 0}
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_trainer_writes_atomically_unless_told_otherwise(tmp_path: Path) -> None:
    class Own(TorchCheckpointIO):
        pass

    for plugins, expected in (([], AtomicCheckpointIO), ([Own()], Own)):
        run = trainer(tmp_path, max_steps=1, plugins=plugins)
        run.fit(classifier(), loader(40, 20))
        assert type(run.strategy.checkpoint_io) is expected


def test_a_checkpoint_without_checksums_is_read_and_torch_is_left_as_it_was(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"weight": torch.arange(1000.0)}, tmp_path / "a.ckpt")
    assert torch.equal(torch.load(tmp_path / "a.ckpt", weights_only=True)["weight"], torch.arange(1000.0))
    assert torch.serialization.get_crc32_options() is True

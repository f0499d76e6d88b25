"""What a user passes that cannot work is one line; a block that is frozen rests."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR, StepLR

import ff_lightning as ff
from ff_lightning.callbacks import BestCheckpoint, MonitorCheck
from ff_lightning.cli.parser import explain, lost_rank
from ff_lightning.cli.tables import as_text
from tests.attacks.spoiling import RECIPES
from tests.command_line import error_of
from tests.training import classifier, loader, trainer

BUILT = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": BUILT}, r"Passed `optimizer=SGD\(…\)`. Every block gets one of its own"),
        ({"lr_scheduler": StepLR(BUILT, 3)}, r"Passed `lr_scheduler=StepLR\(…\)`"),
        ({"optimizer": torch.optim.LBFGS}, "It computes the loss of a batch several times a step"),
        ({"optimizer": lambda parameters: 3}, "It must build an optimizer"),
        ({"optimizer": partial(SGD, learning_rate=1)}, "cannot be built: .*learning_rate"),
        ({"lr_scheduler": OneCycleLR}, "cannot be built: .*max_lr"),
        ({"lr_scheduler": partial(OneCycleLR, max_lr=0.1, total_steps=2)}, "as many steps as the training has updates"),
    ],
)
def test_what_cannot_train_a_block_is_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ff.InputError, match=message):
        trainer(tmp_path, max_steps=4).fit(classifier(1, **arguments), loader(100, 20))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (EarlyStopping("val/acuracy"), "Passed `monitor=val/acuracy` to `EarlyStopping`.*there is val/accuracy"),
        (EarlyStopping("train_loss"), "Passed `monitor=train_loss` to `EarlyStopping`.*train/loss"),
        (ModelCheckpoint(monitor="val_loss"), "to `ModelCheckpoint`"),
        (BestCheckpoint("val/acc"), "to `BestCheckpoint`"),
        (BestCheckpoint("train/loss"), None),
        (BestCheckpoint(), None),
    ],
)
def test_a_misspelt_monitor_is_named_with_those_like_it(
    callback: pl.Callback, message: str | None, tmp_path: Path
) -> None:
    run = trainer(tmp_path, callbacks=[MonitorCheck(), callback], enable_checkpointing=None, log_every_n_steps=1)
    fit = partial(run.fit, classifier(1), loader(60, 20), loader(20, 20))
    if message is None:
        fit()
        return
    with pytest.raises(ff.InputError, match=message):
        fit()
    assert run.global_step == (3 if "train_loss" in message else 0), "at the first validation that can tell"


def test_a_missing_package_of_a_logger_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", *RECIPES["classifier"], "--trainer.default_root_dir", str(tmp_path)]
    assert "Requirement 'comet-ml" in error_of(capsys, *words, "--trainer.logger", "CometLogger")


def test_names_that_are_no_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"a\xff.png")
    assert "no UTF-8" in error_of(capsys, "report", name)
    assert as_text([name, "=1"]) == ["a\\xff.png", "'=1"]


def test_what_the_system_says_is_one_line() -> None:
    for error in (FileExistsError(17, "File exists", "a"), OSError(28, "No space left on device")):
        assert str(explain(error)).startswith(error.strerror)
    assert explain(ModuleNotFoundError("No module named 'x'", name="x")) == (
        "The package `x` is missing, and needed here. Install it."
    )
    assert explain(ModuleNotFoundError("No module named", name="ff_lightning.x")) is None, "is a bug of ours"
    assert explain(RuntimeError("shapes")) is None
    assert lost_rank(RuntimeError("Connection closed by peer")) is None, "nobody else is there"
    assert "gone or hangs (socket has timed out)" in str(
        lost_rank(torch.distributed.DistNetworkError("The client socket has timed out after 20000ms"))
    )


def weights(module: ff.FFLightningModule, block: int) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.network[block].parameters()])


@pytest.mark.parametrize("update", ["streamed", "fused"])
@pytest.mark.parametrize("frozen", [{0}, {1, 2}, {0, 1, 2}])
def test_a_frozen_block_rests(frozen: set[int], update: str, tmp_path: Path) -> None:
    module = classifier(3, update=update)
    for index in frozen:
        module.network[index].requires_grad_(False)
    before = [weights(module, index) for index in range(3)]
    trainer(tmp_path, max_steps=3).fit(module, loader(100, 20))
    assert {index for index in range(3) if torch.equal(before[index], weights(module, index))} == frozen


class FreedLater(BaseFinetuning):
    """Frees the first block at the second epoch, as Lightning's finetuning does: it asks every optimizer to take it."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.network[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.network[0], optimizer)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_block_learns_again_when_it_is_freed(tmp_path: Path) -> None:
    module, seen = classifier(2), []
    before = weights(module, 0)

    class Look(pl.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            seen.append(torch.equal(before, weights(module, 0)))
            assert [len(optimizer.param_groups) for optimizer in module.block_optimizers] == [1, 1]

    trainer(tmp_path, max_epochs=2, callbacks=[FreedLater(), Look()]).fit(module, loader(60, 20))
    assert seen == [True, False]

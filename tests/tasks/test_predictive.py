"""Predictive FF on real digits: it classifies, reconstructs and samples, resumes exactly, and draws what it makes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

import ff_lightning as ff
from ff_lightning.callbacks import GeneratedPictures
from ff_lightning.data import ImageDataModule
from ff_lightning.readouts import ChosenBlocks, label_goodness
from ff_lightning.schedules import HoldThenDecay
from tests.tasks import rank_cases
from tests.tasks.rank_cases import predictive
from tests.training import assert_same_weights, loader, trainer, weights


def test_it_learns_to_tell_digits_apart_and_to_make_them(tmp_path: Path) -> None:
    module = predictive(100, lr_scheduler=partial(HoldThenDecay, hold=0.0))
    run = trainer(tmp_path, max_epochs=8, num_sanity_val_steps=0, check_val_every_n_epoch=8)
    data = ImageDataModule("digits", batch_size=100)
    run.fit(module, data)
    assert run.callback_metrics["val/accuracy"] > 0.85
    assert run.callback_metrics["val/head_accuracy"] > 0.5
    assert "val/separation/block_1" in run.callback_metrics
    x, y = (torch.cat(column) for column in zip(*data.val_dataloader(), strict=True))
    spread = float((x - x.mean(0)).square().flatten(1).sum(1).mean())
    assert run.callback_metrics["val/reconstruction_error"] < 0.5 * spread
    assert run.callback_metrics["val/reconstruction_error_from_top"] < 0.8 * spread
    labels = torch.arange(10).repeat_interleave(20)
    means = torch.stack([x[y == c].mean(0).flatten() for c in range(10)])
    nearest = torch.cdist(module.sample(labels), means).argmin(1)
    assert (nearest == labels).float().mean() > 0.8


def test_blocks_are_chosen_by_what_validation_finds(tmp_path: Path) -> None:
    module = predictive(40, readout=ChosenBlocks(2))
    run = trainer(tmp_path, max_epochs=3, num_sanity_val_steps=0, check_val_every_n_epoch=3)
    data = ImageDataModule("digits", batch_size=100)
    run.fit(module, data)
    x, y = (torch.cat(column) for column in zip(*data.val_dataloader(), strict=True))
    goodness = label_goodness(module.network, x, 10)
    right = {ends: int((goodness[slice(*ends)].sum(0).argmax(1) == y).sum()) for ends in ((0, 1), (1, 2), (0, 2))}
    assert right[tuple(module.readout.chosen.tolist())] == max(right.values()) > 0.3 * len(y)
    assert right[0, 1] < max(right.values()), "the first block alone is what nothing observed would choose"


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_resume_equals_never_stopped(tmp_path: Path) -> None:
    data = partial(ImageDataModule, "digits", batch_size=300)
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    whole = predictive()
    trainer(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=[saved], limit_val_batches=0).fit(
        whole, data()
    )
    torch.manual_seed(999)  # nothing may depend on torch's own state
    again = predictive()
    again.seed = 123
    rest = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    rest.fit(again, data(), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True)
    assert_same_weights(weights(whole), weights(again))


def test_two_ranks_equal_one_process(two_ranks_folder: Path, tmp_path: Path) -> None:
    """Both circuits and the prior, which follows the latent states of all ranks."""
    one = rank_cases.fit(tmp_path, "predictive", ranks=1)
    for rank in range(2):
        two = torch.load(two_ranks_folder / "tasks" / f"predictive, rank {rank}.pt", weights_only=True)
        assert_same_weights(one, two, rtol=1e-9, atol=1e-12)


def test_every_module_learns_at_every_step_and_in_bf16(tmp_path: Path) -> None:
    module = predictive()
    before = weights(module)
    trainer(tmp_path, precision="bf16-mixed", max_steps=1, limit_val_batches=0).fit(module, loader(100, 100))
    changed = {name for name, value in weights(module).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.endswith(".theta")}
    counts = {int(state["step"]) for optimizer in module.optimizers() for state in optimizer.state.values()}
    assert counts == {1, module.network.steps}, "once a batch, or at every step of settling"


def test_what_is_generated_is_drawn_and_given_to_the_logger(tmp_path: Path) -> None:
    module, logger = predictive(), TensorBoardLogger(tmp_path, name="", version="")
    run = trainer(tmp_path, callbacks=[GeneratedPictures()], limit_val_batches=0, logger=logger)
    data = ImageDataModule("digits", batch_size=300)
    run.fit(module, data)
    run.test(module, data, verbose=False)
    assert (tmp_path / "pictures" / "generated.png").stat().st_size > 10_000
    assert b"pictures/generated" in b"".join(path.read_bytes() for path in tmp_path.glob("events.out.tfevents.*"))


def test_a_twin_draws_nothing_and_trains_the_pass_upwards(tmp_path: Path) -> None:
    network = predictive().network
    before = weights(network)
    twin = ff.BackpropTwin(network, optimizer=partial(torch.optim.Adam, lr=1e-3))
    run = trainer(tmp_path, callbacks=[GeneratedPictures()], max_steps=2, limit_val_batches=0)
    run.fit(twin, loader(200, 100))
    run.test(twin, loader(100, 100), verbose=False)
    assert not (tmp_path / "pictures").exists()
    trained = {name for name, value in weights(network).items() if not torch.equal(value, before[name])}
    assert trained == {f"blocks.{index}.layer.below.{part}" for index in (0, 1) for part in ("weight", "bias")}

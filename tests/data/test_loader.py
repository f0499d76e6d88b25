from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ff_lightning.data.augment import ShiftAndFlip
from ff_lightning.data.loader import Images, MemoryLoader, ShuffledLoader
from ff_lightning.data.sources import Digits
from ff_lightning.errors import InputError

TEST = Digits().read("test")  # 360 images


def numbered(size: int) -> Images:
    """Images whose label is their row, to follow them."""
    return Images(TEST.pixels[:size], torch.arange(size), TEST.peak)


def rows(loader: MemoryLoader) -> list[list[int]]:
    return [y.tolist() for _, y in loader]


def flat(loader: MemoryLoader) -> list[int]:
    return [row for batch in rows(loader) for row in batch]


def test_batches_are_the_images_scaled_to_one() -> None:
    x, y = next(iter(MemoryLoader(TEST, batch_size=50)))
    assert (x.shape, x.dtype, y.dtype) == ((45, 1, 8, 8), torch.float32, torch.int64)
    assert torch.equal(x * 16, TEST.pixels[:45].float())
    assert x.max() == 1
    assert torch.equal(y, TEST.labels[:45])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("size", [3, 8, 201, 360])
def test_evaluation_sees_each_image_once(size: int, batch_size: int, world_size: int) -> None:
    loaders = [
        MemoryLoader(numbered(size), batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [rows(loader) for loader in loaders]
    assert {len(each) for each in batches} == {len(loaders[0])}
    sizes = {len(batch) for each in batches for batch in each}
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size + (batch_size == 1 or size < 2 * world_size)
    in_turn = [row for step in zip(*batches, strict=True) for batch in step for row in batch]
    assert in_turn == list(range(size))


@pytest.mark.parametrize(("size", "world_size"), [(200, 2), (203, 2), (203, 3), (245, 3), (360, 4)])
def test_ranks_cut_the_global_batch(size: int, world_size: int) -> None:
    images, augment = numbered(size), ShiftAndFlip(shift=1, flip=True)
    together = list(ShuffledLoader(images, batch_size=20 * world_size, augment=augment))
    shares = [
        list(ShuffledLoader(images, batch_size=20, augment=augment, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    lost = size % (20 * world_size) % world_size
    for whole, *parts in zip(together, *shares, strict=True):
        assert len({len(y) for _, y in parts}) == 1
        kept = len(whole[1]) - (lost if len(whole[1]) < 20 * world_size else 0)
        assert torch.equal(torch.cat([y for _, y in parts]), whole[1][:kept])
        if kept == len(whole[1]):
            assert torch.equal(torch.cat([x for x, _ in parts]), whole[0])


def test_last_batch_that_cannot_be_shared_is_left_out() -> None:
    loaders = [ShuffledLoader(numbered(41), batch_size=10, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(loader) for loader in loaders] == [2, 2]
    assert [[len(batch) for batch in rows(loader)] for loader in loaders] == [[10, 10], [10, 10]]


def test_each_epoch_has_every_image_in_a_new_order_of_its_seed() -> None:
    loader, again = (ShuffledLoader(numbered(100), batch_size=30, seed=5) for _ in range(2))
    epochs = [flat(loader) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(100))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs == [flat(again) for _ in range(3)]
    assert epochs[0] != flat(ShuffledLoader(numbered(100), batch_size=30, seed=6))


def test_augmentation_differs_between_epochs_and_batches() -> None:
    same = Images(TEST.pixels[:1].expand(200, -1, -1, -1), torch.arange(200), 16)
    loader = ShuffledLoader(same, batch_size=100, augment=ShiftAndFlip(shift=2, flip=True))
    first, second, third, fourth = [x for _ in range(2) for x, _ in loader]
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)
    assert not torch.equal(second, fourth)


def test_epoch_can_be_chosen_before_the_first_batch_only() -> None:
    counted, chosen = (ShuffledLoader(numbered(50), batch_size=10) for _ in range(2))
    epochs = [rows(counted) for _ in range(4)]
    chosen.sampler.set_epoch(2)
    assert rows(chosen) == epochs[2]
    chosen.sampler.set_epoch(7)
    assert rows(chosen) == epochs[3]


def stream(loader: ShuffledLoader, batches: int) -> list[tuple[Tensor, Tensor]]:
    """Take so many batches over as many epochs as it needs."""
    taken: list[tuple[Tensor, Tensor]] = []
    while len(taken) < batches:
        for batch in loader:
            taken.append(batch)
            if len(taken) == batches:
                break
    return taken


@pytest.mark.parametrize("after", [1, 4, 5, 6, 10, 13])
def test_state_resumes_order_and_augmentation_on_any_number_of_ranks(after: int) -> None:
    images, augment = numbered(100), ShiftAndFlip(shift=1)
    full = stream(ShuffledLoader(images, batch_size=20, augment=augment), 15)
    interrupted = ShuffledLoader(images, batch_size=10, augment=augment, rank=1, world_size=2)
    stream(interrupted, after)
    resumed = ShuffledLoader(images, batch_size=20, augment=augment)
    resumed.load_state_dict(interrupted.state_dict())
    for (x, y), (expected_x, expected_y) in zip(stream(resumed, 15 - after), full[after:], strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(y, expected_y)


def test_state_of_other_batches_is_refused_within_an_epoch_only() -> None:
    loader = ShuffledLoader(numbered(100), batch_size=20)
    stream(loader, 2)
    with pytest.raises(InputError, match=r"'images a batch': 20.*'images a batch': 25"):
        ShuffledLoader(numbered(100), batch_size=25).load_state_dict(loader.state_dict())
    stream(loader, 5)
    ShuffledLoader(numbered(100), batch_size=25).load_state_dict(loader.state_dict())


@pytest.mark.parametrize("kind", [MemoryLoader, ShuffledLoader])
def test_fewer_images_than_ranks_are_refused(kind: type[MemoryLoader]) -> None:
    with pytest.raises(InputError, match="3 images cannot be shared by 4 processes"):
        kind(numbered(3), batch_size=1, world_size=4)


class Recorder(pl.LightningModule):
    """Writes down the rows of each batch and steps one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch[1].tolist())
        return self.weight * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveIn(Callback):
    """Saves a checkpoint in one hook at one step."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        def save(trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == step and not path.exists():
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


def seen(checkpoint: Path | None = None, callbacks: list[Callback] | None = None, **trainer: Any) -> list[list[int]]:
    module = Recorder()
    pl.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **trainer,
    ).fit(
        module,
        ShuffledLoader(numbered(45), batch_size=10, limit_batches=trainer.get("limit_train_batches", 1.0)),
        MemoryLoader(numbered(20), batch_size=10),
        ckpt_path=checkpoint,
    )
    return module.seen


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_end", 3),
        ("on_train_batch_end", 5),
        ("on_train_batch_end", 8),
        ("on_validation_end", 5),
        ("on_train_epoch_end", 5),
        ("on_train_epoch_end", 10),
    ],
)
@pytest.mark.parametrize(
    "trainer",
    [{"max_epochs": 3}, {"max_steps": 15, "max_epochs": -1}],
    ids=["epochs", "steps"],
)
def test_trainer_resumes_at_the_next_batch(hook: str, step: int, trainer: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "at.ckpt"
    full = seen(callbacks=[SaveIn(hook, step, path)], **trainer)
    assert len(full) == 15
    assert seen(path, **trainer) == full[step:]


@pytest.mark.parametrize(("hook", "step"), [("on_train_batch_end", 4), ("on_train_epoch_end", 8)])
def test_trainer_resumes_with_limited_epochs(hook: str, step: int, tmp_path: Path) -> None:
    path, trainer = tmp_path / "at.ckpt", {"max_steps": 12, "max_epochs": -1, "limit_train_batches": 4}
    full = seen(callbacks=[SaveIn(hook, step, path)], **trainer)
    assert seen(path, **trainer) == full[step:]


@pytest.mark.parametrize("step", [3, 5, 8])
def test_run_that_stopped_at_max_steps_can_be_prolonged(step: int, tmp_path: Path) -> None:
    path = tmp_path / "at.ckpt"
    full = seen(max_steps=15)
    first = seen(callbacks=[SaveIn("on_train_end", step, path)], max_steps=step)
    assert first + seen(path, max_steps=15) == full

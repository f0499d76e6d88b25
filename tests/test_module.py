"""``FFLightningModule``: subclassing, randomness, exact resume, safe checkpoints, clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAUROC

import ff_lightning as ff
from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import Softmax
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import DivergedError
from ff_lightning.goodness import ChannelGroups
from ff_lightning.losses import MovingThresholdLoss, SymBa
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import MLP, DenseReLU, RecurrentMLP
from ff_lightning.schedules import HoldThenDecay
from ff_lightning.signals import Signal
from ff_lightning.stacks import BlockStack
from tests.training import ADAM, assert_same_weights, classifier, digits, loader, mlp, trainer, weights


class AnomalyDetector(ff.FFLightningModule):
    """The subclass of the design document: flags samples whose goodness is low."""

    def __init__(self, network: ff.BlockStack, noise: float = 1.0, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        self.noise, self.auroc = noise, BinaryAUROC()

    def pairs(self, batch: Any) -> tuple[Tensor, Tensor]:
        x, _ = batch
        return x, x + self.noise * torch.randn(x.shape, generator=self.generator(), device=x.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, is_anomaly = batch
        self.auroc(-self.network.goodness(x).sum(0), is_anomaly)
        self.log("val/auroc", self.auroc, prog_bar=True)


def test_a_new_task_is_a_few_lines(tmp_path: Path) -> None:
    x, _ = digits()
    noisy = x[1400:] + torch.randn(x[1400:].shape, generator=torch.Generator().manual_seed(1))
    mixed = TensorDataset(torch.cat([x[1400:], noisy]), torch.tensor([0] * 397 + [1] * 397))
    task = AnomalyDetector(mlp(2, 64, num_classes=None), optimizer=ADAM)
    run = trainer(tmp_path, max_epochs=5)
    run.fit(task, loader(1400, 50), DataLoader(mixed, batch_size=794))
    assert run.callback_metrics["val/auroc"] > 0.95
    assert task.hparams["noise"] == 1.0


def resumable(seed: int = 0) -> tuple[ff.FFClassifier, ImageDataModule]:
    """A classifier with all the state there is: moving θ, peer means, model-drawn negatives, schedules."""
    network = mlp(2, 16, loss=MovingThresholdLoss(), peer_weight=0.1)
    module = classifier(
        network=network, negatives=HardWrongLabel(0.5), lr_scheduler=partial(HoldThenDecay, warmup=0.1, hold=0.3)
    )
    module.seed = seed
    return module, ImageDataModule("digits", batch_size=100, shift=1)


@pytest.mark.parametrize("at", [5, 15, 30])
def test_resume_equals_never_stopped(tmp_path: Path, at: int) -> None:
    """15 batches an epoch: a resume in mid-epoch, at the end of the first epoch, and of the second."""
    module, data = resumable()
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=at, save_top_k=-1)
    whole = trainer(tmp_path, max_epochs=3, enable_checkpointing=True, callbacks=[saved], num_sanity_val_steps=0)
    whole.fit(module, data)
    assert whole.global_step == 3 * len(data.train_dataloader())

    torch.manual_seed(999)  # nothing may depend on torch's own state
    again, data = resumable(seed=123)
    callbacks = [ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=at, save_top_k=-1)]
    rest = trainer(tmp_path, max_epochs=3, enable_checkpointing=True, callbacks=callbacks, num_sanity_val_steps=0)
    rest.fit(again, data, ckpt_path=tmp_path / f"step={at}.ckpt", weights_only=True)
    assert rest.global_step == whole.global_step
    assert_same_weights(weights(module), weights(again))
    for ours, theirs in zip(whole.optimizers, rest.optimizers, strict=True):
        for a, b in zip(ours.state.values(), theirs.state.values(), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)
    assert [c.scheduler.state_dict() for c in whole.lr_scheduler_configs] == [
        c.scheduler.state_dict() for c in rest.lr_scheduler_configs
    ]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("rest_in", ["the same process", "a trainer that saves at once"])
def test_resume_between_batches_that_share_an_update(tmp_path: Path, rest_in: str) -> None:
    """Gradients that wait for their update are kept, so a stop between them changes nothing."""

    class SaveAt(pl.Callback):
        def on_train_batch_end(self, run: pl.Trainer, *rest: Any) -> None:
            if rest[-1] == 6:  # two updates of 3 batches, and one batch more
                run.save_checkpoint(tmp_path / "between.ckpt")

    def fit(callbacks: list[pl.Callback], seed: int, **resume: Any) -> ff.FFClassifier:
        module, data = resumable(seed)
        module.accumulate_batches = 3
        saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        run = trainer(tmp_path, enable_checkpointing=saves, callbacks=callbacks, num_sanity_val_steps=0)
        run.fit(module, data, **resume)
        return module

    whole = fit([SaveAt()], 0)
    resume = {"ckpt_path": tmp_path / "between.ckpt", "weights_only": True}
    if rest_in == "a trainer that saves at once":  # with the count of updates at 2, it does after one more batch
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        fit([saver], 1, **resume)
        resume["ckpt_path"] = tmp_path / "step=2.ckpt"
    assert_same_weights(weights(whole), weights(fit([], 2, **resume)))


@pytest.mark.parametrize("loaded_by", ["a validation", "hand"])
def test_a_new_training_begins_without_gradients_that_waited(tmp_path: Path, loaded_by: str) -> None:
    """They belong to the training that was stopped, not to one that begins with its weights."""

    def part(steps: int) -> pl.Trainer:
        return trainer(tmp_path, max_steps=steps, num_sanity_val_steps=0, limit_val_batches=1)

    class SaveAt(pl.Callback):
        def on_train_batch_end(self, run: pl.Trainer, *rest: Any) -> None:
            if rest[-1] == 3:
                run.save_checkpoint(tmp_path / "between.ckpt")

    stopped, data = resumable(0)
    stopped.accumulate_batches = 3
    run = trainer(tmp_path, max_steps=2, callbacks=[SaveAt()], num_sanity_val_steps=0, limit_val_batches=1)
    run.fit(stopped, data)
    kept = torch.load(tmp_path / "between.ckpt", weights_only=True)
    assert kept["ff_lightning"]["gradients"], "a batch waits for its update"
    ends = []
    for clean in (False, True):
        module, data = resumable(1)
        if clean:
            module.load_state_dict(kept["state_dict"])
        elif loaded_by == "hand":
            state = module.state_dict() | kept["state_dict"]
            module.load_state_dict(state)
            module.on_load_checkpoint(kept)
        else:
            part(1).validate(module, data, ckpt_path=tmp_path / "between.ckpt", weights_only=True, verbose=False)
        module.seed = 0
        part(1).fit(module, data)
        ends.append(weights(module))
    assert_same_weights(*ends)


def test_generator_depends_on_seed_batch_and_stream_alone() -> None:
    module = classifier()
    first = torch.rand(3, generator=module.generator())
    assert torch.equal(first, torch.rand(3, generator=module.generator()))
    assert not torch.equal(first, torch.rand(3, generator=module.generator(stream=1)))
    module._batch_idx, module.accumulate_batches = 1, 2
    assert not torch.equal(first, torch.rand(3, generator=module.generator()))


def test_checkpoint_holds_no_pickled_object(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=1)
    run.fit(classifier(clip_norm=1.0), loader(40, 20))
    run.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]["clip_norm"] == 1.0
    loaded = ff.FFClassifier.load_from_checkpoint(tmp_path / "a.ckpt", network=mlp(), weights_only=True)
    assert loaded.clip_norm == 1.0
    assert_same_weights(weights(run.lightning_module), weights(loaded))


@pytest.mark.parametrize("flags", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 1.0}])
def test_trainer_flags_are_refused_by_our_name(tmp_path: Path, flags: dict[str, Any]) -> None:
    ours = {"accumulate_grad_batches": "accumulate_batches", "gradient_clip_val": "clip_norm"}
    (name,) = flags
    with pytest.raises(ff.InputError, match=rf"{name}=.*pass `{ours[name]}` to the module"):
        trainer(tmp_path, **flags).fit(classifier(), loader(40, 20))


def test_saving_by_the_clock_is_refused(tmp_path: Path) -> None:
    """Lightning would save nothing, and not say so."""
    saver = ModelCheckpoint(tmp_path, train_time_interval=timedelta(minutes=5))
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[saver])
    with pytest.raises(ff.InputError, match=r"train_time_interval=0:05:00.*pass `every_n_train_steps`"):
        run.fit(classifier(), loader(40, 20))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_batch_is_named_and_the_checkpoint_survives(tmp_path: Path, bad: float) -> None:
    x, y = digits(100)
    x[71, 5] = bad  # batch 3 of 20
    data = DataLoader(TensorDataset(x, y), batch_size=20)
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1)
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[saved])
    with pytest.raises(ff.InputError, match="Training batch 3 of epoch 0 holds NaN or infinite values"):
        run.fit(classifier(), data)
    assert torch.load(saved.best_model_path, weights_only=True)["global_step"] == 3


def test_a_diverged_training_writes_no_checkpoint(tmp_path: Path) -> None:
    class Explodes(SymBa):
        def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:
            return super().forward(g_pos, g_neg) * torch.inf

    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[ModelCheckpoint(tmp_path, every_n_train_steps=1)])
    with pytest.raises(ff.InputError, match="no longer finite at step 1"):
        run.fit(classifier(network=mlp(loss=Explodes())), loader(40, 20))
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_training_that_ends_with_bad_weights_is_refused_before_anybody_writes_them(
    tmp_path: Path, epochs: int
) -> None:
    """One update an epoch, and none of its losses is looked at."""
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[saved], max_epochs=epochs)
    module = classifier()

    class Poison(pl.Callback):
        def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
            if run.current_epoch + 1 == epochs:
                module.network[1].layer.linear.weight.data[0, 0] = torch.nan

    run.callbacks.append(Poison())
    says = rf"ends at step {epochs} with weights that are NaN or infinite, such as `network\.blocks\.1\.layer\.linear\."
    with pytest.raises(DivergedError, match=says):
        run.fit(module, loader(20, 20))
    assert len(list(tmp_path.glob("*.ckpt"))) == epochs - 1


@pytest.mark.parametrize("rate", [1e30, 0.05])
def test_a_short_training_without_checkpoints_is_refused_if_it_diverged(tmp_path: Path, rate: float) -> None:
    module = classifier(optimizer=partial(torch.optim.SGD, lr=rate))
    run = trainer(tmp_path, max_steps=2, max_epochs=-1)
    if rate < 1:
        run.fit(module, loader(40, 20))
        with torch.no_grad():
            module.network[0].layer.image.weight.fill_(torch.nan)  # as a model may come from elsewhere
    with pytest.raises(DivergedError, match="with weights that are NaN or infinite"):
        trainer(tmp_path, max_steps=2, max_epochs=-1).fit(module, loader(40, 20))


@pytest.mark.parametrize("form", [tuple, list, lambda batch: {"image": batch[0], "label": batch[1]}])
def test_nan_in_what_is_predicted_is_refused(tmp_path: Path, form: Any) -> None:
    x, y = digits(60)
    whole = [form((x[:20], y[:20])), form((x[20:40], y[20:40]))]
    assert len(trainer(tmp_path).predict(classifier(), DataLoader(whole, batch_size=None))) == 2  # type: ignore[arg-type]
    x[25, 3] = torch.nan
    bad = [form((x[:20], y[:20])), form((x[20:40], y[20:40]))]
    with pytest.raises(ff.InputError, match="Prediction batch 1 holds NaN or infinite values"):
        trainer(tmp_path).predict(classifier(), DataLoader(bad, batch_size=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accumulate_batches": 0}, "`accumulate_batches` must be a whole number, at least 1"),
        ({"accumulate_batches": True}, "Passed `accumulate_batches=True`"),
        ({"clip_norm": -1.0}, "`clip_norm` must be a positive"),
        ({"update": "both"}, "`update` must be 'streamed' or 'fused'"),
        ({"optimizer": partial(torch.optim.Adam, lr=-1.0)}, "learning rate"),
        ({"optimizer": partial(torch.optim.Adam, lr=0.0)}, "learning rate"),
        ({"num_classes": 7}, r"`num_classes=7` with `MLP\(num_classes=10\)`"),
        ({"lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "other than ReduceLROnPlateau"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ff.InputError, match=message):
        trainer(tmp_path).fit(classifier(**arguments), loader(40, 20))


@pytest.mark.parametrize(
    "task", [ff.FFClassifier, ff.FFRegressor, ff.FFMultiLabel, ff.FFAnomalyDetector, ff.BackpropTwin, AnomalyDetector]
)
def test_what_is_no_network_and_what_builds_no_optimizer_is_refused(task: Any) -> None:
    with pytest.raises(ff.InputError, match=r"`network=Sequential`.*network of blocks.*`ff_lightning\.convert"):
        task(nn.Sequential(nn.Linear(64, 10)))
    built = torch.optim.SGD(nn.Linear(2, 2).parameters())
    with pytest.raises(
        ff.InputError, match=r"`optimizer=SGD\(…\)`\. Every block gets one of its own: .*functools\.partial"
    ):
        ff.FFClassifier(mlp(), optimizer=built)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(20, 64), torch.full((20,), 10), "labels from 10 to 10.*must lie in 0 to 9"),
        (torch.rand(20, 64), torch.full((20,), -1), "labels from -1 to -1"),
        (torch.rand(20, 64), torch.rand(20), "Labels must be integers"),
        (torch.rand(20, 8, 9), torch.zeros(20, dtype=torch.long), "samples of 72 values.*`in_features=64`"),
        (torch.zeros(20, 64, dtype=torch.int32), torch.zeros(20, dtype=torch.long), "must be floating point"),
    ],
)
def test_batches_that_do_not_fit(tmp_path: Path, x: Tensor, y: Tensor, message: str) -> None:
    module = classifier()
    before = weights(module)
    with pytest.raises(ff.InputError, match=message):
        trainer(tmp_path).fit(module, DataLoader(TensorDataset(x, y), batch_size=20))
    assert_same_weights(before, weights(module))


def test_a_task_without_pairs_says_so(tmp_path: Path) -> None:
    class Nothing(ff.FFLightningModule):
        pass

    with pytest.raises(ff.InputError, match="`Nothing` must define `pairs"):
        trainer(tmp_path).fit(Nothing(mlp()), loader(40, 20))


def test_repeated_blocks_are_updated_at_every_yield(tmp_path: Path) -> None:
    """A recurrent task yields a block several times a batch: each time with the weights of the update before."""
    seen: list[Tensor] = []

    class Twice(AnomalyDetector):
        repeats_blocks = True

        def local_losses(self, batch: Any) -> Iterator[ff.LocalStep]:
            for _ in range(2):
                seen.append(weights(self.network[0])["layer.2.linear.weight"])
                yield from super().local_losses(batch)

    run = trainer(tmp_path, max_steps=2)
    run.fit(Twice(MLP(64, [8], num_classes=None)), loader(40, 20))
    assert run.global_step == 2
    assert len({tuple(w.flatten().tolist()) for w in seen}) == 4
    with pytest.raises(ff.InputError, match="use 'streamed'"):
        Twice(MLP(64, [8], num_classes=None), update="fused")
    with pytest.raises(ff.InputError, match="`accumulate_batches=2` to a task that updates its blocks several times"):
        Twice(MLP(64, [8], num_classes=None), accumulate_batches=2)
    with pytest.raises(ff.InputError, match="`accumulate_batches=2` to a task that updates its blocks several times"):
        ff.FFClassifier(RecurrentMLP(64, [8, 8]), accumulate_batches=2)


def test_the_same_trainer_can_fit_again(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=1)
    module = classifier(accumulate_batches=2)
    run.fit(module, loader(40, 20))
    run.fit_loop.max_epochs = 2
    run.fit(module, loader(40, 20))
    assert isinstance(run, pl.Trainer)
    assert run.global_step == 2


def test_blocks_of_tier_t2_learn_without_negatives(tmp_path: Path) -> None:
    class Groups(ff.FFLightningModule):
        def local_losses(self, batch: Any) -> Any:
            x, y = batch
            yield from self.network.local_losses(Signal(x.flatten(1), y))

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            scores = self.network.goodness(x.flatten(1)).sum(0)
            self.log("val/accuracy", (scores.argmax(1) == y).float().mean())

    layers = [DenseReLU(64, 200), DenseReLU(200, 200)]
    stack = BlockStack([ClassBlock(layer, ChannelGroups(10), Softmax()) for layer in layers])
    run = trainer(tmp_path, max_epochs=5, num_sanity_val_steps=0)
    run.fit(Groups(stack, optimizer=partial(torch.optim.Adam, lr=3e-3)), ImageDataModule("digits", batch_size=100))
    assert run.callback_metrics["val/accuracy"] > 0.9

"""The update engine: locality, counting, streamed == fused, accumulation, clipping, precision, ranks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
)
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.candidates import Softmax
from ff_lightning.data import ImageDataModule
from ff_lightning.engine.sharding import ShardedSync
from ff_lightning.engine.sync import ExplicitSync, NoSync, gradient_sync
from ff_lightning.losses import MovingThresholdLoss, SymBa
from ff_lightning.networks import ConvNet, RecurrentMLP
from ff_lightning.readouts import LinearReadout
from ff_lightning.schedules import Greedy, HoldThenDecay, Staggered
from ff_lightning.signals import Signal, StepContext
from tests import texts
from tests.training import (
    ADAM,
    SGD,
    assert_same_weights,
    classifier,
    digits,
    loader,
    mlp,
    trainer,
    weights,
)


class Norms(pl.Callback):
    """Records the gradient norm that every optimizer step sees."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, _: Any, __: Any, optimizer: Optimizer) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))))


def fit(tmp_path: Path, module: ff.FFLightningModule, count: int = 120, batch: int = 20, **kwargs: Any) -> pl.Trainer:
    run = trainer(tmp_path, **kwargs)
    run.fit(module, loader(count, batch))
    return run


@pytest.mark.parametrize("change", ["weights", "loss", "learning rate", "depth"])
def test_locality_bit_for_bit(tmp_path: Path, change: str) -> None:
    plain, changed = classifier(), classifier(depth=4 if change == "depth" else 3)
    if change == "weights":
        with torch.no_grad():
            changed.network[2].layer.linear.weight.mul_(-3.0)
    elif change == "loss":
        changed.network[2].loss = MovingThresholdLoss()
    elif change == "learning rate":
        calls = iter([1e-3, 1e-3, 0.5])
        changed.make_optimizer = lambda parameters: torch.optim.Adam(parameters, lr=next(calls))
    for module in (plain, changed):
        fit(tmp_path, module)
    for index in range(2):
        assert_same_weights(weights(plain.network[index]), weights(changed.network[index]))
    if change != "depth":
        top = [weights(module.network[2].layer)["linear.weight"] for module in (plain, changed)]
        assert not torch.equal(*top)


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_streamed_equals_fused(tmp_path: Path, optimizer: Any, accumulate: int) -> None:
    readout = partial(LinearReadout, 32, 10)
    modules = []
    for update in ("streamed", "fused"):
        torch.manual_seed(0)
        module = classifier(
            readout=readout(), optimizer=optimizer, update=update, accumulate_batches=accumulate, clip_norm=0.1
        )
        fit(tmp_path, module)
        modules.append(weights(module))
    assert_same_weights(*modules)


@pytest.mark.parametrize("depth", [1, 4, 16])
def test_global_step_counts_updates_not_blocks(tmp_path: Path, depth: int) -> None:
    saved = ModelCheckpoint(tmp_path / "ckpt", filename="{step}", every_n_train_steps=4, save_top_k=-1)
    logger = CSVLogger(tmp_path)
    run = fit(
        tmp_path,
        classifier(depth, lr_scheduler=partial(HoldThenDecay, hold=0.0)),
        count=400,
        max_steps=10,
        max_epochs=-1,
        enable_checkpointing=True,
        logger=logger,
        log_every_n_steps=1,
        callbacks=[saved, LearningRateMonitor("step")],
    )
    assert run.global_step == 10
    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == ["step=4.ckpt", "step=8.ckpt"]
    rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    steps = [int(line.split(",")[rows[0].split(",").index("step")]) for line in rows[1:]]
    assert sorted(set(steps)) == list(range(10))
    assert sum(name.startswith("lr-Adam") for name in rows[0].split(",")) == depth


def test_accumulation_counts_updates_for_loggers(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    run = fit(
        tmp_path,
        classifier(accumulate_batches=3),
        count=140,  # 7 batches of 20: updates after 3, 6 and the ragged 7th
        max_epochs=2,
        logger=logger,
        log_every_n_steps=1,
        callbacks=[LearningRateMonitor("step")],
    )
    assert run.global_step == 6
    assert run.accumulate_grad_batches == 1, "the Trainer is left as it was"
    rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    steps = {int(line.split(",")[rows[0].split(",").index("step")]) for line in rows[1:]}
    assert max(steps) == 5


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_accumulation_equals_a_larger_batch(tmp_path: Path, clip_norm: float | None) -> None:
    class FixedNegatives(ff.FFLightningModule):
        """Negatives that do not depend on how a batch is cut."""

        def pairs(self, batch: Any) -> Any:
            return batch[0], batch[0].flip(1)

    def module(accumulate: int) -> ff.FFLightningModule:
        network = mlp(num_classes=None).double()
        return FixedNegatives(network, optimizer=SGD, accumulate_batches=accumulate, clip_norm=clip_norm)

    small, large = module(4), module(1)
    for task, batch in ((small, 10), (large, 40)):
        trainer(tmp_path, precision="64-true").fit(task, loader(140, batch, torch.float64))
    assert_same_weights(weights(small), weights(large), rtol=1e-12, atol=1e-14)


def test_clip_norm_holds_for_each_block(tmp_path: Path) -> None:
    free, clipped = Norms(), Norms()
    fit(tmp_path, classifier(), callbacks=[free])
    fit(tmp_path, classifier(clip_norm=0.01), callbacks=[clipped])
    assert len(clipped.norms) == 3 * 6
    assert max(free.norms) > 0.02
    assert max(clipped.norms) <= 0.01 * (1 + 1e-5)


def test_greedy_blocks_rest_outside_their_window(tmp_path: Path) -> None:
    seen: list[list[bool]] = []

    class Moves(pl.Callback):
        def on_train_batch_start(self, _: Any, module: ff.FFLightningModule, *__: Any) -> None:
            self.before = [weights(block) for block in module.network]

        def on_train_batch_end(self, _: Any, module: ff.FFLightningModule, *__: Any) -> None:
            after = [weights(block) for block in module.network]
            seen.append([any(not torch.equal(a[k], b[k]) for k in a) for a, b in zip(self.before, after, strict=True)])

    rates: list[list[float]] = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, run: pl.Trainer, *_: Any) -> None:
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in run.optimizers])

    module = classifier(schedule=Greedy(), lr_scheduler=partial(HoldThenDecay, hold=0.0))
    run = fit(tmp_path, module, callbacks=[Moves(), Rates()])
    assert seen == [[True, False, False]] * 2 + [[False, True, False]] * 2 + [[False, False, True]] * 2
    assert run.global_step == 6, "a resting block does not change the count"
    assert [rate[2] for rate in rates] == pytest.approx([1e-3] * 5 + [5e-4]), "each block decays in its own window"


def test_a_schedule_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(ff.InputError, match="without an end"):
        fit(tmp_path, classifier(schedule=Staggered(0.1)), max_epochs=-1, max_time="00:00:10:00")


def test_gradient_scaler_moves_once_an_update(tmp_path: Path) -> None:
    """An overflow in one block skips that block alone, and the scale is that of the whole update."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    scales: list[float] = []

    class Scales(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            scales.append(scaler.get_scale())

    norms, exact = Norms(), Norms()
    module = classifier(accumulate_batches=2, clip_norm=0.01)
    fit(tmp_path, module, plugins=[plugin], callbacks=[Scales(), norms], max_steps=3)
    fit(tmp_path, classifier(accumulate_batches=2, clip_norm=0.01), callbacks=[exact], max_steps=3)
    assert scales == [1024.0, 2048.0, 2048.0, 4096.0, 4096.0, 8192.0]
    assert norms.norms == pytest.approx(exact.norms, rel=0.05), "optimizers see unscaled, clipped gradients"


def half(scale: float = 1024.0) -> MixedPrecision:
    """Mixed precision in fp16, which Lightning offers on a CPU only when the plugin is built by hand."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_a_resumed_run_goes_on_at_the_scale_it_had(tmp_path: Path) -> None:
    ends = []
    for resume in (None, tmp_path / "step=3.ckpt"):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0 if resume is None else 1.0, growth_interval=2)
        module, saver = classifier(), ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        run = trainer(
            tmp_path,
            max_steps=6,
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
            enable_checkpointing=True,
            callbacks=[saver],
            limit_val_batches=0,
        )
        run.fit(module, ImageDataModule("digits"), ckpt_path=resume, weights_only=resume and True)
        assert run.global_step == 6
        ends.append((weights(module), scaler.state_dict()))
    assert_same_weights(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert ends[0][1]["scale"] == 8192.0
    assert torch.load(tmp_path / "step=3.ckpt", weights_only=True)["MixedPrecision"]["scale"] == 2048.0


def test_a_gradient_scaler_is_refused_where_blocks_are_repeated(tmp_path: Path) -> None:
    with pytest.raises(ff.InputError, match="use 'bf16-mixed'"):
        fit(tmp_path, ff.FFClassifier(RecurrentMLP(64, [8])), plugins=[half()], max_steps=1)


def test_overflow_in_one_block_leaves_the_others_alone(tmp_path: Path) -> None:
    class Overflow(SymBa):
        def forward(self, g_pos: torch.Tensor, g_neg: torch.Tensor) -> torch.Tensor:
            return super().forward(g_pos, g_neg) * 1e36

    plugin = half()
    module, plain = classifier(), classifier()
    module.network[1].loss = Overflow(4.0)
    before = weights(module)
    fit(tmp_path, module, plugins=[plugin], max_steps=1)
    after = weights(module)
    fit(tmp_path, plain, plugins=[half()], max_steps=1)
    for index in (0, 2):
        assert_same_weights(weights(plain.network[index]), weights(module.network[index]))
    assert torch.equal(before["network.blocks.1.layer.linear.weight"], after["network.blocks.1.layer.linear.weight"])
    assert torch.isfinite(after["network.blocks.1.layer.linear.weight"]).all()
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 512.0, "the overflow is seen, by the one scale that all blocks share"


def test_activities_that_overflow_cost_one_update_and_nothing_else(tmp_path: Path) -> None:
    """Weights, moving θ and peer means of all blocks are finite after a batch whose activities fp16 cannot hold."""

    class Spike(pl.Callback):
        def on_train_batch_start(self, _: Any, module: ff.FFLightningModule, __: Any, batch_idx: int) -> None:
            self.weight, self.theta = module.network[1].layer.linear.weight, module.network[1].threshold
            self.before, self.theta_before = self.weight.detach().clone(), self.theta.clone()
            if batch_idx == 2:
                self.weight.data.mul_(1e6)

        def on_train_batch_end(self, *_: Any) -> None:
            if float(self.weight.detach().abs().max()) > 1e3:
                seen.append(torch.equal(self.weight, self.before * 1e6) and torch.equal(self.theta, self.theta_before))
                self.weight.data.copy_(self.before)

    seen: list[bool] = []
    module = classifier(network=mlp(loss=MovingThresholdLoss(), peer_weight=0.1))
    fit(tmp_path, module, plugins=[half()], callbacks=[Spike()])
    assert seen == [True], "neither the block nor θ moved on that batch"
    assert all(torch.isfinite(value).all() for value in weights(module.network).values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true", "16-mixed"])
def test_other_precisions_train_a_language_model_as_well(tmp_path: Path, precision: str) -> None:
    losses = []
    for precise in (True, False):
        module = texts.model(network=texts.gpt(layers=2))
        setting = {"plugins": [half(64.0)]} if precision == "16-mixed" else {"precision": precision}
        run = trainer(tmp_path, **({} if precise else setting))
        run.fit(module, texts.Batches(120, 8))
        (values,) = run.validate(module, texts.Batches(64, 64, start=50_000), verbose=False)
        losses.append(values["val/loss"])
    assert losses[0] < 4.0, "it has learned something"
    assert losses[1] == pytest.approx(losses[0], abs=0.03)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_stay_close(tmp_path: Path, precision: str) -> None:
    plain, module = classifier(optimizer=SGD), classifier(optimizer=SGD)
    fit(tmp_path, plain)
    trainer(tmp_path, precision=precision).fit(
        module, loader(120, 20, torch.float64 if precision == "64-true" else torch.float32)
    )
    ours = {name: value.float() for name, value in weights(module.network).items()}
    assert_same_weights(weights(plain.network), ours, rtol=0.05, atol=0.01)


def test_strategies_that_cannot_work_are_refused() -> None:
    assert isinstance(gradient_sync(pl.Trainer(accelerator="cpu", devices=1, logger=False).strategy), NoSync)
    assert isinstance(gradient_sync(DDPStrategy()), ExplicitSync)
    with pytest.raises(ff.InputError, match=r"static_graph=True.*use `strategy='ddp'`"):
        gradient_sync(DDPStrategy(static_graph=True))
    assert isinstance(gradient_sync(ModelParallelStrategy()), ShardedSync)
    for refused in (FSDPStrategy, DeepSpeedStrategy):
        # Without what they need: a GPU for the one, an installation for the other.
        with pytest.raises(ff.InputError, match=rf"{refused.__name__}.*use `ModelParallelStrategy\(data_parallel_size"):
            gradient_sync(refused.__new__(refused))

    class Unknown(ParallelStrategy):
        pass

    Unknown.__abstractmethods__ = frozenset()
    with pytest.raises(ff.InputError, match=r"Unknown.*use `strategy='auto'` with `devices=1`, or `strategy='ddp'`"):
        gradient_sync(Unknown.__new__(Unknown))


def test_a_strategy_is_refused_before_anything_is_set_up(tmp_path: Path) -> None:
    run = trainer(tmp_path, strategy=DDPStrategy(static_graph=True, process_group_backend="gloo"))
    with pytest.raises(ff.InputError, match="static_graph=True"):
        run.fit(classifier(), loader(40, 20))
    assert not torch.distributed.is_initialized()


def pairs_of_blocks(tmp_path: Path, update: Literal["streamed", "fused"], **kwargs: Any) -> ff.FFClassifier:
    """Trained for six updates on digits in overlapping pairs."""
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), (4, 4, 4), pool_after=(1,), loss=Softmax(), overlapping=True)
    module = ff.FFClassifier(network, optimizer=SGD, update=update, **kwargs)
    x, y = digits(120)
    trainer(tmp_path).fit(module, DataLoader(TensorDataset(x.view(-1, 1, 8, 8), y), batch_size=20))
    return module


def test_pairs_of_blocks_are_updated_as_by_plain_descent(tmp_path: Path) -> None:
    trained = pairs_of_blocks(tmp_path, "streamed")
    assert_same_weights(weights(pairs_of_blocks(tmp_path, "fused")), weights(trained), atol=1e-6, rtol=1e-5)
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), (4, 4, 4), pool_after=(1,), loss=Softmax(), overlapping=True)
    optimizer = SGD(network.parameters())
    x, y = digits(120)
    for number, (images, labels) in enumerate(zip(x.view(6, 20, 1, 8, 8), y.view(6, 20), strict=True)):
        optimizer.zero_grad()
        for step in network.local_losses(Signal(images, labels), StepContext(update=number)):
            step.loss.backward()
        optimizer.step()
    assert_same_weights(weights(network), weights(trained.network), atol=1e-6, rtol=1e-5)


def test_a_block_of_a_pair_has_its_turn_alone(tmp_path: Path) -> None:
    module = pairs_of_blocks(tmp_path, "streamed", schedule=Greedy())
    torch.manual_seed(0)
    before = weights(ConvNet((1, 8, 8), (4, 4, 4), pool_after=(1,), loss=Softmax(), overlapping=True))
    moved = {name.split(".")[1] for name, p in module.network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"0", "1", "2"}, "the middle one, too, which never stands without a neighbour"
    assert all(parameter.grad is None for parameter in module.network.parameters())

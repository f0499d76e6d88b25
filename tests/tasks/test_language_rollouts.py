"""FFLanguageModel with networks that judge the token in their input, and with rollouts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ff_lightning.callbacks import LocalityMonitor
from ff_lightning.data.strings import StringsDataModule
from ff_lightning.errors import InputError
from ff_lightning.language.hinton import HintonGPT, HintonMLP
from ff_lightning.language.rollouts import SleepBuffer
from ff_lightning.language.stack import TokenStack
from ff_lightning.language.window_mlp import WindowMLP
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.schedules import RestOnPlateau
from ff_lightning.tasks.language import DREAMS, FFLanguageModel
from ff_lightning.tasks.twin import BackpropTwin
from tests.texts import CONTEXT, Batches, awake, gpt, hinton_gpt, hinton_mlp, model, text, window_mlp, windows
from tests.training import ADAM, assert_same_weights, trainer, weights


def loss_of(module: FFLanguageModel | BackpropTwin, tmp_path: Path) -> float:
    (values,) = trainer(tmp_path).validate(module, Batches(64, 32, 4000), verbose=False)
    return float(values["val/loss"])


def sleep(context: int = CONTEXT, **options: Any) -> SleepBuffer:
    return SleepBuffer(context, **{"sequences": 12, "refresh_every": 3, "prefix": (3, 6), "rows": 4} | options)


JUDGES: dict[str, Any] = {
    "hinton gpt": lambda: model(network=hinton_gpt()),
    "hinton mlp": lambda: model(network=hinton_mlp(), optimizer=ADAM),
    "hinton mlp, rollouts": lambda: model(network=hinton_mlp(teacher_forced=False), rollouts=sleep(), optimizer=ADAM),
    "hinton gpt, both": lambda: model(network=hinton_gpt(), rollouts=sleep()),
    "window mlp": lambda: model(network=window_mlp(), optimizer=ADAM),
    "gpt, rollouts": lambda: model(network=gpt(dream_weight=0.3), rollouts=sleep(12)),
}


@pytest.mark.parametrize("arm", JUDGES)
def test_judges_train_the_same_weights_streamed_and_fused(arm: str, tmp_path: Path) -> None:
    """Whatever they make up themselves: it is made before the first block is updated."""
    ended = []
    for update in ("streamed", "fused"):
        module = JUDGES[arm]()
        module.update, module.clip_norm = update, 1.0
        before = weights(module)
        trainer(tmp_path).fit(module, Batches(40, 8))
        ended.append(weights(module))
        for name, _ in module.named_parameters():
            assert not torch.equal(before[name], ended[-1][name]), name
    assert_same_weights(*ended)


@pytest.mark.parametrize(
    ("arm", "at"), [("hinton mlp, rollouts", 4), ("hinton mlp, rollouts", 7), ("gpt, rollouts", 7)]
)
def test_resume_with_rollouts_equals_never_stopped(arm: str, at: int, tmp_path: Path) -> None:
    """5 batches an epoch and a refresh every 3: in the middle of an epoch, and between two refreshes."""

    def one(seed: int) -> tuple[FFLanguageModel, StringsDataModule]:
        module = JUDGES[arm]()
        module.seed = seed
        symbols = "".join(map(chr, range(32, 32 + text()[1])))  # as many as the networks of these tests have
        return module, StringsDataModule("pydoc", symbols=symbols, length=CONTEXT + 1, strings=40, batch_size=8)

    names: dict[str, Any] = {"filename": "{step}", "every_n_train_steps": at, "save_top_k": -1}
    flags: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True, "limit_val_batches": 0}
    module, data = one(0)
    trainer(tmp_path, callbacks=[ModelCheckpoint(tmp_path, **names)], **flags).fit(module, data)
    assert int(module.rollouts.refreshed_at) == 9
    torch.manual_seed(999)
    again, data = one(123)
    rest = trainer(tmp_path, callbacks=[ModelCheckpoint(tmp_path, **names)], **flags)
    rest.fit(again, data, ckpt_path=tmp_path / f"step={at}.ckpt", weights_only=True)
    assert rest.global_step == 10
    assert_same_weights(weights(module), weights(again))


@pytest.mark.parametrize("arm", ["hinton gpt", "hinton mlp, rollouts"])
def test_judges_learn_a_real_text(arm: str, tmp_path: Path) -> None:
    """The readout falls below the unigram; rollouts, easier to tell than single tokens, have less goodness."""
    loss = MovingThresholdLoss(scale=4.0)
    rollouts = sleep(sequences=32, refresh_every=10, rows=16) if "rollouts" in arm else None
    network = hinton_mlp(loss=loss, widths=[64, 64], teacher_forced=False) if rollouts else hinton_gpt(loss=loss)
    module = model(network=network, rollouts=rollouts, optimizer=partial(torch.optim.Adam, lr=0.01))
    network.set_unigram(torch.bincount(text()[0], minlength=text()[1]))
    before = loss_of(module, tmp_path)
    run = trainer(tmp_path, log_every_n_steps=1)
    run.fit(module, Batches(960, 32))
    assert loss_of(module, tmp_path) < before - 0.08
    if rollouts:
        assert all(run.callback_metrics[f"train/separation/block_{index}"] > 0.53 for index in range(2))
        assert all(run.callback_metrics[f"train/goodness_gap/block_{index}"] > 0.01 for index in range(2))


def test_the_twin_of_a_judge_learns(tmp_path: Path) -> None:
    for network in (hinton_gpt(), hinton_mlp(teacher_forced=False)):
        twin = BackpropTwin(network, optimizer=ADAM)
        before = loss_of(twin, tmp_path)
        trainer(tmp_path).fit(twin, Batches(320, 32))
        assert loss_of(twin, tmp_path) < before - 0.1


def test_rollouts_continue_the_first_batch_before_any_update(tmp_path: Path) -> None:
    module, other = (model(network=awake(hinton_gpt()), rollouts=sleep(refresh_every=100)) for _ in range(2))
    trainer(tmp_path).fit(module, Batches(40, 8))
    other.rollouts.refresh(other.network, windows(8)[:, :-1], 0, other.generator(DREAMS))
    assert torch.equal(module.rollouts.tokens, other.rollouts.tokens)
    assert int(module.rollouts.refreshed_at) == 0


@pytest.mark.parametrize("look", ["locality", "plateau"])
@pytest.mark.parametrize("arm", ["hinton mlp, rollouts", "gpt, rollouts"])
def test_a_look_makes_no_rollouts(arm: str, look: str, tmp_path: Path) -> None:
    """Neither before the first training batch nor after update 3, when a refresh is due, does one come of a look."""
    ended = []
    for looked in (False, True):
        module = JUDGES[arm]()
        if looked and look == "plateau":
            module.schedule = RestOnPlateau(9)
        callbacks = [LocalityMonitor(every=1)] if looked and look == "locality" else []
        run = trainer(tmp_path, max_epochs=2, callbacks=callbacks, val_check_interval=3)
        run.fit(module, Batches(32, 8), Batches(16, 8, 5000))
        ended.append(weights(module))
        assert int(module.rollouts.refreshed_at) == 6
    assert_same_weights(*ended)


@pytest.mark.parametrize(
    ("network", "rollouts", "message"),
    [
        (gpt, sleep, "does not judge sequences.*`dream_weight`.*`HintonGPT`"),
        (window_mlp, sleep, "does not judge sequences"),
        (partial(gpt, dream_weight=0.1), None, "`rollouts=None`.*`SleepBuffer`.*`dream_weight`"),
        (partial(window_mlp, dream_weight=0.1), None, "`rollouts=None`"),
        (partial(hinton_gpt, teacher_forced=False), None, "`rollouts=None`.*`teacher_forced=True`"),
        (hinton_mlp, partial(sleep, CONTEXT + 1), rf"context={CONTEXT + 1}.*`context={CONTEXT}`.*not be longer"),
    ],
)
def test_rollouts_that_do_not_fit_are_refused(network: Any, rollouts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FFLanguageModel(network(), rollouts=None if rollouts is None else rollouts())


def test_a_judge_generates_and_is_evaluated_as_any_other() -> None:
    for make in (HintonGPT, HintonMLP, WindowMLP):
        sizes = {"width": 8, "layers": 1, "heads": 2} if make is HintonGPT else {"widths": [8], "window": 3}
        network: TokenStack = make(text()[1], context=CONTEXT, **sizes)
        module = model(network=awake(network))
        prompt = windows(2)[:, :4]
        for token in module.stream(prompt, CONTEXT - 4, top_k=1):
            assert torch.equal(token, module(prompt)[:, -1].argmax(-1))
            prompt = torch.cat([prompt, token.unsqueeze(1)], 1)

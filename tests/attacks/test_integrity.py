"""What is damaged or incomplete is named in one line, and never loaded."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.data.text import TextDataModule
from ff_lightning.engine.checkpoints import AtomicCheckpointIO
from ff_lightning.engine.reading import read_checkpoint
from ff_lightning.pretrained import save_pretrained
from tests.attacks.spoiling import RECIPES, WAYS, flipped, same, spoilt
from tests.command_line import error_of
from tests.training import ADAM, classifier, loader, trainer

FLIPS = 150


def test_no_flip_is_loaded_that_changes_anything(classifier_run: Path) -> None:
    content = (classifier_run / "last.ckpt").read_bytes()
    before = read_checkpoint(io.BytesIO(content))
    chance = random.Random(0)
    refused = 0
    for _ in range(FLIPS):
        refused += not unchanged(flipped(content, chance.randrange(8 * len(content))), before)
    assert refused > FLIPS / 2


def test_no_flip_of_what_names_the_records_is_loaded(classifier_run: Path) -> None:
    """The table of contents and the heads of the records, which have no checksums: of every third byte one bit."""
    content = (classifier_run / "last.ckpt").read_bytes()
    before = read_checkpoint(io.BytesIO(content))
    start = content.index(b"PK\x01\x02")
    heads = [place for place in range(start) if content[place : place + 4] == b"PK\x03\x04"]
    places = [*range(start, len(content), 3), *(head + byte for head in heads[:12] for byte in range(0, 50, 3))]
    chance = random.Random(1)
    for place in places:
        unchanged(flipped(content, 8 * place + chance.randrange(8)), before)
    entry = content.index(b"PK\x01\x02", start + 1)
    assert not unchanged(flipped(content, 8 * (entry + 38) + 4), before), "the mark of a folder"


def unchanged(content: bytes, before: Any) -> bool:
    """Whether a file is loaded, and then as it was before; it may be refused, in one line."""
    try:
        after = read_checkpoint(io.BytesIO(content))
    except ff.InputError as refusal:
        said = str(refusal)
    else:
        assert same(after, before)
        return True
    assert "\n" not in said
    return False


def test_a_damaged_record_is_named(classifier_run: Path, tmp_path: Path) -> None:
    content = bytearray((classifier_run / "last.ckpt").read_bytes())
    value = torch.load(classifier_run / "last.ckpt", weights_only=True)["state_dict"]
    weight = value["network.blocks.1.layer.linear.weight"].numpy().tobytes()
    content[content.index(weight) + len(weight) // 2] ^= 16
    (tmp_path / "x.ckpt").write_bytes(content)
    for mapped in (True, False):
        with pytest.raises(
            ff.InputError, match=r"x\.ckpt`. The file cannot be loaded safely: its record `data/\d+` is dam"
        ):
            read_checkpoint(tmp_path / "x.ckpt", mapped=mapped)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("generate", "validate", "predict")])
def test_no_way_loads_a_damaged_weight(way: str, classifier_run: Path, tmp_path: Path) -> None:
    content = (classifier_run / "last.ckpt").read_bytes()
    (tmp_path / "x.ckpt").write_bytes(flipped(content, 8 * (len(content) // 2)))
    with pytest.raises(ff.InputError):
        WAYS[way](str(tmp_path / "x.ckpt"), tmp_path)


def test_a_cut_file_is_refused(classifier_run: Path) -> None:
    content = (classifier_run / "last.ckpt").read_bytes()
    chance = random.Random(2)
    for length in [0, 1, len(content) - 1, *(chance.randrange(len(content)) for _ in range(40))]:
        with pytest.raises(ff.InputError, match=r"it is cut short, damaged, or no checkpoint|its record"):
            read_checkpoint(io.BytesIO(content[:length]))


def test_checksums_are_written_whatever_torch_was_told(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        run = trainer(tmp_path, max_steps=1)
        run.fit(classifier(1), loader(40, 20))
        run.save_checkpoint(tmp_path / "a.ckpt")
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(True)
    assert type(run.strategy.checkpoint_io) is AtomicCheckpointIO
    read_checkpoint(tmp_path / "a.ckpt")


def test_a_flip_in_a_folder_of_the_hub_is_refused(classifier_run: Path, tmp_path: Path) -> None:
    save_pretrained(classifier_run / "best.ckpt", tmp_path / "a")
    chance = random.Random(3)
    for name in ("config.json", "model.safetensors"):
        file = tmp_path / "a" / name
        content = file.read_bytes()
        for _ in range(40):
            file.write_bytes(flipped(content, chance.randrange(8 * len(content))))
            with pytest.raises(ff.InputError, match=r"^[^\n]*$"):
                ff.load(tmp_path / "a")
        file.write_bytes(content)


# What is incomplete ------------------------------------------------------------------------------------------------


def _moments(content: dict[str, Any], change: Callable[[Any], Any]) -> None:
    state = content["optimizer_states"][1]["state"][0]
    state["exp_avg"] = change(state["exp_avg"])


INCOMPLETE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no optimizer of a block": (
        lambda c: c["optimizer_states"].pop(1),
        r"its `optimizer_states` are of 1 local modules",
    ),
    "no optimizers": (lambda c: c.pop("optimizer_states"), r"incomplete: it has no `optimizer_states`"),
    "no loops": (lambda c: c.pop("loops"), r"incomplete: it has no `loops`"),
    "no fit loop": (lambda c: c["loops"].pop("fit_loop"), r"incomplete: it has no `loops`"),
    "schedulers": (lambda c: c["lr_schedulers"].pop(), r"its `lr_schedulers` are of 1 local modules"),
    "moments of one value": (lambda c: _moments(c, lambda m: m[:1, :1]), r"has `exp_avg` of shape \(1, 1\)"),
    "moments of another shape": (lambda c: _moments(c, lambda m: m[:, :3]), r"has `exp_avg` of shape \(32, 3\)"),
    "moments turned": (lambda c: _moments(c, lambda m: torch.zeros(4, 5)), r"of local module 1 has `exp_avg`"),
    "another number of parameters": (
        lambda c: c["optimizer_states"][0]["param_groups"][0]["params"].pop(),
        r"groups of \[2\] parameters",
    ),
    "a state that is none": (
        lambda c: c["optimizer_states"][0].pop("param_groups"),
        r"none of torch's optimizers writes",
    ),
    "gradients of another shape": (
        lambda c: c["ff_lightning"].update(gradients=[[[torch.zeros(2, 2)] * 3, [torch.zeros(2)] * 2]]),
        r"have shape \(2, 2\) in local module 0",
    ),
    "gradients of another block": (
        lambda c: c["ff_lightning"].update(gradients=[[[None] * 3]]),
        r"are for other blocks or parameters",
    ),
    "a weight of another shape": (
        lambda c: c["state_dict"].update({"network.blocks.0.layer.image.bias": torch.zeros(3)}),
        r"has shape \(3,\) where the network has \(32,\)",
    ),
    "no weight": (lambda c: c["state_dict"].pop("network.blocks.0.layer.image.bias"), r"is missing"),
    "a NaN": (
        lambda c: c["state_dict"]["network.blocks.1.layer.linear.weight"][0].fill_(float("nan")),
        r"diverged: 32 of",
    ),
    "an infinity": (
        lambda c: c["state_dict"]["network.blocks.1.layer.linear.bias"][0].fill_(float("inf")),
        r"diverged: 1 of 32 values of `network\.blocks\.1\.layer\.linear\.bias`",
    ),
    "a list of weights": (lambda c: c.update(state_dict=[1]), r"What it holds as `state_dict`"),
    "weights that are none": (lambda c: c["state_dict"].update(a=1), r"What it holds as `state_dict`"),
    "a version that is none": (
        lambda c: c.update({"pytorch-lightning_version": 2}),
        r"holds as `pytorch-lightning_version`",
    ),
    "an epoch that is none": (lambda c: c.update(epoch="many"), r"holds as `epoch, global_step, seed`"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_training_does_not_go_on_from_what_is_incomplete(
    name: str, classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, says = INCOMPLETE[name]
    path = spoilt(classifier_run / "last.ckpt", change, tmp_path / "x.ckpt")
    words = [*RECIPES["classifier"], "--trainer.default_root_dir", str(tmp_path / "run"), "--ckpt_path", str(path)]
    import re

    said = error_of(capsys, "fit", *words, "--trainer.max_epochs", "2")
    assert re.search(says, said), said


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "way", ["load", "load_from_checkpoint", "Trainer.test", "test", "validate", "predict", "export"]
)
@pytest.mark.parametrize("name", ["a NaN", "no weight"])
def test_no_way_uses_such_weights(name: str, way: str, classifier_run: Path, tmp_path: Path) -> None:
    path = spoilt(classifier_run / "last.ckpt", INCOMPLETE[name][0], tmp_path / "x.ckpt")
    with pytest.raises(ff.InputError):
        WAYS[way](str(path), tmp_path)


@pytest.mark.parametrize("name", ["no optimizers", "no loops", "schedulers", "moments of one value"])
def test_what_a_training_needs_others_do_not(name: str, classifier_run: Path, tmp_path: Path) -> None:
    path = spoilt(classifier_run / "last.ckpt", INCOMPLETE[name][0], tmp_path / "x.ckpt")
    assert ff.load(path)


def test_text_of_nan_weights_is_refused(language_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(
        name for name in torch.load(language_run / "last.ckpt", weights_only=True)["state_dict"] if "weight" in name
    )
    path = spoilt(language_run / "last.ckpt", lambda c: c["state_dict"][name].fill_(torch.nan), tmp_path / "x.ckpt")
    assert "diverged" in error_of(capsys, "generate", "--ckpt_path", str(path))


def test_a_threshold_that_has_not_begun_is_no_divergence(tmp_path: Path) -> None:
    """The moving threshold of a block that has not learned yet is NaN; a checkpoint of it is whole."""
    from ff_lightning.losses import MovingThresholdLoss
    from ff_lightning.schedules import Greedy
    from tests.training import mlp

    def module() -> ff.FFClassifier:
        return classifier(network=mlp(2, loss=MovingThresholdLoss()), schedule=Greedy(), optimizer=ADAM)

    run = trainer(tmp_path, max_epochs=2)
    first = module()
    run.fit(first, loader(40, 20))
    run.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["state_dict"]["network.blocks.1.loss.midpoint.value"].fill_(torch.nan)
    torch.save(content, tmp_path / "b.ckpt")
    trainer(tmp_path).test(module(), loader(40, 20), ckpt_path=tmp_path / "b.ckpt")


def test_adafactor_keeps_factors_of_another_shape(tmp_path: Path) -> None:
    def module() -> ff.FFClassifier:
        return classifier(2, optimizer=torch.optim.Adafactor)

    run = trainer(tmp_path, max_steps=1)
    run.fit(module(), loader(40, 20))
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer(tmp_path, max_epochs=3)
    again.fit(module(), loader(40, 20), ckpt_path=tmp_path / "a.ckpt")
    assert again.global_step > 1


# What lies beside the checkpoints ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("content", [b'{"run": {"comm', b"[]", b"\xff\xfe", b'{"run": 1}', b""])
def test_a_damaged_record_does_not_stop_a_resume(
    content: bytes,
    classifier_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(classifier_run, run)
    (run / "run.json").write_bytes(content)
    words = [*RECIPES["classifier"], "--trainer.default_root_dir", str(run), "--ckpt_path", str(run / "last.ckpt")]
    assert "damaged" in error_of(capsys, "report", str(run))
    assert main(["fit", *words, "--trainer.max_epochs", "2"]) == 0
    assert "run.json is damaged" in caplog.text
    assert json.loads((run / "run.json").read_text())["run"]["updates"] == 4


@pytest.mark.parametrize(
    "record",
    [
        {"tables": {"test": {}}},
        {"tables": {"test": {"columns": 1, "rows": 2}}},
        {"run": {"updates": "x"}},
        {"run": {"parameters": []}},
    ],
)
def test_a_record_of_something_else_is_one_line(
    record: dict[str, Any], classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(classifier_run, run)
    (run / "run.json").write_text(json.dumps(record))
    assert "does not hold what a run records" in error_of(capsys, "report", str(run))


def test_damaged_tokens_are_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A text of some letters, which is long enough. " * 50)

    def tokens() -> torch.Tensor:
        data = TextDataModule(str(text), context=8, cache_dir=str(tmp_path / "cache"))
        data.prepare_data()
        data.setup("fit")
        return data.tokens("train")

    whole = tokens()
    file = next((tmp_path / "cache").glob("*/train.bin"))
    about = file.with_name("about.json")
    for spoil in (
        lambda: file.write_bytes(file.read_bytes()[: file.stat().st_size // 4 * 2]),
        lambda: file.write_bytes(flipped(file.read_bytes(), 100)),
        lambda: file.unlink(),
        lambda: about.write_text(about.read_text()[:40]),
        lambda: about.write_text(about.read_text().replace("uint16", "uint18")),
    ):
        spoil()
        assert torch.equal(tokens(), whole)
        assert "are damaged, and are made anew" in caplog.text
        caplog.clear()
    assert torch.equal(tokens(), whole)
    assert not caplog.text

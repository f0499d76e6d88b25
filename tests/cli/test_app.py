"""The command line, called in this process; runs are real but short."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

import ff_lightning as ff
from ff_lightning.callbacks import BlockSummary, LastCheckpoint, StopOnCollapse
from ff_lightning.cli import main
from ff_lightning.cli.callbacks import refuse_clashing
from ff_lightning.cli.parser import shorten
from ff_lightning.data import ImageDataModule, TextDataModule
from ff_lightning.errors import InputError
from tests.command_line import QUIET, RECIPES, SMALL, configs, error_of

DIGITS = configs("digits_mlp")
SMOKE = configs("digits_mlp", "with/smoke")
TEXT = [*configs("pydoc_gpt", "with/smoke"), *SMALL]
RUN = Path("runs/digits_mlp-smoke")
TEXT_RUN = Path("runs/pydoc_gpt-smoke")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["--model.network.widhts", "[9]"],
            "`--model.network.widhts` is not accepted; did you mean `--model.network.widths`?",
        ),
        (["--trianer.max_epochs", "9"], "arguments: --trianer.max_epochs 9; did you mean '--trainer.max_epochs'?"),
        (["--data.batch_sise", "9"], "`--data.batch_sise` is not accepted; did you mean `--data.batch_size`?"),
        (
            ["--data.batch_size", "many"],
            "`--data.batch_size` (ff_lightning.data.ImageDataModule): Expected a <class 'int'>",
        ),
        (["--model.network.loss.sharpnes", "9"], "`--model.network.loss.sharpnes` is not accepted; there is alpha"),
        (["--model", "ff_lightning.FFClasifier"], "FFClasifier"),
        (["--config", "nothing.yaml"], "`--config`: File does not exist: "),
        (["--ckpt_path", "nothing.ckpt"], "Passed `ckpt_path=nothing.ckpt`. There is no such file."),
        (["--trainer.precision", "17"], "`--trainer.precision`"),
    ],
)
def test_wrong_arguments_cost_one_line_and_nothing_is_built(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["fit", *DIGITS, *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ff-lightning: error: ")
    assert err.count("\n") == 1
    assert says in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.network.widths", "[0]"], "Passed `widths=[0]`."),
        (["--model.network.loss.alpha", "-1"], "`alpha` must be a positive, finite number."),
        (["--model.optimizer.lr", "-1"], "learning rate"),
        (["--model.lr_scheduler.hold", "3"], "Passed `warmup=0.0, hold=3.0`."),
        (["--data.batch_size", "0"], "batch_size"),
        (["--data.source", "no/such/folder"], "Passed `source='no/such/folder'`."),
        (["--data.source", "."], "Cannot load images from"),
        (["--model.network.in_features", "65"], "in_features=65"),
        (["--model.network.num_classes", "5"], "`model.network.num_classes=5` with data of `num_classes=10`"),
        (["--trainer.gradient_clip_val", "1"], "pass `clip_norm` to the module"),
        (["--trainer.accumulate_grad_batches", "2"], "pass `accumulate_batches` to the module"),
        (["--trainer.accelerator", "abacus"], "The Trainer cannot be built: You selected an invalid accelerator"),
        (["--trainer.strategy", "fsdp"], "strategy"),
    ],
)
def test_what_makes_no_sense_is_named(args: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in error_of(capsys, "fit", *SMOKE, *QUIET, *args)
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.parametrize("wrong", ["trainer: {max_epoch: 3}", "modle: {class_path: x}", "trainer: [1"])
def test_mistakes_in_a_recipe_are_named(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.yaml").write_text(wrong)
    said = error_of(capsys, "fit", *DIGITS, "--config", "wrong.yaml")
    hints = {"trainer: {max_epoch: 3}": "'trainer.max_epochs'?", "modle: {class_path: x}": "'model"}
    assert hints.get(wrong, "Problems parsing config") in said


def test_errors_name_the_place_and_drop_the_configuration() -> None:
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'Module'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'A':
        Parser key "loss":
          Problem with given class_path 'B':
            Option 'x' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'class_path': 'A'}"""
    assert shorten(message) == "`--model.loss` (B): `--model.loss.x` is not accepted"
    assert shorten("something else") == "something else"


def test_a_call_without_a_known_subcommand_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert "{fit,validate,test,predict,generate" in error_of(capsys)
    assert "'fit', 'validate', 'test', 'predict', 'generate', 'probe', 'export', 'report'" in error_of(capsys, "tune")


def test_fit_keeps_the_run_in_a_folder_named_after_its_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *SMOKE]) == 0
    kept = {path.name for path in RUN.iterdir()}
    assert {"last.ckpt", "best.ckpt", "metrics.csv", "config.yaml"} <= kept
    assert "readout" in capsys.readouterr().out


def test_a_second_run_overwrites_the_first_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    fit = ["fit", *SMOKE, *QUIET]
    assert main(fit) == 0
    assert f"The run is kept in {RUN}." in caplog.text
    assert "earlier" not in caplog.text
    lines = (RUN / "metrics.csv").read_text().count("\n")
    assert main([*fit, "--trainer.limit_train_batches", "1"]) == 0
    assert f"The earlier one there is now in {RUN / 'earlier_1'}" in caplog.text
    assert (RUN / "metrics.csv").read_text().count("\n") < lines
    assert sorted(path.name for path in RUN.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


def test_a_resumed_run_goes_on_and_loses_no_metrics() -> None:
    assert main(["fit", *SMOKE, *QUIET]) == 0
    metrics = (RUN / "metrics.csv").read_text()
    resume = ["--ckpt_path", str(RUN / "last.ckpt"), "--trainer.max_epochs", "2"]
    assert main(["fit", *SMOKE, *QUIET, *resume]) == 0
    assert (RUN / "metrics_1.csv").read_text() == metrics
    assert torch.load(RUN / "last.ckpt", weights_only=True)["global_step"] == 4
    assert "0" not in {line.split(",")[0] for line in (RUN / "metrics.csv").read_text().splitlines()}


def test_a_run_can_be_repeated_and_tested_from_its_own_configuration(
    digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *SMOKE, *QUIET, "--trainer.default_root_dir", "here"]) == 0
    weights = torch.load("here/last.ckpt", weights_only=True)["state_dict"]
    assert main(["fit", "--config", "here/config.yaml"]) == 0
    again = torch.load("here/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)

    metrics = Path("here/metrics.csv").read_text()
    capsys.readouterr()
    assert main(["test", "--config", "here/config.yaml", "--ckpt_path", "here/last.ckpt"]) == 0
    assert Path("here/metrics.csv").read_text() == metrics
    assert "test/accuracy" in Path("here/test/metrics.csv").read_text()
    assert Path("here/pictures/test.png").is_file()
    assert (digits_run / "pictures/test.png").stat().st_size > 10_000
    assert "Test" in capsys.readouterr().out


def test_predict_writes_a_class_for_every_validation_image(digits_run: Path) -> None:
    checkpoint = str(digits_run / "last.ckpt")
    assert main(["predict", *SMOKE, *QUIET, "--ckpt_path", checkpoint]) == 0
    with (RUN / "predict/predictions.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    module = ff.FFClassifier.load_from_checkpoint(checkpoint).eval()
    data = ImageDataModule("digits")
    data.setup("validate")
    (batch,) = data.val_dataloader()
    predicted = module.predict_step(batch, 0)
    assert [int(row["label"]) for row in written] == predicted.classes.tolist()
    assert [row["name"] for row in written] == data.row_names("validation", range(144))
    found = [[float(row[f"probability {digit}"]) for digit in range(10)] for row in written]
    assert torch.allclose(torch.tensor(found), predicted.probabilities, atol=1e-5)


def test_a_task_that_logs_no_accuracy_still_keeps_its_last_checkpoint() -> None:
    words = [*configs("digits_anomaly", "with/smoke"), *QUIET, "--best.monitor", "val/accuracy"]
    assert main(["fit", *words, "--trainer.default_root_dir", str(RUN)]) == 0
    assert [path.name for path in RUN.glob("*.ckpt")] == ["last.ckpt"]


def test_what_is_switched_off_stays_off() -> None:
    off = ["--trainer.enable_checkpointing", "false", "--trainer.logger", "false"]
    assert main(["fit", *SMOKE, *QUIET, *off]) == 0
    assert sorted(path.name for path in RUN.iterdir()) == [
        ".lock",
        ".record.lock",
        "config.yaml",
        "pictures",
        "run.json",
    ]


def test_a_network_takes_its_vocabulary_and_context_from_the_data() -> None:
    assert main(["fit", *TEXT, *QUIET]) == 0
    kept = yaml.safe_load((TEXT_RUN / "config.yaml").read_text())
    assert not {"vocab_size", "context"} & kept["model"]["init_args"]["network"]["init_args"].keys()
    first = torch.load(TEXT_RUN / "last.ckpt", weights_only=True)
    assert len(first["state_dict"]["network.prior"]) == TextDataModule().vocab_size
    assert ff.FFLanguageModel.load_from_checkpoint(TEXT_RUN / "last.ckpt").network.context == 24

    assert main(["fit", "--config", str(TEXT_RUN / "config.yaml")]) == 0
    again = torch.load(TEXT_RUN / "last.ckpt", weights_only=True)
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in first["state_dict"].items())
    assert main(["validate", *TEXT, *QUIET, "--ckpt_path", str(TEXT_RUN / "last.ckpt")]) == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.network.vocab_size", "5"], "Passed `model.network.vocab_size=5` with data of `vocab_size=1"),
        (["--model.network.context", "32"], "Passed `model.network.context=32` with data of `context=24`."),
        (["--data", "ff_lightning.data.ImageDataModule"], "Passed no `model.network.vocab_size`, and data that"),
        (["--data.source", "no/such/file"], "Passed `source='no/such/file'`."),
        (["--ckpt_path", "other.ckpt", "--data.tokenizer", "ff_lightning.data.ByteTokenizer"], "for a vocabulary of 1"),
    ],
)
def test_a_network_that_does_not_fit_its_data_is_named(
    args: list[str], says: str, text_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("other.ckpt").symlink_to(text_run / "last.ckpt")
    assert says in error_of(capsys, "fit", *TEXT, *QUIET, *args)


def test_the_same_vocabulary_may_be_repeated_for_the_network() -> None:
    size = ["--model.network.vocab_size", str(TextDataModule().vocab_size), "--model.network.context", "24"]
    assert main(["fit", *TEXT, *QUIET, *size]) == 0


def test_a_run_without_an_optimizer_of_its_own_can_be_repeated(recwarn: pytest.WarningsRecorder) -> None:
    recipe = yaml.safe_load((RECIPES / "digits_mlp.yaml").read_text())
    del recipe["model"]["init_args"]["optimizer"]
    Path("bare.yaml").write_text(yaml.safe_dump(recipe))
    smoke = ["--config", str(RECIPES / "with/smoke.yaml"), *QUIET, "--trainer.default_root_dir", "here"]
    assert main(["fit", "--config", "bare.yaml", *smoke]) == 0
    weights = torch.load("here/last.ckpt", weights_only=True)["state_dict"]
    assert "optimizer" not in yaml.safe_load(Path("here/config.yaml").read_text())["model"]["init_args"]
    assert not [warning for warning in recwarn if "serialize" in str(warning.message)]
    assert main(["fit", "--config", "here/config.yaml"]) == 0
    again = torch.load("here/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_callback_that_a_recipe_brings_takes_the_place_of_the_usual_one(
    text_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    brought = ["--trainer.callbacks", "ff_lightning.callbacks.LanguageTable", "--trainer.callbacks.frozen_steps", "0"]
    path = ["--ckpt_path", str(text_run / "last.ckpt")]
    assert main(["validate", *TEXT, *QUIET, *path, *brought]) == 0
    shown = capsys.readouterr().out
    assert shown.count("block 0") == 1
    assert "frozen" not in shown


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["BestCheckpoint"], "say what is best by `--best.monitor` and `--best.mode`."),
        (["LastCheckpoint"] * 2, "with a second `LastCheckpoint`."),
    ],
)
def test_a_callback_that_there_is_already_costs_one_line(
    names: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--trainer.callbacks+=ff_lightning.callbacks.{name}" for name in names]
    said = error_of(capsys, "fit", *SMOKE, *QUIET, *words)
    assert said.startswith("Passed `trainer.callbacks` with a ")
    assert says in said
    assert not Path("runs").exists()


def test_callbacks_that_a_checkpoint_tells_apart_may_be_of_one_class() -> None:
    savers = [ModelCheckpoint(every_n_epochs=each) for each in (1, 2)]
    refuse_clashing([*savers, BlockSummary(), BlockSummary()], [LastCheckpoint()])
    with pytest.raises(InputError, match="with a second `StopOnCollapse`"):
        refuse_clashing([StopOnCollapse(0.6), StopOnCollapse()])
    with pytest.raises(InputError, match="with a second `ModelCheckpoint`"):
        refuse_clashing([*savers, ModelCheckpoint(every_n_epochs=2)])


@pytest.mark.parametrize(
    ("args", "present", "absent"),
    [
        (["--help"], ["generate", "export", "Train the network of a recipe.", "for example"], ["tune", "optimization"]),
        (["fit", "--help"], ["--model", "ff_lightning.data.ImageDataModule", "--best.monitor"], ["auto_lr_find"]),
        (
            ["fit", "--model.help", "ff_lightning.FFClassifier"],
            ["clip_norm", "accumulate_batches"],
            ["torchmetrics."],
        ),
        (["fit", "--model.help", "ff_lightning.FFLanguageModel"], ["clip_norm"], ["torchmetrics."]),
    ],
)
def test_help(args: list[str], present: list[str], absent: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(args)
    text = capsys.readouterr().out
    assert all(word in text for word in present)
    assert not any(word in text for word in absent)

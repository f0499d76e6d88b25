"""Every recipe and every overlay trains on real data."""

from __future__ import annotations

import importlib
import re
import time
from pathlib import Path

import pytest
import torch
import wandb
import yaml

from ff_lightning.cli import main
from ff_lightning.processor import multiplies_bfloat16
from tests import command_line, two_ranks
from tests.command_line import FEW, NARROW, RECIPES, error_of
from tests.engine.test_compilation import GRAPHS_ALONE

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
OVERLAYS = sorted(path.stem for path in RECIPES.glob("with/*.yaml"))
OWN_TEST = {"spotting_twin", "smoke", "ddp", "fsdp", "layer_parallel", "compile", "wandb", "wandb_offline", "rollouts"}
CHANGED = {"cifar_resnet": ["--model.network.width", "10"]}
TESTED = set(NAMES) - {"mnist_conv", "cifar_conv", "digits_conv", "mnist_mlp", "mnist_mlp_jitter", "cifar_local_fields"}
TESTED -= {"predictive_mnist", "mnist_scff", "fashion_mlp", "spiking_nmnist"}
"""Recipes whose checkpoint is tested as well: of those that differ in data and sizes alone, one."""
DRAWN = {"cifar_conv", "cifar_scff", "mnist_local_fields", "predictive_fashion", "spiking_mnist"}
"""Recipes whose pictures are drawn: one of a kind. Those of the others are kept as one pixel."""

OTHER_TASKS = {"wine_mlp": [], "diabetes_mlp": [], "digits_anomaly": FEW}
"""Recipes of tables and of anomalies, and what makes them small."""
TEXTS = [name for name in NAMES if name.endswith("_gpt")]
SOUNDS = [name for name in NAMES if name.startswith(("fsdd", "speech"))]  # trained in `test_sound_recipes`
TEXT_OVERLAYS = ["adamw", "logistic", "residual", "samples", "softmax"]
CONV_OVERLAYS = [
    *("averaged_head", "class_softmax", "lookahead", "overlapping", "own_contrast", "predsim", "private_head"),
]
OTHER_OVERLAYS = {*TEXT_OVERLAYS, *CONV_OVERLAYS, "rollouts", "smoke", "spotting_twin", "wandb"}
COMBINATIONS = (
    {(name,) for name in NAMES}
    | {("digits_mlp", overlay) for overlay in OVERLAYS if overlay not in OTHER_OVERLAYS}
    | {("digits_conv", overlay) for overlay in [*CONV_OVERLAYS, "twin"]}
    | {("pydoc_gpt", overlay) for overlay in TEXT_OVERLAYS}
    | {*two_ranks.RECIPES}
)
"""What is trained here, in files below `recipes/`."""
SILENT = ["--trainer.enable_progress_bar", "false"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def configs(recipe: str, *overlays: str) -> list[str]:
    return command_line.configs(recipe, *(f"with/{overlay}" for overlay in overlays))


def updates(run: str, folder: Path = Path()) -> int:
    """Updates that the last checkpoint of a run has seen."""
    return int(torch.load(folder / "runs" / run / "last.ckpt", weights_only=True)["global_step"])


def test_the_recipes_are_those_that_the_documentation_names() -> None:
    page = (RECIPES.parent / "docs" / "reference" / "recipes.md").read_text()
    named = set(re.findall(r"`([a-z0-9_/]+)`", page))
    assert set(NAMES) | {f"with/{overlay}" for overlay in OVERLAYS} <= named
    assert {name for name in named if name.startswith("with/")} == {f"with/{overlay}" for overlay in OVERLAYS}


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_says_how_to_run_it(path: Path) -> None:
    name = path.relative_to(RECIPES)
    header = path.read_text().split("\ntrainer:")[0].split("\nmodel:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"--config recipes/{name}" in header
    assert "# Override:" in header
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize(
    "recipe",
    [name for name in NAMES if name not in ("digits_mlp", *OTHER_TASKS, *TEXTS, *SOUNDS, "aesop_ff", "causal_lm")],
)
def test_a_recipe_trains_and_its_checkpoint_is_tested(
    recipe: str, few_images: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(few_images))
    if recipe not in DRAWN:
        request.getfixturevalue("blank_pictures")
    args = [*configs(recipe, "smoke"), *FEW, *CHANGED.get(recipe, [])]
    assert main(["fit", *args]) == 0
    assert updates(f"{recipe}-smoke") == 2
    if recipe not in TESTED:
        return
    assert main(["test", *args, "--ckpt_path", f"runs/{recipe}-smoke/last.ckpt"]) == 0
    assert Path(f"runs/{recipe}-smoke/pictures/test.png").is_file()


@pytest.mark.parametrize("recipe", OTHER_TASKS)
def test_the_recipe_of_another_task_trains_and_its_checkpoint_is_tested(recipe: str) -> None:
    args = [*configs(recipe, "smoke"), *OTHER_TASKS[recipe], *SILENT]
    assert main(["fit", *args]) == 0
    assert updates(f"{recipe}-smoke") == 2
    assert main(["test", *args, "--ckpt_path", f"runs/{recipe}-smoke/last.ckpt"]) == 0
    logged = {"wine_mlp": "test/accuracy", "diabetes_mlp": "test/r2", "digits_anomaly": "test/false_alarms"}[recipe]
    assert logged in Path(f"runs/{recipe}-smoke/test/metrics.csv").read_text()


@pytest.mark.parametrize("recipe", TEXTS)
def test_a_language_recipe_trains_and_its_checkpoint_is_validated_and_writes(
    recipe: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if recipe != "pydoc_gpt":
        folder = request.getfixturevalue("shared_data")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder / "tiktoken"))
    args = [*configs(recipe, "smoke"), *NARROW, *SILENT]
    # All novels take longer to be counted, for the floors, than everything else here.
    args += ["--data.max_characters", "1000000"] if recipe == "novels_gpt" else []
    last = f"runs/{recipe}-smoke/last.ckpt"
    assert main(["fit", *args]) == 0
    assert updates(f"{recipe}-smoke") == 2
    assert Path(f"runs/{recipe}-smoke/best.ckpt").is_file()
    state = torch.load(last, weights_only=True)
    assert (len(state["state_dict"]["network.prior"]) == 4096) == (recipe == "novels_gpt")
    assert Path("runs/tokens").is_dir() == (recipe == "novels_gpt")
    table = ["--trainer.callbacks", "ff_lightning.callbacks.LanguageTable", "--trainer.callbacks.frozen_steps", "0"]
    assert main(["validate", *args, *table, "--ckpt_path", last]) == 0
    assert "val/loss" in Path(f"runs/{recipe}-smoke/validate/metrics.csv").read_text()
    capsys.readouterr()
    assert main(["generate", "--ckpt_path", last, "--prompt", "The ", "--max_new_tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("The ")


@pytest.mark.parametrize("overlays", [(), ("rollouts",)], ids=["teacher-forced", "rollouts"])
def test_hintons_recipe_trains_and_writes(
    overlays: tuple[str, ...], shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = "-".join(["aesop_ff", *overlays, "smoke"])
    assert main(["fit", *configs("aesop_ff", *overlays, "smoke"), "--model.network.widths", "[8, 8]", *SILENT]) == 0
    assert updates(run) == 2
    state = torch.load(f"runs/{run}/last.ckpt", weights_only=True)["state_dict"]
    assert ("rollouts.tokens" in state) == bool(overlays)
    assert "val/loss" in Path(f"runs/{run}/metrics.csv").read_text()
    capsys.readouterr()
    assert (
        main(["generate", "--ckpt_path", f"runs/{run}/last.ckpt", "--prompt", "the fox ", "--max_new_tokens", "5"]) == 0
    )
    assert capsys.readouterr().out.startswith("the fox ")


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("overlay", TEXT_OVERLAYS)
def test_a_language_overlay_trains(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["fit", *configs("pydoc_gpt", "smoke", overlay), *NARROW, *SILENT]) == 0
    assert "discard" not in capsys.readouterr().err.lower()
    assert updates(f"pydoc_gpt-smoke-{overlay}") == 2
    run = Path(f"runs/pydoc_gpt-smoke-{overlay}")
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    arguments = model["init_args"]
    loss, combination = (
        (arguments["network"]["init_args"][part] or {}).get("class_path") for part in ("loss", "combination")
    )
    changed = {
        "adamw": arguments["optimizer"]["class_path"] == "torch.optim.AdamW",
        "logistic": loss == "ff_lightning.candidates.LogisticContrast" and combination is None,
        "residual": loss == "ff_lightning.candidates.LogisticContrast"
        and combination == "ff_lightning.language.Residual",
        "samples": (run / "samples.txt").is_file(),
        "softmax": loss == "ff_lightning.candidates.Softmax",
    }
    assert [name for name, is_so in changed.items() if is_so] == [overlay]


def test_a_benchmark_reads_a_language_recipe_as_the_command_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES / "benchmarks"))
    load = importlib.import_module("recipe").load
    few = ["--model.network.width", "32", "--data.context", "16"]
    built = load(["pydoc_gpt", "with/twin"], few, max_steps=1, limit_val_batches=0)
    assert type(built.model).__name__ == "TextTwin"
    assert (built.model.network.vocab_size, built.model.network.context) == (built.datamodule.vocab_size, 16)
    built.trainer.fit(built.model, built.datamodule)
    assert built.trainer.global_step == 1


def test_a_benchmark_reads_a_recipe_of_images(few_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(few_images))
    monkeypatch.syspath_prepend(str(RECIPES / "benchmarks"))
    load = importlib.import_module("recipe").load
    assert load(["mnist_mlp"], []).model.network.in_features == 784


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    "overlay", [name for name in OVERLAYS if name not in {*OWN_TEST, *TEXT_OVERLAYS, *CONV_OVERLAYS}]
)
def test_an_overlay_trains(overlay: str) -> None:
    assert main(["fit", *configs("digits_mlp", "smoke", overlay), *FEW]) == 0
    assert updates(f"digits_mlp-smoke-{overlay}") == 2


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("overlay", [*CONV_OVERLAYS, "twin"])
def test_an_overlay_of_convolutional_recipes_trains(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["fit", *configs("digits_conv", "smoke", overlay), *FEW]) == 0
    assert "discard" not in capsys.readouterr().err.lower()
    assert updates(f"digits_conv-smoke-{overlay}") == 2
    model = yaml.safe_load(Path(f"runs/digits_conv-smoke-{overlay}/config.yaml").read_text())["model"]
    network = model["init_args"]["network"]["init_args"]
    loss, head, matching = ((network[part] or {}).get("class_path") for part in ("loss", "head", "matching"))
    changed = {
        "averaged_head": head == "ff_lightning.networks.AveragedHead" and loss == "ff_lightning.candidates.Softmax",
        "class_softmax": loss == "ff_lightning.candidates.Softmax" and head is None and matching is None,
        "lookahead": network["lookahead"] is not None,
        "overlapping": network["overlapping"],
        "own_contrast": loss == "ff_lightning.candidates.LinearContrast",
        "predsim": matching == "ff_lightning.losses.SimilarityMatching",
        "private_head": head == "ff_lightning.networks.PrivateHead",
        "twin": model["class_path"] == "ff_lightning.BackpropTwin",
    }
    assert [name for name, is_so in changed.items() if is_so] == [overlay]


@pytest.mark.usefixtures("blank_pictures")
def test_overlays_compose_and_the_last_one_wins() -> None:
    assert main(["fit", *configs("digits_mlp", "twin", "bf16", "smoke"), *FEW, "--trainer.max_epochs", "2"]) == 0
    assert updates("digits_mlp-twin-bf16-smoke") == 4
    config = yaml.safe_load(Path("runs/digits_mlp-twin-bf16-smoke/config.yaml").read_text())
    assert config["trainer"]["precision"] == ("bf16-mixed" if multiplies_bfloat16("cpu") else "32-true")
    assert config["model"]["class_path"] == "ff_lightning.BackpropTwin"
    assert config["model"]["init_args"]["network"]["init_args"]["widths"] == [500, 500, 500]


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("recipe", ["mnist_mlp_unsupervised", "mnist_scff"])
def test_the_twin_of_an_unsupervised_recipe_drops_its_readout(
    recipe: str, few_images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(few_images))
    capsys.readouterr()
    assert main(["fit", *configs(recipe, "twin", "smoke"), *FEW]) == 0
    assert "discard" not in capsys.readouterr().err.lower()
    state = torch.load(f"runs/{recipe}-twin-smoke/last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if name.startswith("readout")]


@pytest.mark.parametrize(("recipe", "overlay"), two_ranks.RECIPES)
def test_two_processes_share_the_work(recipe: str, overlay: str, two_ranks_folder: Path) -> None:
    """As a cluster starts them; `ddp` is trained in processes that the command line itself starts, in `test_wandb`."""
    folder, run = two_ranks_folder / "recipes", f"{recipe}-smoke-{overlay}"
    assert updates(run, folder) == 2
    said = "".join((folder / f"{run}, rank {rank}.txt").read_text() for rank in range(2))
    assert len(re.findall(r"^ *Validation after ", said, re.MULTILINE)) == 1
    assert said.count("The run is kept in") == 1


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of what torch says while it traces
def test_blocks_of_a_recipe_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their graphs; seconds of C++ for each are spent in ``engine/test_compilation.py``."""
    monkeypatch.setattr("ff_lightning.module.compile_steps", GRAPHS_ALONE)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert main(["fit", *configs("digits_mlp", "smoke", "compile"), *FEW, "--model.network.widths", "[20]"]) == 0
    assert updates("digits_mlp-smoke-compile") == 2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.usefixtures("blank_pictures")
def test_wandb_offline_leaves_a_run_file_and_keeps_checkpoints_in_the_run_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()  # the writing process of an earlier test works in another folder, and `save_dir` is relative
    assert main(["fit", *configs("digits_mlp", "smoke", "wandb_offline"), *FEW]) == 0
    wandb.finish()
    run = Path("runs/digits_mlp-smoke-wandb_offline")
    deadline, written = time.monotonic() + 60, 0  # wandb's own process writes the file
    while written <= 1000 and time.monotonic() < deadline:
        time.sleep(0.1)
        written = sum(file.stat().st_size for file in (run / "wandb").glob("offline-run-*/*.wandb"))
    assert written > 1000
    assert len(list((run / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert {"last.ckpt", "best.ckpt", "config.yaml"} <= {path.name for path in run.iterdir()}


def test_wandb_online_differs_from_offline_in_one_word() -> None:
    online, offline = (
        yaml.safe_load((RECIPES / f"with/{name}.yaml").read_text()) for name in ("wandb", "wandb_offline")
    )
    assert offline["trainer"]["logger"]["init_args"].pop("offline") is True
    assert online == offline


@pytest.mark.usefixtures("blank_pictures")
def test_recipes_are_found_from_any_folder(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--config", "recipes/digits_mlp.yaml", "--config=recipes/with/smoke.yaml"]
    assert main(["fit", *short, *FEW]) == 0
    assert updates("digits_mlp-smoke") == 2
    said = error_of(capsys, "fit", "--config", "recipes/digits_mpl.yaml")
    assert said.startswith("Passed `recipes/digits_mpl.yaml`. There is no such recipe")
    assert "Did you mean `recipes/digits_mlp.yaml`" in said

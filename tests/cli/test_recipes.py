"""What a model of a recipe takes from its data; runs are real but short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import ff_lightning as ff
from ff_lightning.candidates import Softmax
from ff_lightning.cli import main
from ff_lightning.data import ImageDataModule
from ff_lightning.networks import MLP
from tests.command_line import configs, error_of

RECIPES = Path(__file__).parents[2] / "recipes"
CONV = ["--model.network", "ff_lightning.networks.ConvNet"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def recipe(name: str, *args: str, run: str = "run") -> list[str]:
    configs = [word for each in (name, "with/smoke") for word in ("--config", str(RECIPES / f"{each}.yaml"))]
    return [*configs, *QUIET, "--trainer.default_root_dir", run, *args]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures() -> str:
    """A folder of two classes: digits 0 and 1 in colour, 8 high and 10 wide."""
    images, labels = load_digits(return_X_y=True)
    for label in (0, 1):
        folder = Path(f"pictures/train/{['zero', 'one'][label]}")
        folder.mkdir(parents=True)
        for index, pixels in enumerate(images[labels == label][:30]):
            grey = np.pad(pixels.reshape(8, 8) * 15, ((0, 0), (1, 1))).astype(np.uint8)
            Image.fromarray(np.stack([grey, grey, grey], 2)).save(folder / f"{index}.png")
    return "pictures"


def network_of(run: str) -> dict[str, object]:
    kept: dict[str, object] = yaml.safe_load(Path(run, "config.yaml").read_text())["model"]["init_args"]["network"]
    return kept["init_args"]  # type: ignore[return-value]


def weights(run: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(f"{run}/last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize(
    ("name", "network", "shape"),
    [
        ("digits_mlp", {"in_features": 240, "num_classes": 2}, (20, 240)),
        ("digits_conv", {"image_shape": (3, 8, 10), "num_classes": 2}, (16, 3, 3, 3)),
        ("mnist_labelled_conv", {"image_shape": (3, 8, 10), "num_classes": 2}, (32, 3, 3, 3)),
    ],
)
def test_a_network_takes_shape_and_classes_from_its_data(
    name: str, network: dict[str, object], shape: tuple[int, ...], pictures: str
) -> None:
    small = ["--model.network.widths", "[20, 20]"] if name == "digits_mlp" else []
    assert main(["fit", *recipe(name, "--data.source", pictures, "--data.validation", "0.2", *small)]) == 0
    model = ff.FFClassifier.load_from_checkpoint("run/last.ckpt")
    assert {key: getattr(model.network, key) for key in network} == network
    assert model.num_classes == 2
    assert shape in {tuple(value.shape) for value in weights("run").values()}
    assert not network.keys() & network_of("run").keys()

    first = weights("run")
    assert main(["fit", "--config", "run/config.yaml"]) == 0
    assert all(torch.equal(value, first[key]) for key, value in weights("run").items())


def test_pictures_of_several_sizes_are_refused_with_what_to_type_and_then_have_that_size(
    pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Path(pictures, "train/one/5.png")
    Image.open(odd).resize((20, 12)).save(odd)
    words = recipe("digits_mlp", "--data.source", pictures, "--data.validation", "0.2", "--model.network.widths", "[9]")
    said = error_of(capsys, "fit", *words)
    assert "one/5.png has (height, width) (12, 20), others of 'pictures' have (8, 10)" in said
    assert '`--data.resize "[8, 10]"`' in said
    assert not list(Path().rglob("*.ckpt"))
    for size, in_features in (("[8, 10]", 240), ("5", 75), ("most", 240)):
        assert main(["fit", *words, "--data.resize", size]) == 0
        model = ff.FFClassifier.load_from_checkpoint("run/last.ckpt")
        assert (model.network.in_features, model.num_classes) == (in_features, 2)


def test_pictures_without_classes_say_their_shape_and_leave_the_classes_open(
    pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--data.source", f"{pictures}/train/one", "--data.validation", "0.2", "--model.network.widths", "[9]"]
    assert "Passed no `num_classes`" in error_of(capsys, "fit", *recipe("mnist_mlp_unsupervised", *own))
    assert main(["fit", *recipe("mnist_mlp_unsupervised", *own, "--model.num_classes", "3")]) == 0
    model = ff.FFRepresentation.load_from_checkpoint("run/last.ckpt")
    assert (model.network.in_features, model.num_classes) == (240, 3)
    assert "`num_classes=None`" in error_of(capsys, "fit", *recipe("digits_mlp", *own))


def test_a_network_takes_its_sizes_from_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *table_of("iris")]) == 0
    model = ff.FFClassifier.load_from_checkpoint("run/last.ckpt")
    assert (model.network.in_features, model.num_classes) == (4, 3)
    told = ["--model.network.in_features", "13"]
    assert "`model.network.in_features=13` with data of `in_features=4`" in error_of(
        capsys, "fit", *table_of("iris"), *told
    )


def table_of(source: str) -> list[str]:
    words = [*configs("wine_mlp", "with/smoke"), *QUIET, "--trainer.default_root_dir", "run"]
    return [*words, "--data.source", source, "--model.network.widths", "[9]"]


def test_what_was_said_to_have_no_label_stays_so() -> None:
    small = ["--model.network.widths", "[20, 12]", "--data.source", "digits", "--data.validation", "0.2"]
    assert main(["fit", *recipe("mnist_mlp_unsupervised", *small)]) == 0
    assert network_of("run")["num_classes"] is None
    first = weights("run")
    assert [value.shape for key, value in first.items() if key.startswith("readout") and "weight" in key] == [
        (10, 32),
        (10, 20),
    ]
    assert not any("label" in key for key in first)
    model = ff.FFRepresentation.load_from_checkpoint("run/last.ckpt")
    assert model.network.num_classes is None
    assert model.num_classes == 10
    assert main(["fit", "--config", "run/config.yaml"]) == 0
    assert all(torch.equal(value, first[key]) for key, value in weights("run").items())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.network.num_classes", "10"], "Passed `model.network.num_classes=10` with data of `num_classes=2`."),
        (["--model.network.num_classes", "1"], "`num_classes=1`"),
        (["--model.num_classes", "3"], "Passed `num_classes=3` with `MLP(num_classes=2)`."),
        (["--model.network.in_features", "64"], "`model.network.in_features=64` with data of `in_features=240`."),
        (
            [*CONV, "--model.network.pool_after", "[]", "--model.network.image_shape", "[3, 10, 8]"],
            "Passed `model.network.image_shape=[3, 10, 8]` with data of `image_shape=[3, 8, 10]`.",
        ),
        (["--data", "ff_lightning.data.TextDataModule"], "Passed no `model.network.in_features`, and data that does"),
    ],
)
def test_what_is_said_twice_must_agree(
    args: list[str], says: str, pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if "--data" in args else ["--data.source", pictures, "--data.validation", "0.2"]
    Path("few.yaml").write_text(
        "model: {class_path: ff_lightning.FFClassifier, init_args: {network: {class_path: "
        "ff_lightning.networks.MLP, init_args: {widths: [8]}}}}\n"
    )
    config = ["--config", "few.yaml", "--config", str(RECIPES / "with/smoke.yaml"), *QUIET]
    kind = [] if "--data" in args else ["--data", "ff_lightning.data.ImageDataModule"]
    assert says in error_of(capsys, "fit", *config, *kind, *data, *args)
    assert not list(Path().rglob("*.ckpt"))


class Odd(MLP):
    """A network of a user that does not like what it is given."""

    def __init__(self, in_features: int, widths: list[int]) -> None:
        raise ValueError(f"widths of {in_features}\nmust be even")


class OddLoss(Softmax):
    """A loss that fails, and is of the second class that the argument may be of."""

    def __init__(self) -> None:
        raise ValueError("odd loss")


class Lacking(MLP):
    """A network that needs what no image has."""

    def __init__(self, in_features: int, widths: list[int], vocab_size: int) -> None:
        super().__init__(in_features, widths)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.network", f"{__name__}.Odd"], "cannot be built: ValueError: widths of 64 must be even"),
        (["--model.network.loss", f"{__name__}.OddLoss"], "cannot be built: odd loss."),
        (["--model.network.widths", "[1000000000000]"], "cannot be built: RuntimeError: "),
        (["--model.network", f"{__name__}.Lacking"], "Passed no `model.network.vocab_size`, and data that does not"),
    ],
)
def test_what_a_class_says_when_it_is_built_is_shown_as_it_is(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error_of(capsys, "fit", *recipe("digits_mlp", "--model.network.widths", "[8]", *args))
    assert says in said
    assert ("that does not offer it" in said) == ("Lacking" in args[1])
    assert not list(Path().rglob("*.ckpt"))


def test_a_configuration_that_is_no_text_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("last.ckpt").write_bytes(b"PK\x03\x04\x80\xff")
    said = error_of(capsys, "fit", "--config", "last.ckpt")
    assert said == "Passed `--config last.ckpt`, which is no text. It must be a recipe in YAML."


def test_the_same_may_be_said_twice() -> None:
    same = ["--model.network.in_features", "64", "--model.network.num_classes", "10", "--model.num_classes", "10"]
    narrow = ["--model.network.widths", "[8]"]
    assert main(["fit", *recipe("digits_mlp", *narrow, *same)]) == 0
    assert main(["fit", *recipe("digits_mlp", *narrow, run="again")]) == 0
    said, taken = weights("run"), weights("again")
    assert all(torch.equal(said[key], taken[key]) for key in said)
    assert network_of("run")["in_features"] == 64
    assert ImageDataModule("digits").in_features == 64


@pytest.mark.parametrize(
    ("name", "argument", "value"), [("digits_anomaly", "false_alarms", 0.3), ("diabetes_mlp", "spread", 3.0)]
)
def test_a_twin_keeps_what_the_recipe_says_of_its_task(name: str, argument: str, value: float) -> None:
    Path("own.yaml").write_text(yaml.safe_dump({"model": {"init_args": {argument: value}}}))
    words = [*configs(name), "--config", "own.yaml", *configs("with/twin", "with/smoke"), *QUIET]
    assert main(["fit", *words, "--model.network.widths", "[9]", "--trainer.default_root_dir", "run"]) == 0
    assert getattr(ff.load("run/last.ckpt"), argument) == value
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["init_args"][argument] == value

"""Nothing of a checkpoint is run: no pickle, no class that it names, by none of the ways by which it comes in."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from PIL import Image
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.data.pictures import read_picture
from ff_lightning.engine.folders import PlainPlanner, PlainReader
from ff_lightning.engine.integrity import digest, write_sums
from ff_lightning.engine.refusals import refuse_own_reader
from ff_lightning.pretrained import save_pretrained
from ff_lightning.report import write_report
from tests.attacks.spoiling import WAYS, Trap, pickles, served, spoilt
from tests.training import classifier, loader, trainer

CLASSES: dict[str, Any] = {
    "os.system": {"command": "touch {sprung}"},
    "subprocess.Popen": {"args": ["touch", "{sprung}"]},
    "ff_lightning.report.records.subprocess.Popen": {"args": ["touch", "{sprung}"]},
    "builtins.open": {"file": "{sprung}", "mode": "w"},
    "torch.nn.modules.module.functools.partial": {"func": "os.system"},
    "torch.nn.Linear": {"in_features": 2, "out_features": 2},
    "torch.hub.load": {"repo_or_dir": "{folder}", "model": "trap", "source": "local"},
    "trap_module.Trap": {},
    "ff_lightning.cli.main": {"args": ["export"]},
    "ff_lightning.FFClassifier": {},
}
"""Classes and functions that a checkpoint may name, with arguments that leave a file behind where they are used."""

PLACES = ("network", "readout", "negatives", "optimizer", "lr_scheduler", "schedule")


@pytest.mark.parametrize("way", WAYS)
def test_no_pickle_is_run_by_any_way(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sprung = tmp_path / "sprung"
    found = pickles(sprung)
    for name in ("archive of weights", "pickle os.system"):
        path = tmp_path / "x.ckpt"
        path.write_bytes(found[name])
        with pytest.raises(ff.InputError):
            WAYS[way](str(path), tmp_path)
        assert "Traceback" not in capsys.readouterr().err
        assert not sprung.exists(), name


@pytest.mark.parametrize("name", pickles(Path("sprung")))
def test_no_pickle_of_any_kind_is_run(name: str, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickles(sprung)[name])
    with pytest.raises(ff.InputError, match="cannot be loaded safely") as error:
        WAYS["read_checkpoint"](str(path), tmp_path)
    assert "\n" not in str(error.value)
    assert not sprung.exists()


def test_the_traps_work(tmp_path: Path) -> None:
    """Each leaves its file behind where somebody believes it; otherwise the tests above would show nothing."""
    for name, content in pickles(tmp_path / "sprung").items():
        path = tmp_path / "x.ckpt"
        path.write_bytes(content)
        for load in (pickle.loads, lambda _, path=path: torch.load(path, weights_only=False)):
            try:
                load(content)
            except Exception:  # what comes after the trap
                continue
        if "torch.hub" not in name and "run_path" not in name and "Path.touch" not in name and "eval" not in name:
            assert (tmp_path / "sprung").exists(), name
        (tmp_path / "sprung").unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's, about callbacks and folders of the training
@pytest.mark.parametrize("way", ["read_checkpoint", "load", "load_from_checkpoint", "Trainer.test", "test", "export"])
def test_addresses_are_read_like_files(
    way: str, classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sprung = tmp_path / "sprung"
    served_files = tmp_path / "http_runs"
    served_files.mkdir()
    shutil.copy(classifier_run / "last.ckpt", served_files / "good.ckpt")
    (served_files / "bad.ckpt").write_bytes(pickles(sprung)["archive of weights"])
    (served_files / "cut.ckpt").write_bytes((served_files / "good.ckpt").read_bytes()[:-2000])
    monkeypatch.chdir(tmp_path)
    with served(served_files) as address:
        for place in (address, "http_runs", f"file://{served_files}"):
            WAYS[way](f"{place}/good.ckpt", tmp_path)
            for name in ("bad", "cut", "none"):
                with pytest.raises(ff.InputError):
                    WAYS[way](f"{place}/{name}.ckpt", tmp_path)
    assert not sprung.exists()


def test_an_address_that_has_changed_is_fetched_anew(classifier_run: Path, tmp_path: Path) -> None:
    shutil.copy(classifier_run / "last.ckpt", tmp_path / "x.ckpt")
    with served(tmp_path) as address:
        first = ff.load(f"{address}/x.ckpt").seed
        spoilt(tmp_path / "x.ckpt", lambda content: content["ff_lightning"].update(seed=first + 1), tmp_path / "x.ckpt")
        assert ff.load(f"{address}/x.ckpt").seed == first + 1


def _named(value: Any, folder: Path) -> Any:
    """Arguments with the places of this test written in."""
    return json.loads(json.dumps(value).replace("{sprung}", str(folder / "sprung")).replace("{folder}", str(folder)))


@pytest.mark.parametrize("class_path", CLASSES)
def test_no_class_is_built_that_the_place_does_not_expect(
    class_path: str, classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap_module.py").write_text("open('sprung', 'w')\nclass Trap: ...\n")
    monkeypatch.chdir(tmp_path)
    named = {"class_path": class_path, "init_args": _named(CLASSES[class_path], tmp_path)}
    path = tmp_path / "x.ckpt"
    for place in PLACES:
        spoilt(classifier_run / "last.ckpt", lambda c, place=place: c["hyper_parameters"].update({place: named}), path)
        with pytest.raises(ff.InputError, match=rf"x\.ckpt`. Its `model\.{place}`"):
            WAYS["load_from_checkpoint"](str(path), tmp_path)
        if place in ("network", "readout"):
            with pytest.raises(ff.InputError, match=rf"x\.ckpt`. Its `model\.{place}`"):
                ff.load(path)
        else:
            ff.load(path)  # no use is made of it
        assert not (tmp_path / "sprung").exists()
    changes = {
        "task": lambda c: c["hyper_parameters"].update(_class_path=class_path),
        "nested": lambda c: c["hyper_parameters"]["network"]["init_args"].update(loss=named),
        "a number": lambda c: c["hyper_parameters"]["network"]["init_args"]["loss"]["init_args"].update(alpha=named),
    }
    if class_path == "ff_lightning.FFClassifier":
        changes.pop("task")  # which it is
    for change in changes.values():
        spoilt(classifier_run / "last.ckpt", change, path)
        for way in ("load", "load_from_checkpoint", "export"):
            with pytest.raises(ff.InputError):
                WAYS[way](str(path), tmp_path)
            assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("class_path", "says"),
    [
        ("os.system", "only classes of ff_lightning, torch.nn, torch.optim are built"),
        ("ff_lightning.report.records.subprocess.Popen", "names `subprocess`, and only classes"),
        ("torch.nn.Linear", "names `torch.nn.Linear`, which is no Network"),
        ("ff_lightning.cli.main", "which is no class"),
        ("ff_lightning.stacks.Nothing", "which is no class"),
        ("not a name", "which is no dotted name"),
        (["os.system"], "which is no dotted name"),
    ],
)
def test_the_refusal_says_what_is_named(class_path: Any, says: str, classifier_run: Path, tmp_path: Path) -> None:
    spoilt(
        classifier_run / "last.ckpt",
        lambda c: c["hyper_parameters"].update(network={"class_path": class_path, "init_args": {}}),
        tmp_path / "x.ckpt",
    )
    with pytest.raises(ff.InputError, match=says):
        ff.load(tmp_path / "x.ckpt")


def test_a_package_of_the_user_is_built_if_it_is_named(
    classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_package.py").write_text(
        "from ff_lightning.networks import MLP\nclass MyMLP(MLP):\n    '''Mine.'''\n"
    )
    path = spoilt(
        classifier_run / "last.ckpt",
        lambda c: c["hyper_parameters"]["network"].update(class_path="my_package.MyMLP"),
        tmp_path / "x.ckpt",
    )
    with pytest.raises(ff.InputError, match=r"`--trust my_package`, or `trust=\['my_package'\]`"):
        ff.load(path)
    assert type(ff.load(path, trust=["my_package"]).network).__name__ == "MyMLP"
    loaded = ff.FFClassifier.load_from_checkpoint(path, trust=["my_package"])
    assert type(loaded.network).__name__ == "MyMLP"
    words = ["export", "--output", str(tmp_path / "a.pt2"), "--ckpt_path", str(path)]
    assert main(words) == 2
    assert main([*words, "--trust", "other, my_package"]) == 0
    with pytest.raises(ff.InputError, match=r"Passed `trust='my_package'`"):
        ff.load(path, trust="my_package")


def test_inference_builds_nothing_of_the_training(classifier_run: Path, tmp_path: Path) -> None:
    model = ff.load(classifier_run / "last.ckpt")
    assert model.make_lr_scheduler is None
    assert type(model.make_optimizer.func).__name__ == "type"  # the default, of which nothing is built
    assert not model.training
    assert model.class_names == [str(digit) for digit in range(10)]


def test_unsafe_ways_are_refused_in_words(classifier_run: Path, tmp_path: Path) -> None:
    path = classifier_run / "last.ckpt"
    for load in (
        lambda: ff.FFClassifier.load_from_checkpoint(path, weights_only=False),
        lambda: trainer(tmp_path, max_steps=1).fit(classifier(2), loader(40, 20), ckpt_path=path, weights_only=False),
    ):
        with pytest.raises(ff.InputError, match="Passed `weights_only=False`"):
            load()


def test_a_strategy_that_reads_for_itself_reads_nothing(tmp_path: Path) -> None:
    run, strategy = trainer(tmp_path), FSDPStrategy()
    refuse_own_reader(run)
    assert "load_checkpoint" not in vars(run.strategy), "one device reads as it should"
    refuse_own_reader(SimpleNamespace(strategy=strategy))
    with pytest.raises(ff.InputError, match="`FSDPStrategy`, which reads checkpoints itself"):
        strategy.load_checkpoint("x.ckpt")


# Folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded checkpoint of one rank."""
    folder = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "1", "RANK": "0"}.items():
            patched.setenv(name, value)
        patched.setenv("LOCAL_RANK", "0")
        run = trainer(folder, strategy=ModelParallelStrategy(1, 1), max_steps=1)
        run.fit(classifier(2), loader(40, 20))
        run.save_checkpoint(folder / "a.ckpt")
        torch.distributed.destroy_process_group()
    return folder / "a.ckpt"


def _resume(path: Path, folder: Path) -> nn.Module:
    module = classifier(2)
    run = trainer(folder, strategy=ModelParallelStrategy(1, 1), max_epochs=2)
    run.fit(module, loader(40, 20), ckpt_path=path)
    return module


def test_a_folder_comes_back(sharded: Path, tmp_path: Path, alone: None) -> None:
    module = _resume(sharded, tmp_path)
    assert module.trainer.global_step > 1


@pytest.mark.parametrize("resign", [False, True], ids=["as it is", "with new checksums"])
@pytest.mark.parametrize("name", [".metadata", "meta.pt", "__0_0.distcp", "checksums.json"])
def test_no_file_of_a_folder_is_run(resign: bool, name: str, sharded: Path, tmp_path: Path, alone: None) -> None:
    copy = tmp_path / "a.ckpt"
    shutil.copytree(sharded, copy)
    sprung = tmp_path / "sprung"
    if name == "__0_0.distcp" and resign:  # a learning rate is a pickle of its own
        _spoil_values(copy, sprung)
    else:
        (copy / name).write_bytes(pickle.dumps(Trap(sprung)))
    if resign:
        write_sums(copy)
    if resign and name == "checksums.json":
        return
    with pytest.raises(ff.InputError):
        _resume(copy, tmp_path)
    assert not sprung.exists()


def test_a_folder_that_lacks_something_is_refused(sharded: Path, tmp_path: Path, alone: None) -> None:
    """An optimizer, a weight; and weights that are not finite."""
    tensors = {
        name: torch.zeros(kind.size, dtype=kind.properties.dtype)
        for name, kind in PlainReader(sharded).read_metadata().state_dict_metadata.items()
        if hasattr(kind, "properties")
    }
    weight = "state_dict.network.blocks.1.layer.linear.weight"
    assert weight in tensors
    for index, change in enumerate(
        [
            {name: value for name, value in tensors.items() if not name.startswith("optimizer_1")},
            {name: value for name, value in tensors.items() if name != weight},
            tensors | {weight: torch.full_like(tensors[weight], torch.nan)},
            tensors | {weight: torch.zeros(2, 2)},
        ]
    ):
        copy = tmp_path / f"{index}.ckpt"
        shutil.copytree(sharded, copy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save(change, checkpoint_id=copy, no_dist=True)
        write_sums(copy)
        with pytest.raises(ff.InputError, match=rf"{index}\.ckpt`"):
            _resume(copy, tmp_path)


def _spoil_values(folder: Path, sprung: Path) -> None:
    """Write a trap in the place of a plain value, as somebody would who writes whole checkpoints."""
    table = PlainReader(folder).read_metadata()
    state: dict[str, Any] = {}
    for name, kind in table.state_dict_metadata.items():
        properties = getattr(kind, "properties", None)
        state[name] = Trap(sprung) if properties is None else torch.zeros(kind.size, dtype=properties.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)


def test_the_trap_in_a_folder_works(sharded: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.ckpt"
    shutil.copytree(sharded, copy)
    _spoil_values(copy, tmp_path / "sprung")
    names = PlainReader(copy).read_metadata().state_dict_metadata
    name = next(name for name, kind in names.items() if not hasattr(kind, "properties"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointException, match="Weights only load failed"):
            dcp.load({name: None}, storage_reader=PlainReader(copy), planner=PlainPlanner(), no_dist=True)
        assert not (tmp_path / "sprung").exists()
        dcp.load({name: None}, checkpoint_id=copy, no_dist=True)
    assert (tmp_path / "sprung").exists()


# Folders of the hub ------------------------------------------------------------------------------------------------


def test_a_folder_of_the_hub_is_checked(classifier_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    save_pretrained(classifier_run / "best.ckpt", folder)
    ff.load(folder)
    config = folder / "config.json"
    written = config.read_text()
    for change in (
        lambda c: c["hyper_parameters"].update(network={"class_path": "os.system", "init_args": {"command": "x"}}),
        lambda c: c["hyper_parameters"].update(_class_path="os.system"),
        lambda c: c.update(hyper_parameters=[]),
    ):
        content = json.loads(written)
        change(content)
        config.write_text(json.dumps(content))
        with pytest.raises(ff.InputError, match="was changed by hand"):
            ff.load(folder)
        content.pop("digest")
        config.write_text(json.dumps(content | {"digest": digest(content)}))
        with pytest.raises(ff.InputError, match=r"only classes of ff_lightning|of something else"):
            ff.load(folder)
    (folder / "pytorch_model.bin").write_bytes(pickles(tmp_path / "sprung")["pickle of a trap"])
    (folder / "model.safetensors").unlink()
    config.write_text(written)
    with pytest.raises(ff.InputError, match=r"holds no `model\.safetensors`"):
        ff.load(folder)
    assert not (tmp_path / "sprung").exists()


# Pictures, pages and tables ------------------------------------------------------------------------------------------


def test_a_picture_of_another_format_is_not_opened(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    read_picture(tmp_path / "a.png", (1, 8, 8))
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(ff.InputError, match=r"Cannot read the picture .*b\.png: cannot identify"):
        read_picture(tmp_path / "b.png", (1, 8, 8))


def test_a_page_holds_nothing_from_outside_its_folder(classifier_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(classifier_run, run)
    write_report([run])
    (tmp_path / "secret.png").write_bytes((next((run / "pictures").glob("*.png"))).read_bytes())
    (run / "pictures" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ff.InputError, match=r"Its `a\.png` leads out of the folder"):
        write_report([run])


def test_a_name_of_a_picture_is_no_formula(
    classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("=1+1.png", "+1.png", "-1.png", "@a.png", "plain.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    words = ["predict", "--folder", ".", "--ckpt_path", str(classifier_run / "last.ckpt"), "--output", "out/t.csv"]
    assert main(words) == 0
    first = [line.split(",")[0].strip('"') for line in (tmp_path / "out/t.csv").read_text().splitlines()[1:]]
    assert sorted(name[0] for name in first) == ["'", "'", "'", "'", "p"]

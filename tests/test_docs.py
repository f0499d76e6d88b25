"""What README and documentation show is run: Python as it stands, `ff-lightning` commands on two batches."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import subprocess
import sys
import warnings
import wave
from pathlib import Path
from pkgutil import resolve_name
from pydoc_data.topics import topics

import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_iris

import ff_lightning as ff
from ff_lightning.cli import main
from tests.command_line import FEW, NARROW
from tests.test_recipes import COMBINATIONS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
IMAGES = re.compile("mnist|fashion|cifar")
NEEDS_DATA = re.compile(f"{IMAGES.pattern}|shakespeare|aesop|novels|gutenberg")
"""Recipes and names of texts that a machine may not have."""
FEW_FROZEN = [
    *("--trainer.callbacks", "ff_lightning.callbacks.LanguageTable"),
    *("--trainer.callbacks.frozen_steps", "2"),
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text()) if name == language]


def commands() -> list[str]:
    """All `ff-lightning` commands of all pages, each once."""
    lines = [
        line.strip()
        for page in PAGES
        for body in blocks(page, "bash")
        for line in body.replace("\\\n", " ").splitlines()
    ]
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line.startswith("ff-lightning ")))


def is_trained_with_the_recipes(command: str) -> bool:
    """Whether `test_recipes` trains the same, and no other command reads the run."""
    words = command.split()
    stems = tuple(Path(word).stem for word in words[3::2])
    alone = command == " ".join(["ff-lightning", "fit", *(f"--config {word}" for word in words[3::2])])
    run = f"runs/{'-'.join(stems)}/"
    return alone and stems in COMBINATIONS and not any(run in other for other in commands())


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: str(p.relative_to(ROOT)))
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets of a page are one program, in their order."""
    monkeypatch.chdir(tmp_path)
    program = "\n".join(blocks(page, "python"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(program, str(page), "exec"), {"__name__": "snippet"})
    assert program


def own_data(folder: Path) -> None:
    """Sets as readers have them: pictures of mixed sizes with alpha, JSON lines, and a table, none of them tidy."""
    for split, count in (("train", 10), ("val", 3), ("test", 3)):
        for name, index in ((name, index) for name in ("line", "square") for index in range(count)):
            place = folder / "my_classes" / split / name
            place.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGBA", (20 + index, 24), (0, 0, 0, 0))
            box = [4, 4, 14 if name == "square" else 5, 4 + 10 + index % 4]
            ImageDraw.Draw(image).rectangle(box, fill=(0, 0, 0, 255))
            image.save(place / f"{index}.png")
    (folder / "my_classes" / "train" / "notes.txt").write_text("drawn by hand")
    (folder / "my_classes" / "train" / "line" / "._0.png").write_bytes(b"of a system")
    (folder / "my_texts").mkdir()
    names = sorted(topics)
    for split, some in (("train", names[:20]), ("val", names[20:24])):
        rows = [json.dumps({"id": name, "text": topics[name]}) + "\n" for name in some]
        (folder / "my_texts" / f"{split}.jsonl").write_text("".join(rows))
    (folder / "my_texts" / "README.md").write_text("about them")
    kinds = {"hot": "sun", "wet": "rain;cloud", "grey": "cloud", "mild": ""}
    lines = [f"{index},{word},{kinds[word]}\n" for index, word in enumerate([*kinds] * 20)]
    (folder / "my_labels.csv").write_text("degrees,feels,labels\n" + "".join(lines))
    flowers = load_iris()
    with (folder / "my_table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "colour", *flowers.feature_names, "species"])
        for index, (values, target) in enumerate(zip(flowers.data.tolist(), flowers.target, strict=True)):
            table.writerow([f"no {index}", ["blue", "white"][index % 2], *values, flowers.target_names[target]])


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.filterwarnings("ignore:It is recommended to use .self.log:UserWarning")  # of `ddp`, to one rank as well
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")  # an earlier page's callback
@pytest.mark.parametrize("command", [command for command in commands() if not is_trained_with_the_recipes(command)])
def test_commands_run(
    command: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Commands of the pages train or evaluate on two batches; they share one folder for their runs."""
    if NEEDS_DATA.search(command):
        data = request.getfixturevalue("few_images")
        monkeypatch.setenv("FF_LIGHTNING_DATA", str(data))
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(data / "tiktoken"))
    if "fsdd" in command or "my_words" in command:
        pytest.importorskip("soundfile", reason="recordings need the extra `audio`")
        monkeypatch.setenv("FF_LIGHTNING_DATA", str(request.getfixturevalue("shared_data")))
    folder = tmp_path_factory.getbasetemp() / "commands"
    folder.mkdir(exist_ok=True)
    if not (folder / "recipes").exists():
        (folder / "recipes").symlink_to(ROOT / "recipes")
        # The reader's own.
        (folder / "my_text.txt").write_text("".join(topics[name] for name in sorted(topics)[:20]))
        (folder / "my_pictures").mkdir()
        Image.new("L", (40, 50), 99).save(folder / "my_pictures" / "four.png")
        own_data(folder)
        (folder / "my_recordings").mkdir()
        with wave.open(str(folder / "my_recordings" / "four.wav"), "wb") as recording:
            recording.setparams((1, 2, 8000, 0, "NONE", ""))
            recording.writeframes(bytes(range(250)) * 50)
    monkeypatch.chdir(folder)
    if "causal_lm" in command:
        from tests import transformers_models  # which skips without the library

        if not Path("my_model").exists():
            transformers_models.folder(Path("my_model"))
    if "my_words" in command and not Path("my_words").exists():
        exec(blocks(ROOT / "docs" / "tutorials" / "spoken_words.md", "python")[0], {"__name__": "snippet"})
    words = shlex.split(command)[1:]
    if words[0] in ("fit", "test", "validate", "predict") and not {"--folder", "--table"} & set(words):
        keep = [word for word in words if word.endswith(".yaml")]
        stems = "-".join(Path(word).stem for word in keep)
        words += ["--config", "recipes/with/smoke.yaml"]
        if not {"--trainer.default_root_dir", "--run_name"} & set(words):
            words += ["--trainer.default_root_dir", f"runs/{stems}"]
        few = (
            NARROW if "_gpt" in command else [] if re.search("wine|diabetes|Table", command) else FEW
        )  # tables are small
        few = NARROW[2:] if "causal_lm" in command else few  # its width is that of the model
        words += [word for pair in zip(few[::2], few[1::2], strict=True) if pair[0] not in words for word in pair]
        if "cifar_conv" in command and "--model.network.widths" not in words:
            words += ["--model.network.widths", "[4, 4, 4, 4, 4, 4]"]
        if words[0] == "validate" and "_gpt" in command:
            words += FEW_FROZEN
    if "with/ddp" in command:  # two processes are started in `test_wandb`
        request.getfixturevalue("alone")
        words += ["--trainer.devices", "1"]
    if "--print_config" in words:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(words)
    else:
        assert main(words) == 0


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def resolves(dotted: str) -> bool:
    """Whether there is a module, class or function of that name."""
    try:
        resolve_name(dotted)
    except (AttributeError, ImportError):
        return False
    return True


def test_what_pages_and_recipes_name_exists() -> None:
    """Modules and classes by dotted path, files of the package by folder."""
    places = [*PAGES, *(ROOT / "recipes").rglob("*.yaml"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    names = [
        (page, name) for page in places for name in re.findall(r"ff_lightning(?:\.[A-Za-z_]\w*)+", page.read_text())
    ]
    assert len(names) > 200
    assert [(str(page), name) for page, name in names if not resolves(name)] == []
    files = [(page, name) for page in places for name in re.findall(r"ff_lightning/[\w/]+(?:\.\w+)?", page.read_text())]
    assert [(str(page), name) for page, name in files if not (ROOT / name).exists()] == []


def test_the_reference_has_every_module_but_internals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    api = importlib.import_module("api")
    files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "ff_lightning").rglob("*.py")]
    public = {".".join(path.parts) for path in files if path.parts[1] not in api.INTERNALS and path.name[:2] != "__"}
    found = re.findall(r"automodule:: (\S+)", "".join(api.pages().values()))
    assert sorted(found) == sorted(public)
    index = (ROOT / "docs" / "index.md").read_text()
    assert all(f"reference/api/{name}\n" in index for name in api.pages())
    assert all(hasattr(ff, name) and f"`ff.{name} <" in api.pages()["front_door"] for name in ff.__all__)


def test_the_table_of_strategies_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "reference" / "strategies.md").read_text()
    named = dict(re.findall(r"^- ([A-Z]+): `(tests/\S+)`$", page, re.MULTILINE))
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    letters = {
        letter
        for row in rows
        for group in re.findall(r"\(([A-Z]+(?:, [A-Z]+)*)\)", row)
        for letter in group.split(", ")
    }
    assert letters == set(named)
    for row in rows[1:]:
        claims = [cell.strip() for cell in row.split("|")[2:-1]]
        assert all(cell == "" or cell.startswith("as ") or cell.endswith(")") for cell in claims), row
    for file, test in (name.split("::") for name in named.values()):
        assert f"\ndef {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"


def test_tables_are_those_of_the_stored_results() -> None:
    pages = [page for page in PAGES if "docs/tables.py`, from" in page.read_text()]
    assert len(pages) == 6
    before = [page.read_text() for page in pages]
    try:
        subprocess.run([sys.executable, ROOT / "docs" / "tables.py"], check=False)
        assert [page.read_text() for page in pages] == before, "run `python docs/tables.py`"
    finally:
        for page, text in zip(pages, before, strict=True):
            page.write_text(text)

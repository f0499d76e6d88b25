import csv
import gzip
import json
import lzma
import re
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from ff_lightning.data import TableDataModule
from ff_lightning.data.corpora import TextOptions, read_documents, splits_of
from ff_lightning.errors import InputError

FABLES = [topics[name] for name in ("assert", "break", "del", "pass")]  # short real documents


def write(path: Path, **columns: list[Any]) -> Path:
    """Write a Parquet file."""
    import datasets

    path.parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns).to_parquet(path)
    return path


def test_language_reference_is_one_text_in_the_order_of_topics() -> None:
    (text,) = read_documents("pydoc")
    assert len(text) > 400_000
    places = [text.index(topics[name].strip("\n")) for name in ("assert", "break", "lambda", "yield")]
    assert places == sorted(places)
    assert read_documents("pydoc") == [text]


def test_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "some.text").write_bytes("\ufeffnaïve\r\nlines\n".encode())
    assert read_documents(str(tmp_path / "some.text")) == ["naïve\nlines\n"]


def test_each_text_file_of_a_folder_is_a_document(tmp_path: Path) -> None:
    for place, text in zip(("b.txt", "a.txt", "c/d.txt", "test/a.txt"), FABLES, strict=True):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text)
    (tmp_path / "README.md").write_text("not part of it")
    assert read_documents(str(tmp_path)) == [FABLES[1], FABLES[0], FABLES[2]]
    assert read_documents(str(tmp_path), split="test") == [FABLES[3]]


def test_each_row_of_a_table_is_a_document(tmp_path: Path) -> None:
    file = write(tmp_path / "some.parquet", id=[1, 2, 3, 4], words=[FABLES[0], None, "", FABLES[1]])
    assert read_documents(str(file)) == FABLES[:2]


def test_folder_of_parquet_files(tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet", text=FABLES[:3])
    write(tmp_path / "set/test.parquet", text=FABLES[3:])
    assert read_documents(str(tmp_path / "set")) == FABLES[:3]
    assert read_documents(str(tmp_path / "set"), split="test") == FABLES[3:]


def test_columns_can_be_named(tmp_path: Path) -> None:
    both = str(write(tmp_path / "both.parquet", title=["a"], text=["b"], length=[1]))
    assert read_documents(both) == ["b"]
    assert read_documents(both, options=TextOptions("title")) == ["a"]
    with pytest.raises(InputError, match=r"Passed `text_column='length'`\. The columns .* title, text, length"):
        read_documents(both, options=TextOptions("length"))
    unclear = str(write(tmp_path / "unclear.parquet", title=["a"], body=["b"]))
    with pytest.raises(InputError, match="Name one of title, body with `text_column`"):
        read_documents(unclear)


def test_table_without_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"columns of .* are label\. None is text"):
        read_documents(str(write(tmp_path / "numbers.parquet", label=[1, 2])))


@pytest.mark.parametrize("columns", [{"text": ["", ""]}, {"text": ["a", None], "empty": [None, ""]}])
def test_empty_table(columns: dict[str, list[Any]], tmp_path: Path) -> None:
    name = "empty" if "empty" in columns else None
    with pytest.raises(InputError, match=r"The train text of .* is empty"):
        read_documents(str(write(tmp_path / "some.parquet", **columns)), options=TextOptions(name))


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for source in (tmp_path / "empty.txt", tmp_path):
        with pytest.raises(InputError, match=r"The train text of .* is empty"):
            read_documents(str(source))


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    with pytest.raises(InputError, match=r"Cannot read '.*picture.png' as UTF-8 text: .*0x89"):
        read_documents(str(tmp_path / "picture.png"))


def test_set_of_images_is_not_text(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("zero", "one"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    with pytest.raises(InputError, match=r"no file is read. It holds 2 .png. Read are .txt files, or else .jsonl"):
        read_documents(str(tmp_path))


@pytest.mark.parametrize("source", ["pydoc", "file", "table"])
def test_one_text_has_no_test_split(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    place = {"file": tmp_path / "file", "table": write(tmp_path / "some.parquet", text=["words"])}.get(source, source)
    with pytest.raises(InputError, match="no test split"):
        read_documents(str(place), split="test")


def test_missing_path_is_refused() -> None:
    with pytest.raises(InputError, match=r"Passed `source='./novels.txt'`\. There is no such file or folder"):
        read_documents("./novels.txt")


def test_unreachable_hub_is_told_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"Cannot load 'someone/no_such' from the hub: .*FF_LIGHTNING_DATA"):
        read_documents("someone/no_such")


def test_known_name_reads_the_local_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"FF_LIGHTNING_DATA must name a folder with tinyshakespeare/input.txt"):
        read_documents("tinyshakespeare")
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare/input.txt").write_text("First Citizen:")
    assert read_documents("tinyshakespeare") == ["First Citizen:"]


def test_rows_are_streamed_up_to_a_number_of_characters(tmp_path: Path) -> None:
    file = str(write(tmp_path / "some.parquet", words=[FABLES[0], None, "", FABLES[1], FABLES[2]]))
    wanted = len(FABLES[0]) + 10
    assert read_documents(file, max_characters=wanted) == [FABLES[0], FABLES[1][:10]]
    assert read_documents(file, max_characters=5) == [FABLES[0][:5]]
    assert read_documents(file, max_characters=10**9) == FABLES[:3]
    with pytest.raises(InputError, match=r"Passed `text_column='other'`"):
        read_documents(file, options=TextOptions("other"), max_characters=5)


def test_streaming_reads_no_more_rows_than_needed(tmp_path: Path) -> None:
    write(tmp_path / "set/train-0.parquet", text=[FABLES[0]])
    (tmp_path / "set/train-1.parquet").write_bytes(b"damaged")
    assert read_documents(str(tmp_path / "set"), max_characters=10) == [FABLES[0][:10]]
    with pytest.raises(InputError, match=r"Cannot read the table .*train-1.parquet'"):
        read_documents(str(tmp_path / "set"))


def test_a_text_file_can_be_cut(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("some text")
    assert read_documents(str(tmp_path / "some.txt"), max_characters=4) == ["some"]


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "val.txt", "test.txt"),
        ("a.txt", "validation/a.txt", "test/a.txt"),
        ("train-00000-of-00001.txt", "valid-00000-of-00001.txt", "test-0.TXT"),
        ("wiki.train.txt", "wiki.valid.txt", "wiki.test.txt"),
        ("text_train.txt", "text_dev.txt", "text_test.txt"),
    ],
)
def test_files_called_after_a_split_are_that_split(names: tuple[str, ...], tmp_path: Path) -> None:
    for name, text in zip(names, FABLES, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert splits_of(str(tmp_path)) == ["train", "validation", "test"]
    for split, text in zip(("train", "validation", "test"), FABLES, strict=False):
        assert read_documents(str(tmp_path), split=split) == [text]


def test_a_word_in_a_name_is_a_split_only_beside_the_others(tmp_path: Path) -> None:
    for name in ("parser.test.txt", "latest.txt", "validation of claims.txt"):
        (tmp_path / name).write_text(name)
    assert splits_of(str(tmp_path)) == ["train"]
    assert len(read_documents(str(tmp_path))) == 3


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.txt", "b.md", "c.md", ".ipynb_checkpoints/a-checkpoint.txt", "val.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with caplog.at_level("INFO"):
        assert read_documents(str(tmp_path)) == ["a.txt"]
    assert f"Read {tmp_path}: 1 train, 1 validation files. Left out: 2 other files (2 .md); 1 hidden." in caplog.text


def test_a_pattern_names_the_files(tmp_path: Path) -> None:
    for name in ("a.md", "src/b.PY", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read_documents(str(tmp_path), options=TextOptions(pattern="*.md")) == ["a.md"]
    assert read_documents(str(tmp_path), options=TextOptions(pattern="src/*.py")) == ["src/b.PY"]
    with pytest.raises(InputError, match=r"with `pattern='\*.rst'`.* It holds 1 .md, 1 .txt, 1 .py. Read are"):
        read_documents(str(tmp_path), options=TextOptions(pattern="*.rst"))


def test_encodings_by_name(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes("naïve café".encode("latin-1"))
    with pytest.raises(
        InputError, match=r"Cannot read '.*old.txt' as UTF-8 text: .* Name its encoding with `encoding`"
    ):
        read_documents(str(tmp_path))
    assert read_documents(str(tmp_path), options=TextOptions(encoding="latin-1")) == ["naïve café"]
    with pytest.raises(InputError, match="Passed `encoding='latin-11'`"):
        TextOptions(encoding="latin-11")


def table(path: Path) -> Path:
    """Write two real documents, one of them with every sign that CSV and JSON must escape."""
    rows = [{"id": n, "text": text, "by": "x"} for n, text in enumerate([FABLES[0], 'a "b",\n{c}'])]
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if ".csv" in path.name or ".tsv" in path.name:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if ".tsv" in path.name else ",")
            writer.writeheader()
            writer.writerows(rows)
        elif path.name.startswith("inside"):
            json.dump({"version": 1, "data": rows}, file)
        elif ".json" in path.suffixes and not path.name.startswith("lines"):
            json.dump(rows, file)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("a.jsonl", "a.json", "lines.json", "inside.json", "a.csv", "a.tsv", "a.ndjson"),
        *("a.jsonl.gz", "a.csv.xz", "a.json.gz"),
    ],
)
def test_rows_of_a_table_are_documents(name: str, tmp_path: Path) -> None:
    place = str(table(tmp_path / name))
    assert read_documents(place) == [FABLES[0], 'a "b",\n{c}']
    assert read_documents(str(tmp_path)) == [FABLES[0], 'a "b",\n{c}']
    assert read_documents(place, options=TextOptions("by")) == ["x", "x"]
    with pytest.raises(InputError, match=r"Passed `text_column='nonsense'`\. The columns of .* are id, text, by"):
        read_documents(place, options=TextOptions("nonsense"))


@pytest.mark.parametrize("packed", [gzip.open, lzma.open])
def test_texts_may_be_compressed(packed: Any, tmp_path: Path) -> None:
    path = tmp_path / f"a.txt.{'gz' if packed is gzip.open else 'xz'}"
    with packed(path, "wt", encoding="utf-8") as file:
        file.write(FABLES[0])
    assert read_documents(str(path)) == read_documents(str(tmp_path)) == [FABLES[0]]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"Cannot read '.*{path.name}' as UTF-8 text"):
        read_documents(str(path))


@pytest.mark.parametrize(
    ("name", "text", "column", "says"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', None, "line 2 is no JSON"),
        ("a.jsonl", "[1, 2]\n", None, r"line 1 is no JSON object"),
        ("a.json", '{"text": 1}', None, "must hold one list of JSON objects"),
        ("a.csv", "text,by\na,b\na\n", None, "row 3 has more or fewer values than a heading"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', None, "Row 2 of .* has 3 in 'text', which is no text"),
        ("a.txt", "words", "text", "Passed `text_column='text'` for .*a.txt', which is read as plain text"),
    ],
)
def test_tables_that_cannot_work(name: str, text: str, column: str | None, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        read_documents(str(tmp_path / name), options=TextOptions(column))


def test_rows_without_text_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"other": 1}\n')
    with caplog.at_level("INFO"):
        assert read_documents(str(tmp_path / "a.jsonl")) == ["a"]
    assert "2 rows without a value in 'text'" in caplog.text


def test_a_text_called_after_no_split_is_left_out_beside_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train.txt", "val.txt", "holdout.txt"):
        (tmp_path / name).write_text(name)
    with caplog.at_level("INFO"):
        assert read_documents(str(tmp_path)) == ["train.txt"]
    assert "Left out: 1 called after no split, beside those called train (holdout.txt)." in caplog.text
    asked = TextOptions(pattern="*.txt")
    assert read_documents(str(tmp_path), options=asked) == ["holdout.txt", "train.txt"]


@pytest.mark.parametrize("option", [{"text_column": "x"}, {"pattern": "*.md"}, {"encoding": "latin-1"}])
def test_options_that_pydoc_does_not_know_are_refused(option: dict[str, str]) -> None:
    ((name, value),) = option.items()
    none = "utf-8" if name == "encoding" else "null"
    says = (
        rf"Passed `{name}={re.escape(repr(value))}` with `source='pydoc'`. It is one text: leave it out, or add "
        rf"`--data.{name} {none}`"
    )
    with pytest.raises(InputError, match=says):
        read_documents("pydoc", options=TextOptions(**option))
    assert read_documents("pydoc", options=TextOptions(encoding="UTF8"))


def test_an_encoding_of_a_table_that_has_its_own_is_refused(tmp_path: Path) -> None:
    source = str(write(tmp_path / "some.parquet", text=["a", "b"]))
    assert read_documents(source, options=TextOptions(encoding="utf8")) == ["a", "b"]
    says = r"Passed `encoding='latin-1'` for '.*some.parquet'. Text of a Parquet file is always UTF-8: leave it out."
    with pytest.raises(InputError, match=says):
        read_documents(source, options=TextOptions(encoding="latin-1"))
    with pytest.raises(InputError, match=says):
        TableDataModule(source, target_column="text", encoding="latin-1").setup("fit")


def test_a_pattern_for_one_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(InputError, match=r"Passed `pattern='\*.md'` with .*a.txt'`. It is one file: leave it out"):
        read_documents(str(tmp_path / "a.txt"), options=TextOptions(pattern="*.md"))
    with pytest.raises(InputError, match=r"Passed `pattern='\*.md'` .* It is a set on the hub"):
        read_documents("someone/no_such", options=TextOptions(pattern="*.md"))

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from ff_lightning.data.corpora import read_documents
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
    assert read_documents(both, text_column="title") == ["a"]
    with pytest.raises(InputError, match=r"Passed `text_column='length'`\. The columns .* title, text, length"):
        read_documents(both, text_column="length")
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
        read_documents(str(write(tmp_path / "some.parquet", **columns)), text_column=name)


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
    with pytest.raises(InputError, match=r"columns of .* are image, label\. None is text"):
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
        read_documents(file, text_column="other", max_characters=5)


def test_streaming_reads_no_more_rows_than_needed(tmp_path: Path) -> None:
    write(tmp_path / "set/train-0.parquet", text=[FABLES[0]])
    (tmp_path / "set/train-1.parquet").write_bytes(b"damaged")
    assert read_documents(str(tmp_path / "set"), max_characters=10) == [FABLES[0][:10]]
    with pytest.raises(InputError, match="Cannot load"):
        read_documents(str(tmp_path / "set"))


def test_a_text_file_can_be_cut(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("some text")
    assert read_documents(str(tmp_path / "some.txt"), max_characters=4) == ["some"]

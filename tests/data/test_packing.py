from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from ff_lightning.data.packing import TokenFiles, cut_documents, pack
from ff_lightning.data.tokenizers import ByteTokenizer, CharacterTokenizer

TOPICS = [topics[name] for name in ("assert", "break", "del", "pass")]  # short real documents


@pytest.mark.parametrize("first", range(8))
def test_documents_are_cut_without_loss(first: int) -> None:
    before, after = cut_documents(["abc", "d", "efg"], first)
    assert ("".join(before), "".join(after)) == ("abcdefg"[:first], "abcdefg"[first:])
    assert all(before + after)


def test_separator_stands_between_documents_only() -> None:
    tokenizer = ByteTokenizer()
    packed = pack(TOPICS, tokenizer, separator="\n#\n")
    assert tokenizer.decode(packed.tokens.tolist()) == "\n#\n".join(TOPICS)
    assert packed.characters == sum(map(len, TOPICS))
    assert np.array_equal(pack(TOPICS[:1], tokenizer, separator="#").tokens, tokenizer.encode(TOPICS[0]))


@pytest.mark.parametrize(("size", "kind"), [(65_536, np.uint16), (65_537, np.int32)])
def test_the_smaller_type_that_holds_all_tokens(size: int, kind: type) -> None:
    characters = "".join(map(chr, range(size)))
    packed = pack([characters], CharacterTokenizer(characters), separator="")
    assert packed.tokens.dtype == kind
    assert np.array_equal(packed.tokens, np.arange(size))


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer.from_text("".join(TOPICS))
    splits = {"train": pack(TOPICS[:3], tokenizer, separator="\n"), "test": pack(TOPICS[3:], tokenizer, separator="")}
    files = TokenFiles(tmp_path / "cache", {"a": 1, "b": None})
    assert files.read() is None
    files.write(splits, tokenizer)
    read, state = TokenFiles(tmp_path / "cache", {"b": None, "a": 1}).read() or ({}, {})
    assert read.keys() == splits.keys()
    for name, packed in splits.items():
        assert isinstance(read[name].tokens, np.memmap)
        assert read[name].tokens.dtype == packed.tokens.dtype
        assert np.array_equal(read[name].tokens, packed.tokens)
        assert (read[name].characters, read[name].bytes) == (packed.characters, packed.bytes)
    assert state == tokenizer.to_dict()
    assert TokenFiles(tmp_path / "cache", {"a": 2, "b": None}).read() is None


def test_the_first_of_two_writers_is_kept(tmp_path: Path) -> None:
    tokenizer, files = ByteTokenizer(), TokenFiles(tmp_path, {})
    for text in ("first", "second"):
        files.write({"train": pack([text], tokenizer, separator="")}, tokenizer)
    read, _ = files.read() or ({}, {})
    assert tokenizer.decode(read["train"].tokens.tolist()) == "first"
    assert list(tmp_path.iterdir()) == [files.place]


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path) -> None:
    files = TokenFiles(tmp_path, {})
    with pytest.raises(FileNotFoundError):
        files.write({"no/such/folder": pack(["a"], ByteTokenizer(), separator="")}, ByteTokenizer())
    assert files.read() is None
    assert list(tmp_path.iterdir()) == []

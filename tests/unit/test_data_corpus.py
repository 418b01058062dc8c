import sys
from dataclasses import replace
from pathlib import Path

import pytest

from p2ptrain.config.load import parse_run
from p2ptrain.config.presets import preset_text
from p2ptrain.config.schema import DataConfig
from p2ptrain.data import corpus as corpus_module
from p2ptrain.data.corpus import STDLIB_BYTES, Corpus, TextFile, load_corpus
from p2ptrain.errors import DataError
from p2ptrain.ids import Digest

NANO = parse_run(preset_text("nano"), "nano")
FOLDER = DataConfig(source="folder", path="text", pattern="**/*.txt", validation_percent=30)


def loaded(data: DataConfig, base: Path) -> Corpus:
    return load_corpus(replace(NANO, data=data), base)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for index in range(120):
        file = tmp_path / "text" / f"part{index % 3}" / f"{index}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"file {index}\n")
    (tmp_path / "text" / "other.md").write_text("not asked for\n")
    return tmp_path


def test_each_file_is_either_trained_on_or_held_out(base: Path) -> None:
    corpus = loaded(FOLDER, base)
    train, validation = (part.tobytes().split(b"\f")[:-1] for part in (corpus.train, corpus.validation))
    assert sorted(train + validation) == sorted(f"file {index}\n".encode() for index in range(120))
    assert 20 <= len(validation) <= 52


def test_of_few_files_the_end_of_each_is_held_out(tmp_path: Path) -> None:
    data = DataConfig(source="folder", path=".", pattern="*.txt", validation_percent=20)
    (tmp_path / "lines.txt").write_text("".join(f"line {index}\n" for index in range(10)))
    (tmp_path / "line.txt").write_text("0123456789")
    corpus = loaded(data, tmp_path)
    train, validation = (part.tobytes().split(b"\f")[:-1] for part in (corpus.train, corpus.validation))
    assert sorted(train) == [b"01234567", "".join(f"line {index}\n" for index in range(8)).encode()]
    assert sorted(validation) == [b"89", b"line 8\nline 9\n"]


def test_a_line_as_long_as_a_book_is_cut_in_a_character_s_end(tmp_path: Path) -> None:
    data = DataConfig(source="folder", path=".", pattern="*.txt")
    content = "A title\n" + "é" * 50_000
    (tmp_path / "book.txt").write_text(content)
    corpus = loaded(data, tmp_path)
    train, validation = (part.tobytes()[:-1].decode() for part in (corpus.train, corpus.validation))
    assert train + validation == content
    assert len(validation) == pytest.approx(0.05 * len(content), rel=0.01)


def test_a_file_that_changes_while_the_text_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a" * 1000)
    fingerprint = corpus_module._fingerprint

    def written_to_meanwhile(files: list[TextFile]) -> Digest:
        (tmp_path / "a.txt").write_text("b" * 1000)
        return fingerprint(files)

    monkeypatch.setattr(corpus_module, "_fingerprint", written_to_meanwhile)
    with pytest.raises(DataError, match=r"a\.txt was changed while the text was read"):
        loaded(DataConfig(source="folder", path=".", pattern="*.txt"), tmp_path)


def test_names_that_are_not_utf_8_are_names_too(tmp_path: Path) -> None:
    (tmp_path / "b\udce9.txt").write_text("a" * 1000)
    assert len(loaded(DataConfig(source="folder", path=".", pattern="*.txt"), tmp_path).train) == 951


@pytest.mark.parametrize("content", ["a" * 3000, "ab\n" * 1000, "a\n" + "b" * 3000, "b" * 3000 + "\n"])
def test_one_file_is_enough(tmp_path: Path, content: str) -> None:
    (tmp_path / "input.txt").write_text(content)
    (tmp_path / "empty.txt").write_text("")
    corpus = loaded(DataConfig(source="folder", path=".", pattern="*.txt"), tmp_path)
    train, validation = (part.tobytes().replace(b"\f", b"") for part in (corpus.train, corpus.validation))
    assert train
    assert validation
    assert (train + validation).decode() == content


def test_the_order_of_the_directory_does_not_matter(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = loaded(FOLDER, base)
    listed = list((base / "text").glob("**/*.txt"))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: reversed(listed))
    found = loaded(FOLDER, base)
    assert found.fingerprint == expected.fingerprint
    assert found.train.tobytes() == expected.train.tobytes()


def test_the_fingerprint_changes_with_a_name_that_keeps_its_place() -> None:
    one, other = (TextFile(Path(name), name, b"x", 1) for name in "ab")
    assert corpus_module._fingerprint([one]) != corpus_module._fingerprint([other])


@pytest.mark.parametrize("change", ["content", "name"])
def test_the_fingerprint_covers_names_and_contents(base: Path, change: str) -> None:
    before = loaded(FOLDER, base).fingerprint
    file = base / "text" / "part0" / "0.txt"
    if change == "content":
        file.write_text("file 0!")
    else:
        file.rename(file.with_name("renamed.txt"))
    assert loaded(FOLDER, base).fingerprint != before


def test_another_text_than_the_manifests_is_refused_with_the_remedy(base: Path) -> None:
    right = loaded(FOLDER, base).fingerprint
    assert loaded(replace(FOLDER, fingerprint=right), base).fingerprint == right
    with pytest.raises(DataError, match=r"manifest says 00000000: .* copy the folder again"):
        loaded(replace(FOLDER, fingerprint="0" * 64), base)
    version = ".".join(map(str, sys.version_info[:3]))
    with pytest.raises(DataError, match=rf"Python {version} in /.*use the Python version that made the manifest"):
        loaded(DataConfig(fingerprint="0" * 64), base)


def test_a_missing_folder_no_files_and_a_one_sided_split_are_refused(base: Path) -> None:
    with pytest.raises(DataError, match="missing is not a folder"):
        loaded(replace(FOLDER, path="missing"), base)
    with pytest.raises(DataError, match="no files to learn from"):
        loaded(replace(FOLDER, pattern="*.rs"), base)
    with pytest.raises(DataError, match="holds out 0 of 120 files"):
        loaded(replace(FOLDER, validation_percent=0), base)
    with pytest.raises(DataError, match="holds out 120 of 120 files"):
        loaded(replace(FOLDER, validation_percent=100), base)


def test_the_standard_library_is_enough_text_without_tests_or_other_peoples_packages() -> None:
    corpus = loaded(DataConfig(), Path())
    assert 2_000_000 < len(corpus.train) + len(corpus.validation) <= STDLIB_BYTES * 1.01
    assert len(corpus.validation) > 100_000
    text = corpus.train.tobytes() + corpus.validation.tobytes()
    assert b"class ArgumentParser(" in text
    assert b"import unittest\nfrom test" not in text
    assert b"hypothesis" not in text

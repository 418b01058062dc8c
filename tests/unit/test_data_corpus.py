import sys
from dataclasses import replace
from pathlib import Path

import pytest

from p2ptrain.config.schema import DataConfig
from p2ptrain.data import corpus as corpus_module
from p2ptrain.data.corpus import STDLIB_BYTES, load_corpus
from p2ptrain.errors import DataError

FOLDER = DataConfig(source="folder", path="text", pattern="**/*.txt", validation_percent=30)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for index in range(20):
        file = tmp_path / "text" / f"part{index % 3}" / f"{index}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"file {index}\n")
    (tmp_path / "text" / "other.md").write_text("not asked for\n")
    return tmp_path


def test_each_file_is_either_trained_on_or_held_out(base: Path) -> None:
    corpus = load_corpus(FOLDER, base)
    train, validation = (part.tobytes().split(b"\f")[:-1] for part in (corpus.train, corpus.validation))
    assert sorted(train + validation) == sorted(f"file {index}\n".encode() for index in range(20))
    assert 2 <= len(validation) <= 10


def test_the_order_of_the_directory_does_not_matter(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_corpus(FOLDER, base)
    listed = list((base / "text").glob("**/*.txt"))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: reversed(listed))
    found = load_corpus(FOLDER, base)
    assert found.fingerprint == expected.fingerprint
    assert found.train.tobytes() == expected.train.tobytes()


def test_the_fingerprint_changes_with_a_name_that_keeps_its_place() -> None:
    assert corpus_module._fingerprint([("a", b"x")]) != corpus_module._fingerprint([("b", b"x")])


@pytest.mark.parametrize("change", ["content", "name"])
def test_the_fingerprint_covers_names_and_contents(base: Path, change: str) -> None:
    before = load_corpus(FOLDER, base).fingerprint
    file = base / "text" / "part0" / "0.txt"
    if change == "content":
        file.write_text("file 0!")
    else:
        file.rename(file.with_name("renamed.txt"))
    assert load_corpus(FOLDER, base).fingerprint != before


def test_another_text_than_the_manifests_is_refused_with_the_remedy(base: Path) -> None:
    right = load_corpus(FOLDER, base).fingerprint
    assert load_corpus(replace(FOLDER, fingerprint=right), base).fingerprint == right
    with pytest.raises(DataError, match=r"manifest says 00000000: .* copy the folder again"):
        load_corpus(replace(FOLDER, fingerprint="0" * 64), base)
    version = ".".join(map(str, sys.version_info[:3]))
    with pytest.raises(DataError, match=rf"Python {version} in /.*use the Python version that made the manifest"):
        load_corpus(DataConfig(fingerprint="0" * 64), base)


def test_a_missing_folder_no_files_and_a_one_sided_split_are_refused(base: Path) -> None:
    with pytest.raises(DataError, match="missing is not a folder"):
        load_corpus(replace(FOLDER, path="missing"), base)
    with pytest.raises(DataError, match="no files to learn from"):
        load_corpus(replace(FOLDER, pattern="*.rs"), base)
    with pytest.raises(DataError, match="holds out 0 of 20 files"):
        load_corpus(replace(FOLDER, validation_percent=0), base)
    with pytest.raises(DataError, match="holds out 20 of 20 files"):
        load_corpus(replace(FOLDER, validation_percent=100), base)


def test_the_standard_library_is_enough_text_without_tests_or_other_peoples_packages() -> None:
    corpus = load_corpus(DataConfig(), Path())
    assert 2_000_000 < len(corpus.train) + len(corpus.validation) <= STDLIB_BYTES * 1.01
    assert len(corpus.validation) > 100_000
    text = corpus.train.tobytes() + corpus.validation.tobytes()
    assert b"class ArgumentParser(" in text
    assert b"import unittest\nfrom test" not in text
    assert b"hypothesis" not in text

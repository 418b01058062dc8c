"""What a manifest that somebody else sent may make a peer read."""

from dataclasses import replace
from pathlib import Path

import pytest

from p2ptrain.cli.run_source import RunSource, tokenizer_for, with_text_in
from p2ptrain.config.load import parse_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.config.schema import DataConfig
from p2ptrain.data.tokenizer import hash_of
from p2ptrain.errors import DataError, UsageError
from p2ptrain.node import manifest_exchange

NANO = parse_run(preset_text("nano"), "nano")
FILE = b"a tokenizer"
FROM = ("/ip4/127.0.0.1/tcp/1/p2p/someone",)


def source(folder: Path, *, fetched: bool, **data: str) -> RunSource:
    config = replace(NANO, data=DataConfig(**data))  # type: ignore[arg-type]
    return RunSource(
        text="", name="run", folder=folder, config=config, id=run_id(config), bootstraps=FROM if fetched else ()
    )


def test_a_fetched_manifest_does_not_choose_the_folder_that_is_read(tmp_path: Path) -> None:
    secret = {"source": "folder", "path": "/home/me", "pattern": "**/*"}
    with pytest.raises(UsageError, match=r"must have, too: say where it is with --text FOLDER .*'/home/me'"):
        with_text_in(source(tmp_path, fetched=True, **secret), None)  # type: ignore[arg-type]
    named = with_text_in(source(tmp_path, fetched=True, **secret), tmp_path / "books")  # type: ignore[arg-type]
    assert named.data.path == str(tmp_path / "books")
    assert named.data.pattern == "**/*"


def test_ones_own_manifest_is_followed_unless_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = source(tmp_path, fetched=False, source="folder", path="books")  # type: ignore[arg-type]
    assert with_text_in(mine, None) == mine.config
    monkeypatch.chdir(tmp_path)
    assert with_text_in(mine, Path("others")).data.path == str(tmp_path / "others")
    with pytest.raises(UsageError, match="this run reads no folder, but python-stdlib"):
        with_text_in(source(tmp_path, fetched=True), Path("books"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom the network was asked for a tokenizer."""
    calls: list[str] = []

    async def fetch_tokenizer(data: DataConfig, addresses: tuple[str, ...]) -> bytes:
        calls.extend(addresses)
        return FILE

    monkeypatch.setattr(manifest_exchange, "fetch_tokenizer", fetch_tokenizer)
    return calls


def with_tokenizer(folder: Path, *, fetched: bool) -> RunSource:
    return source(folder, fetched=fetched, tokenizer="tokenizer.json", tokenizer_hash=str(hash_of(FILE)))


def test_a_tokenizer_is_taken_from_the_home_then_from_beside_ones_own_manifest(
    tmp_path: Path, asked: list[str]
) -> None:
    home, beside = tmp_path / "home", tmp_path / "tokenizer.json"
    home.mkdir()
    beside.write_bytes(FILE)
    assert tokenizer_for(with_tokenizer(tmp_path, fetched=False), FROM, home) == FILE
    beside.write_bytes(b"another")
    with pytest.raises(DataError, match="peers with other tokens"):
        tokenizer_for(with_tokenizer(tmp_path, fetched=False), FROM, home)
    (home / "tokenizer.json").write_bytes(FILE)
    assert tokenizer_for(with_tokenizer(tmp_path, fetched=False), FROM, home) == FILE
    assert asked == []
    (home / "tokenizer.json").write_bytes(b"spoilt")
    beside.unlink()
    assert tokenizer_for(with_tokenizer(tmp_path, fetched=False), FROM, home) == FILE
    assert asked == [*FROM]


def test_another_tokenizer_in_the_working_folder_is_none_of_a_fetched_runs_business(
    tmp_path: Path, asked: list[str]
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"of another run")
    assert tokenizer_for(with_tokenizer(tmp_path, fetched=True), FROM, tmp_path / "home") == FILE
    assert asked == [*FROM]


def test_a_run_on_bytes_asks_for_nothing(tmp_path: Path, asked: list[str]) -> None:
    (tmp_path / "tokenizer.json").write_bytes(FILE)
    assert tokenizer_for(source(tmp_path, fetched=True), FROM, tmp_path) == b""
    assert not asked

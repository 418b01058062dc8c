"""Tokens: bytes, and what a ``tokenizer.json`` says."""

import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from p2ptrain.config.load import parse_run
from p2ptrain.config.presets import preset_text
from p2ptrain.config.schema import DataConfig, RunConfig
from p2ptrain.data import token_cache, tokenizer
from p2ptrain.data.corpus import load_corpus
from p2ptrain.data.tokenizer import (
    END_TOKENS,
    ByteTokenizer,
    FileTokenizer,
    end_token_of,
    hash_of,
    load_tokenizer,
    padded,
    read_tokenizer_file,
    train_tokenizer,
)
from p2ptrain.errors import DataError

NANO = parse_run(preset_text("nano"), "nano")
END = END_TOKENS[0]
TEXTS = [path.read_bytes() for path in islice(sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")), 10)]
AWKWARD = ["", "a", "naïve café\n", "日本語のテキスト 🚀🚀", "\x00\x01 tabs\t\tand   spaces\r\n", "<|endoftext|>"]


@pytest.fixture(scope="module")
def file() -> bytes:
    return train_tokenizer(TEXTS, 600)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "p2ptrain" / "tokens"


@pytest.fixture
def base(tmp_path: Path, file: bytes) -> Path:
    for index, text in enumerate(TEXTS):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{index}.txt").write_bytes(text)
    (tmp_path / "tokenizer.json").write_bytes(file)
    return tmp_path


def run_with(file: bytes, **data: object) -> RunConfig:
    usual: dict[str, object] = {
        "source": "folder",
        "path": "text",
        "pattern": "*.txt",
        "validation_percent": 20,
        "tokenizer": "tokenizer.json",
        "tokenizer_hash": str(hash_of(file)),
        "end_token": END,
    }
    model = replace(NANO.model, vocabulary=padded(600))
    return replace(NANO, data=DataConfig(**(usual | data)), model=model)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", AWKWARD)
def test_what_was_encoded_is_decoded(file: bytes, text: str) -> None:
    for one in (ByteTokenizer(), FileTokenizer(file, END)):
        (tokens,) = one.encode([text.encode()])
        assert tokens.dtype == one.dtype
        assert tokens.max() < one.vocabulary
        decoded = b"".join(one.decode(int(token) for token in tokens[:-1]))
        assert decoded == text.encode()


def test_text_as_tokens_is_shorter_and_ends_with_its_end(file: bytes) -> None:
    made = FileTokenizer(file, END)
    assert made.vocabulary == 600
    tokens = list(made.encode(TEXTS))
    assert sum(map(len, tokens)) < 0.6 * sum(map(len, TEXTS))
    assert {int(piece[-1]) for piece in tokens} == {made.end_id}
    assert not any((piece[:-1] == made.end_id).any() for piece in tokens)


def test_without_an_end_token_nothing_is_put_between_files(file: bytes) -> None:
    with_end, without = (list(FileTokenizer(file, end).encode(TEXTS)) for end in (END, ""))
    assert [len(piece) for piece in without] == [len(piece) - 1 for piece in with_end]


def test_a_character_comes_whole_with_the_last_of_its_tokens(file: bytes) -> None:
    made = FileTokenizer(file, END)
    pieces = list(made.decode(made.encode_prompt("🚀".encode())))
    assert len(pieces) > 1
    assert pieces[-1] == "🚀".encode()
    assert not any(pieces[:-1])


def test_half_a_character_is_not_lost_at_the_end(file: bytes) -> None:
    made = FileTokenizer(file, END)
    assert b"".join(made.decode(made.encode_prompt("ab🚀".encode())[:-1])) == "ab\N{REPLACEMENT CHARACTER}".encode()


def test_words_keep_the_spaces_that_belong_to_their_tokens() -> None:
    """As in Llama 2: a token for a word begins with its space, except at the text's beginning."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<unk>", "▁the", "▁quick", "▁fox"]
    model = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    made = FileTokenizer(model.to_str().encode(), "")
    assert made.encode_prompt(b"the quick fox") == [1, 2, 3]
    assert list(made.decode([1, 2, 3])) == [b"the", b" quick", b" fox"]


def test_an_empty_prompt_is_what_comes_between_files(file: bytes) -> None:
    assert ByteTokenizer().encode_prompt(b"") == [ord("\f")]
    assert FileTokenizer(file, END).encode_prompt(b"") == [FileTokenizer(file, END).end_id]
    assert FileTokenizer(file, "").encode_prompt(b"") == [0]


@pytest.mark.parametrize("text", [b"line\n" * 1000, "日本語".encode() * 700, bytes(range(256)) * 20, b"\n"])
def test_long_files_are_cut_without_loss(file: bytes, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    made = FileTokenizer(file, END)
    whole = b"".join(made.decode(int(token) for piece in made.encode([text]) for token in piece))
    monkeypatch.setattr(tokenizer, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(tokenizer, "_BATCH_BYTES", 350)
    pieces = list(made.encode([b"first", text, b"last"]))
    assert len(pieces) > 3 or text == b"\n"
    assert sum(int(piece[-1]) == made.end_id for piece in pieces) == 3
    cut = b"".join(made.decode(int(token) for piece in pieces for token in piece))
    if text.isascii() or text.startswith("日".encode()):
        assert cut == b"first" + END.encode() + whole + b"last" + END.encode()


def test_corpus_has_the_runs_tokens(base: Path, file: bytes) -> None:
    run = run_with(file)
    corpus = load_corpus(run, base)
    as_bytes = load_corpus(run_with(file, tokenizer="", tokenizer_hash="", end_token=""), base)
    made = FileTokenizer(file, END)
    for tokens, text in ((corpus.train, as_bytes.train), (corpus.validation, as_bytes.validation)):
        assert tokens.dtype == np.uint16
        decoded = b"".join(made.decode(map(int, tokens)))
        assert decoded.replace(END.encode(), b"\f") == text.tobytes()
        assert not tokens.flags.writeable
        assert not text.flags.writeable
    assert corpus.fingerprint == as_bytes.fingerprint


def test_tokens_are_made_once_and_again_for_other_text(
    base: Path, file: bytes, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = run_with(file), 0
    encode = FileTokenizer.encode

    def counted(self: FileTokenizer, texts: Iterator[bytes]) -> Iterator[np.ndarray]:
        nonlocal calls
        calls += 1
        return encode(self, texts)

    monkeypatch.setattr(FileTokenizer, "encode", counted)
    progress: list[tuple[int, int]] = []
    first = load_corpus(run, base, report=lambda *done: progress.append(done))
    total_bytes = sum(map(len, TEXTS))
    assert progress[-1] == (total_bytes, total_bytes)
    assert progress == sorted(progress)
    again = load_corpus(run, base, report=lambda *_: pytest.fail("nothing is made"))
    assert calls == 2  # training text and held-out text
    assert np.array_equal(first.train, again.train)
    assert len(list(own_cache.iterdir())) == 2
    load_corpus(run_with(file, end_token=""), base)
    load_corpus(run_with(file, validation_percent=30), base)
    (base / "text" / "0.txt").write_text("changed")
    changed = load_corpus(run, base)
    assert calls == 8
    assert not np.array_equal(changed.train, first.train)
    assert not list(own_cache.glob(".*"))


def test_tokens_stay_in_memory_where_nothing_can_be_kept(base: Path, file: bytes, own_cache: Path) -> None:
    kept = load_corpus(run_with(file), base).train
    expected = kept.tolist()
    for one in own_cache.iterdir():
        one.unlink()
    own_cache.rmdir()
    own_cache.write_text("a file where the folder should be")
    found = load_corpus(run_with(file), base).train
    assert found.tolist() == expected
    assert not found.flags.writeable


def test_tokens_that_were_cut_short_on_the_disk_are_made_again(base: Path, file: bytes, own_cache: Path) -> None:
    expected = load_corpus(run_with(file), base).train.tolist()
    for cut_bytes in (1, 2):
        for path in own_cache.iterdir():
            path.write_bytes(path.read_bytes()[:-cut_bytes])
        assert load_corpus(run_with(file), base).train.tolist() == expected


def test_a_user_without_a_home_keeps_no_tokens(base: Path, file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_corpus(run_with(file), base).train.tolist()
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert load_corpus(run_with(file), base).train.tolist() == expected


def test_half_written_tokens_are_not_taken_for_all(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.arange(4, dtype=np.uint16)
        raise DataError("a file is gone")

    with pytest.raises(DataError, match="is gone"):
        token_cache.cached_tokens(("a",), broken, np.dtype(np.uint16), tmp_path)
    assert not list(tmp_path.iterdir())
    tokens = token_cache.cached_tokens(("a",), lambda: iter([]), np.dtype(np.uint16), tmp_path)
    assert tokens.shape == (0,)


def test_another_tokenizer_than_the_manifests_is_refused(base: Path, file: bytes) -> None:
    run = run_with(file)
    assert read_tokenizer_file(run.data, base) == file
    (base / "tokenizer.json").write_bytes(train_tokenizer(TEXTS[:5], 500))
    with pytest.raises(DataError, match=r"data.tokenizer_hash is .*: peers with other tokens would spoil the model"):
        load_corpus(run, base)
    (base / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"cannot read .*No such file.*join by the address"):
        load_corpus(run, base)


def test_what_is_no_tokenizer_is_refused_with_where_to_get_one(file: bytes) -> None:
    for wrong in (b"", b"{}", b'{"a": 1}', b"\xff\x00", b"[1]"):
        with pytest.raises(DataError, match=r"is no tokenizer\.json"):
            FileTokenizer(wrong, "")
    with pytest.raises(DataError, match=r"no token '</s>'; it has <\|endoftext\|>"):
        FileTokenizer(file, "</s>")


def test_more_tokens_than_the_model_has_room_for_are_refused(file: bytes) -> None:
    run = run_with(file)
    small = replace(run, model=replace(run.model, vocabulary=599))
    with pytest.raises(DataError, match=r"model.vocabulary = 599 and tokenizer.json has 600 tokens; .* to 640"):
        load_tokenizer(small, file)
    exact = replace(run, model=replace(run.model, vocabulary=600))
    assert load_tokenizer(exact, file).vocabulary == 600


def test_a_tokenizer_is_made_the_same_each_time(file: bytes) -> None:
    assert train_tokenizer(TEXTS, 600) == file
    assert end_token_of(file) == END
    with pytest.raises(DataError, match="vocabulary of 256 is too small; choose 257 or more"):
        train_tokenizer(TEXTS, 256)
    least = FileTokenizer(train_tokenizer(TEXTS, 257), END)
    assert least.vocabulary == 257


def test_truncation_and_padding_that_a_published_file_asks_for_are_left_out(file: bytes) -> None:
    from tokenizers import Tokenizer

    published = Tokenizer.from_buffer(file)
    published.enable_truncation(4)
    published.enable_padding(length=4000)
    (tokens,) = FileTokenizer(published.to_str().encode(), "").encode([TEXTS[0]])
    (expected,) = FileTokenizer(file, "").encode([TEXTS[0]])
    assert np.array_equal(tokens, expected)


def test_padded_vocabularies() -> None:
    assert [padded(n) for n in (1, 64, 65, 600, 32000, 50257)] == [64, 64, 128, 640, 32000, 50304]


def test_what_is_no_file_is_not_read(base: Path, file: bytes) -> None:
    (base / "tokenizer.json").unlink()
    os.mkfifo(base / "tokenizer.json")  # opening it would wait for ever
    with pytest.raises(DataError, match=r"is no tokenizer\.json, but no file"):
        read_tokenizer_file(run_with(file).data, base)


def llama_2_like() -> FileTokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = Tokenizer(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    model.decoder = decoders.Sequence(steps)
    return FileTokenizer(model.to_str().encode(), "</s>")


def test_half_characters_of_a_half_learned_model_do_not_end_its_text() -> None:
    made = llama_2_like()
    text = "a ba é 🚀 ab"
    assert b"".join(made.decode(made.encode_prompt(text.encode()))).decode() == text
    chance = np.random.default_rng(0)
    for _ in range(200):
        tokens = chance.integers(3, made.vocabulary, 40).tolist()
        written = b"".join(made.decode(tokens)).decode()
        assert "a" in written or 263 not in tokens


def test_whatever_a_broken_tokenizer_does_is_an_error_for_people() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    without_unknown = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))
    without_unknown.pre_tokenizer = pre_tokenizers.Whitespace()
    made = FileTokenizer(without_unknown.to_str().encode(), "")
    with pytest.raises(DataError, match="it cannot encode the text"):
        list(made.encode([b"a b"]))
    with pytest.raises(DataError, match="it cannot encode the prompt"):
        made.encode_prompt(b"a b")


def test_a_panic_in_the_package_is_an_error_for_people(file: bytes) -> None:
    broken = json.loads(file) | {"pre_tokenizer": {"type": "FixedLength", "length": 0}}
    with pytest.raises(DataError, match=r"data\.tokenizer: "):
        list(FileTokenizer(json.dumps(broken).encode(), "").encode([b"some text"]))


def test_long_texts_are_learned_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies across a cut cannot become a token."""
    text = b"abcdef" * 500
    assert max(map(len, tokens_of(train_tokenizer([text], 300)))) > 5
    monkeypatch.setattr(tokenizer, "_CHUNK_BYTES", 3)
    assert max(map(len, tokens_of(train_tokenizer([text], 300)) - {END})) == 3


def tokens_of(file: bytes) -> set[str]:
    return {*json.loads(file)["model"]["vocab"]}


def test_more_tokens_than_16_bits_hold_take_32() -> None:
    from tokenizers import Tokenizer, models

    for last, dtype in ((65535, np.uint16), (65536, np.uint32)):
        words = Tokenizer(models.WordLevel({"a": 0, "b": last}, unk_token="a"))
        made = FileTokenizer(words.to_str().encode(), "")
        (tokens,) = made.encode([b"b"])
        assert (made.vocabulary, tokens.dtype, tokens.tolist()) == (last + 1, dtype, [last])


def test_a_file_that_is_too_large_is_not_read(base: Path, file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "MAX_FILE_BYTES", len(file))
    assert read_tokenizer_file(run_with(file).data, base) == file
    monkeypatch.setattr(tokenizer, "MAX_FILE_BYTES", len(file) - 1)
    with pytest.raises(DataError, match="too large a one"):
        read_tokenizer_file(run_with(file).data, base)

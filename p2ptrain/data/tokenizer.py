"""From text to tokens and back: one token per byte, or what a ``tokenizer.json`` of Hugging Face's tokenizers says."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from p2ptrain.config.schema import DataConfig, RunConfig
from p2ptrain.errors import DataError
from p2ptrain.ids import Digest, short

FILE_END = b"\f"
"""Between files, as bytes: white space to Python and rare in text, so the model can learn what it means."""

END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
"""What well-known tokenizers put at the end of a text, the first that a tokenizer has."""

MAX_FILE_BYTES = 256 << 20
"""Of a ``tokenizer.json``; the largest known has 33 MB (Gemma's, 256,000 tokens)."""
_CHUNK_BYTES = 1 << 18
"""Longer files are cut: what a tokenizer makes of a text takes many times the text's memory."""
_BATCH_BYTES = 4 << 20
"""Encoded at once, on all cores."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocabulary(self) -> int:
        """How many token ids there are, from 0."""

    @property
    def dtype(self) -> np.dtype:
        """Of encoded text: the smallest that holds every id."""

    @property
    def identity(self) -> str:
        """Two tokenizers of one identity make the same tokens."""

    def encode(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Token ids of all texts, each with what marks its end, in pieces of shape [tokens] and of ``dtype``."""

    def encode_prompt(self, text: bytes) -> list[int]:
        """Token ids of a text that is to be continued; of an empty one, what comes between files."""

    def decode(self, tokens: Iterable[int]) -> Iterator[bytes]:
        """The text of the tokens, as it becomes known."""


class ByteTokenizer:
    """One token per byte: nothing to download or to disagree about."""

    vocabulary = 256
    dtype = np.dtype(np.uint8)
    identity = "bytes"

    def encode(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        """See ``Tokenizer``."""
        for text in texts:
            yield np.frombuffer(text + FILE_END, dtype=np.uint8)

    def encode_prompt(self, text: bytes) -> list[int]:
        """See ``Tokenizer``."""
        return list(text or FILE_END)

    def decode(self, tokens: Iterable[int]) -> Iterator[bytes]:
        """See ``Tokenizer``."""
        return (bytes([token]) for token in tokens)


class FileTokenizer:
    """A ``tokenizer.json``: a form that nearly all published models come with.

    Args:
        file: its content.
        end_token: put after every file; "" puts nothing.

    Raises:
        DataError: this is no tokenizer, or it does not know ``end_token``.
    """

    def __init__(self, file: bytes, end_token: str) -> None:
        self._tokenizer = _parse(file)
        self.end_id: int | None = None
        if end_token:
            self.end_id = self._tokenizer.token_to_id(end_token)
            if self.end_id is None:
                known = [token for token in END_TOKENS if self._tokenizer.token_to_id(token) is not None]
                raise DataError(
                    f"data.end_token: this tokenizer has no token {end_token!r};"
                    f" {'it has ' + ', '.join(known) if known else 'name one that it has, or leave it empty'}"
                )
        # Not the number of tokens: ids may have gaps.
        self.vocabulary: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.dtype = np.dtype(np.uint16 if self.vocabulary <= 1 << 16 else np.uint32)
        self.identity = f"{hash_of(file)} {end_token} {_CHUNK_BYTES} {version('tokenizers')}"

    def encode(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        """See ``Tokenizer``; what is not UTF-8 becomes U+FFFD."""
        end = () if self.end_id is None else (self.end_id,)
        for batch in _batches(texts):
            with _failing_as("it cannot encode the text"):
                encoded = self._tokenizer.encode_batch_fast([chunk.text for chunk in batch], add_special_tokens=False)
            for chunk, encoding in zip(batch, encoded, strict=True):
                yield np.array([*encoding.ids, *(end if chunk.is_last else ())], dtype=self.dtype)

    def encode_prompt(self, text: bytes) -> list[int]:
        """See ``Tokenizer``."""
        with _failing_as("it cannot encode the prompt"):
            tokens: list[int] = self._tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False).ids
        return tokens or [self.end_id or 0]

    def decode(self, tokens: Iterable[int]) -> Iterator[bytes]:
        """See ``Tokenizer``; a character comes with the last of its tokens."""
        # What a token reads as depends on those before it, but not on many. (The package's DecodeStream fails on
        # tokens that are half characters, which half-learned models write.)
        told: list[int] = []
        withheld: list[int] = []
        for token in tokens:
            withheld.append(token)
            text = self._continues(told, withheld)
            if text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield b""
            else:
                yield text.encode()
                told, withheld = withheld, []
        if withheld:
            yield self._continues(told, withheld).encode()

    def _continues(self, told: list[int], withheld: list[int]) -> str:
        """What ``withheld`` adds to the text of ``told``."""
        with _failing_as("it cannot decode tokens"):
            before, after = (
                self._tokenizer.decode(tokens, skip_special_tokens=False) for tokens in (told, told + withheld)
            )
        return str(after[len(before) :])


def read_tokenizer_file(data: DataConfig, base: Path) -> bytes:
    """The ``tokenizer.json`` that a manifest names, or b"" where a token is a byte.

    Args:
        data: ``tokenizer`` and, if set, the hash that the file must have.
        base: folder that ``data.tokenizer`` is relative to: the manifest's.

    Raises:
        DataError: it cannot be read, or is another one than the manifest's.
    """
    if not data.tokenizer:
        return b""
    path = base / data.tokenizer
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > MAX_FILE_BYTES):
            raise DataError(f"data.tokenizer: {path} is no tokenizer.json, but no file or too large a one")
        file = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"data.tokenizer: cannot read {path}: {error.strerror}; put the run's tokenizer there, or join by the"
            " address of a peer, which hands it on"
        ) from error
    check_tokenizer_file(data, file, origin=str(path))
    return file


def check_tokenizer_file(data: DataConfig, file: bytes, *, origin: str) -> None:
    """Raise DataError unless ``file`` is the one whose hash the manifest names, if it names one."""
    if data.tokenizer_hash and (found := hash_of(file)) != data.tokenizer_hash:
        raise DataError(
            f"{origin} has the hash {short(found)} and the manifest's data.tokenizer_hash is"
            f" {short(Digest(data.tokenizer_hash))}: peers with other tokens would spoil the model; take the file that"
            " came with the manifest"
        )


def hash_of(file: bytes) -> Digest:
    """SHA-256 of a tokenizer's file."""
    return Digest(hashlib.sha256(file).hexdigest())


def end_token_of(file: bytes) -> str:
    """The token that a ``tokenizer.json`` has for the end of a text, by its name; "" if it has none that is known.

    Raises:
        DataError: this is no tokenizer.
    """
    model = _parse(file)
    return next((token for token in END_TOKENS if model.token_to_id(token) is not None), "")


def load_tokenizer(run: RunConfig, file: bytes) -> Tokenizer:
    """The run's tokenizer.

    Args:
        run: says which token ends a file, and for how many tokens the model has room.
        file: what ``read_tokenizer_file`` gave.

    Raises:
        DataError: the file is no tokenizer, or has more tokens than the model.
    """
    tokenizer: Tokenizer = FileTokenizer(file, run.data.end_token) if file else ByteTokenizer()
    if tokenizer.vocabulary > run.model.vocabulary:
        what = run.data.tokenizer or "text as bytes"
        raise DataError(
            f"model.vocabulary = {run.model.vocabulary} and {what} has {tokenizer.vocabulary} tokens; set"
            f" model.vocabulary to {padded(tokenizer.vocabulary)}"
        )
    return tokenizer


def padded(vocabulary: int) -> int:
    """Tokens of a model for a tokenizer of so many: the next multiple of 64, which matrix units like."""
    return -(-vocabulary // 64) * 64


def train_tokenizer(texts: Iterable[bytes], vocabulary: int) -> bytes:
    """A byte-level BPE tokenizer that is made for these texts, as the content of a ``tokenizer.json``.

    Byte-level BPE as in GPT-2 (Radford et al. 2019, section 2.2): it can write every text, and knows no unknown token.

    Args:
        texts: what to learn from.
        vocabulary: tokens at most, 256 bytes and the end token among them.

    Raises:
        DataError: ``vocabulary`` is too small to hold them.
    """
    from tokenizers import Tokenizer as Model
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocabulary < (least := 256 + 1):
        raise DataError(
            f"a vocabulary of {vocabulary} is too small; choose {least} or more: every byte, and the end of text"
        )
    model = Model(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_TOKENS[0]],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # In chunks: the package's memory is 90 times the longest text.
    model.train_from_iterator((chunk.text for batch in _batches(texts) for chunk in batch), trainer=trainer)
    content: str = model.to_str(pretty=False)
    return content.encode()


def _parse(file: bytes) -> Any:  # the package has no types
    from tokenizers import Tokenizer as Model

    with _failing_as("this is no tokenizer.json of Hugging Face's tokenizers"):
        model = Model.from_buffer(file)
    model.no_truncation()
    model.no_padding()
    return model


@contextlib.contextmanager
def _failing_as(problem: str) -> Iterator[None]:
    """Make what goes wrong a DataError: the package raises bare Exceptions, and panics, which are not even that."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise DataError(
            f"data.tokenizer: {problem} ({error}); a model's page has one under this name, and"
            " `p2ptrain run tokenizer` makes one"
        ) from error


class _Chunk(NamedTuple):
    text: str
    is_last: bool
    """Of its file."""


def _batches(texts: Iterable[bytes]) -> Iterator[list[_Chunk]]:
    """Texts in chunks, as many at a time as are worth all cores."""
    batch: list[_Chunk] = []
    size_bytes = 0
    for text in texts:
        stop = -1
        while stop < len(text):
            start = max(stop, 0)
            stop = _cut(text, start)
            batch.append(_Chunk(text[start:stop].decode(errors="replace"), is_last=stop == len(text)))
            size_bytes += stop - start
            if size_bytes >= _BATCH_BYTES:
                yield batch
                batch, size_bytes = [], 0
    if batch:
        yield batch


def _cut(text: bytes, start: int) -> int:
    """Where the chunk that begins at ``start`` ends: after a line's end if there is one, and never in a character."""
    if len(text) - start <= _CHUNK_BYTES:
        return len(text)
    stop = start + _CHUNK_BYTES
    line_end = text.rfind(b"\n", start, stop)
    if line_end >= 0:
        return line_end + 1
    while stop > start + 1 and text[stop] & 0xC0 == 0x80:  # a continuation byte of UTF-8
        stop -= 1
    return stop

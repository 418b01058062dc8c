"""Small texts to learn from, made of Python's own source, and tokenizers for them."""

import sysconfig
from itertools import islice
from pathlib import Path

import numpy as np

from p2ptrain.data.corpus import Corpus
from p2ptrain.data.tokenizer import train_tokenizer
from p2ptrain.ids import Digest


def folder_of_texts(folder: Path, files: int = 20) -> Path:
    """``folder``, made, with the first modules of the standard library."""
    folder.mkdir(parents=True)
    for path in islice(sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")), files):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def tokenizer_for(texts: Path, out: Path, vocabulary: int = 600) -> bytes:
    """The content of ``out``, made: a tokenizer for the texts of a folder."""
    file = train_tokenizer((path.read_bytes() for path in sorted(texts.iterdir())), vocabulary)
    out.write_bytes(file)
    return file


def no_text(fingerprint: str = "f" * 64) -> Corpus:
    """Enough for a manifest, in no time."""
    tokens = np.zeros(1000, np.uint8)
    return Corpus(train=tokens, validation=tokens, fingerprint=Digest(fingerprint))

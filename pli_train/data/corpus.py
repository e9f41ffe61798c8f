"""Load a corpus: choose the source and tokenize it.

A corpus of text is one file here that offers `read(data) -> Documents`: documents split into train and eval, and a
fingerprint that changes when they do. `source_of` picks it. From there on everything is common: `tokens.py` tokenises
once into a memory-mapped cache and `blocks.py` serves blocks in an order that is a function of the step. Images come
from a file of their own each (`digits.py`), in rows that `blocks.py` serves in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.config.schema import IMAGES
from pli_train.core.texts.kinds import KNOWN

if TYPE_CHECKING:
    from pli_train.config.schema import DataConfig, TokenizerConfig
    from pli_train.core.texts import Piece
    from pli_train.data.sources.digits import ImageCorpus
    from pli_train.data.tokenization import TokenizedText


@dataclass(frozen=True)
class Documents:
    """A corpus before tokenising.

    Attributes:
        train, eval: the texts of each side in pieces, to be read once or more, in a fixed order.
        fingerprint: names the content; two corpora with one fingerprint hold the same texts.
        about: one line for people.
        notes: a line each on what is left out, or worth knowing before training.
    """

    train: Iterable[Piece]
    eval: Iterable[Piece]
    fingerprint: str
    about: str
    notes: tuple[str, ...] = ()


def load(data: DataConfig, settings: TokenizerConfig, say: Callable[[str], None]) -> TokenizedText | ImageCorpus:
    """What `data.source` names, ready to be served in blocks. Raises BadInput or PliError when it cannot be had."""
    from pli_train.data import tokenization
    from pli_train.data.sources import digits

    return digits.load(data, say) if data.source in IMAGES else tokenization.load(data, settings, say)


def read(data: DataConfig) -> Documents:
    """Read the corpus that `data.source` names. Raises BadInput when it is missing or empty."""
    return source_of(data)(data)


def source_of(data: DataConfig) -> Callable[[DataConfig], Documents]:
    """The reader for a source: a known name, else something on this disk, else a name on the hub."""
    from pli_train.data.sources import hub, python, text

    if data.source == "python":
        return python.read
    path = Path(data.source)
    if path.exists() or data.source.startswith((".", "/", "~")) or path.suffix.lower() in KNOWN:
        return text.read
    return hub.read


def fingerprint(*things: object) -> str:
    """A short hash of anything that prints the same when it is the same."""
    digest = hashlib.sha256()
    for thing in things:
        digest.update(repr(thing).encode())
    return digest.hexdigest()[:16]

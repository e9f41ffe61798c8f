"""Text to blocks of token ids, or images to rows.

A corpus of text is one file here that offers `read(data) -> Documents`: documents split into train and eval, and a
fingerprint that changes when they do. `source_of` picks it. From there on everything is common: `tokens.py` tokenises
once into a memory-mapped cache and `blocks.py` serves blocks in an order that is a function of the step. Images come
from a file of their own each (`digits.py`), in rows that `blocks.py` serves in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.sections import IMAGES

if TYPE_CHECKING:
    from pli_train.corpus.digits import Images
    from pli_train.corpus.tokens import Tokens
    from pli_train.sections import DataConfig, TokenizerConfig


@dataclass(frozen=True)
class Documents:
    """A corpus before tokenising.

    Attributes:
        train, eval: the texts of each side, to be read once or more, in a fixed order.
        fingerprint: names the content; two corpora with one fingerprint hold the same texts.
        about: one line for people.
    """

    train: Iterable[str]
    eval: Iterable[str]
    fingerprint: str
    about: str


def load(data: DataConfig, settings: TokenizerConfig, say: Callable[[str], None]) -> Tokens | Images:
    """What `data.source` names, ready to be served in blocks. Raises BadInput or PliError when it cannot be had."""
    from pli_train.corpus import digits, tokens

    return digits.load(data, say) if data.source in IMAGES else tokens.load(data, settings, say)


def read(data: DataConfig) -> Documents:
    """Read the corpus that `data.source` names. Raises BadInput when it is missing or empty."""
    return source_of(data)(data)


def source_of(data: DataConfig) -> Callable[[DataConfig], Documents]:
    """The reader for a source: a known name, else something on this disk, else a name on the hub."""
    from pli_train.corpus import hub, python, text

    if data.source == "python":
        return python.read
    if Path(data.source).exists() or data.source.startswith((".", "/", "~")) or Path(data.source).suffix == ".txt":
        return text.read
    return hub.read


def split_by_name(names: Sequence[str], share: float) -> set[str]:
    """The names that go to evaluation: those with the smallest hashes, `share` of them and at least one.

    Adding a file never moves another one's hash, and the order of the listing does not matter.

    >>> sorted(split_by_name(["a.py", "b.py", "c.py", "d.py"], 0.5))
    ['b.py', 'd.py']
    """
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])


def fingerprint(*things: object) -> str:
    """A short hash of anything that prints the same when it is the same."""
    digest = hashlib.sha256()
    for thing in things:
        digest.update(repr(thing).encode())
    return digest.hexdigest()[:16]

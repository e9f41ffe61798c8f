"""A corpus before it is tokenized, and fingerprints of content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pli_train.core.texts.reading import Segment


@dataclass(frozen=True)
class Documents:
    """A corpus before tokenizing.

    Attributes:
        train, eval: the texts of each side in pieces, to be read once or more, in a fixed order.
        fingerprint: names the content; two corpora with one fingerprint hold the same texts.
        about: one line for people.
        notes: a line each on what is left out, or worth knowing before training.
    """

    train: Iterable[Segment]
    eval: Iterable[Segment]
    fingerprint: str
    about: str
    notes: tuple[str, ...] = ()


def fingerprint(*things: object) -> str:
    """A short hash of anything that prints the same when it is the same."""
    digest = hashlib.sha256()
    for thing in things:
        digest.update(repr(thing).encode())
    return digest.hexdigest()[:16]

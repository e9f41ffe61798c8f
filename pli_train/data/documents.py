"""A corpus before tokenization, and fingerprints of content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pli_train.core.texts.reading import Segment


@dataclass(frozen=True)
class Documents:
    """A corpus before tokenization.

    Attributes:
        train, eval: the texts of each part in segments, in a fixed order; they can be read several times.
        fingerprint: hash of the content; corpora with the same fingerprint hold the same texts.
        about: one-line description.
        notes: lines about files left out, and warnings before training.
    """

    train: Iterable[Segment]
    eval: Iterable[Segment]
    fingerprint: str
    about: str
    notes: tuple[str, ...] = ()


def fingerprint(*values: object) -> str:
    """Return a short hash of values, computed from their `repr`."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(value).encode())
    return digest.hexdigest()[:16]

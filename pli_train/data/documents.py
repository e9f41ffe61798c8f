"""A corpus before tokenization, and fingerprints of content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from pli_train.core.errors import BadInput, counted
from pli_train.core.texts.reading import Segment, segments
from pli_train.data.config import DataConfig


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

    @classmethod
    def of(cls, texts: Iterable[str], data: DataConfig, about: str) -> Documents:
        """Return a corpus of texts in memory, each of them a document.

        `data.fraction` of the documents is used and `data.test_share` of these held out. Which ones, depends on their
        content, so that another document does not move them between training and evaluation.

        Args:
            texts: the documents; blank ones are left out.
            data: the [data] section.
            about: description of the corpus, to which the number of documents is added.

        Raises:
            BadInput: if there are fewer than two documents.
        """
        ranked = sorted((text for text in texts if text.strip()), key=fingerprint)
        kept = ranked[: max(2, round(data.fraction * len(ranked)))]
        if len(kept) < 2:
            raise BadInput(f"data.source: {data.source}: has {counted(len(kept), 'document')}, and needs two or more")
        held_out = min(max(1, round(data.test_share * len(kept))), len(kept) - 1)
        parts = (kept[held_out:], kept[:held_out])
        train, eval = (tuple(segment for text in part for segment in segments([text])) for part in parts)
        name = fingerprint("texts", kept, data.test_share)
        return cls(train, eval, name, f"{about}: {counted(len(kept), 'document')}")


def fingerprint(*values: object) -> str:
    """Return a short hash of values, computed from their `repr`."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(value).encode())
    return digest.hexdigest()[:16]

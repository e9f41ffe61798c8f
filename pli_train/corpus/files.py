"""Files on disk as a corpus: read, keep a fraction, split by file. What `python` and `text` have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pli_train.corpus import Documents, fingerprint, split_by_name
from pli_train.errors import BadInput


def documents(paths: Sequence[Path], root: Path, share: float, fraction: float, about: str) -> Documents:
    """A corpus of files, split into train and eval by file; a single file is cut at a line instead.

    Args:
        paths: the files, below `root`. What is not UTF-8 is read with replacement characters.
        share: the part kept for evaluation.
        fraction: the part of the files (or of the one file's lines) to use at all.

    Raises:
        BadInput: when there is no text.
    """
    texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8", errors="replace") for path in sorted(paths)}
    texts = {name: text for name, text in texts.items() if text.strip()}
    if not texts:
        raise BadInput(f"data.source: {about} holds no text")
    digest = fingerprint([(name, hashlib.sha256(text.encode()).hexdigest()) for name, text in texts.items()])
    if len(texts) == 1:
        train, eval = cut_at_line(next(iter(texts.values())), share, fraction)
    else:
        kept = split_by_name(list(texts), fraction) if fraction < 1 and len(texts) > 2 else set(texts)
        aside = split_by_name([name for name in texts if name in kept], share) if len(kept) > 1 else set()
        train = [text for name, text in texts.items() if name in kept - aside]
        eval = [text for name, text in texts.items() if name in aside]
    if not any(train) or not any(eval):
        raise BadInput(f"data.source: {about} is too small to split into train and eval")
    return Documents(train, eval, fingerprint(digest, share, fraction), f"{about}: {len(texts)} files")


def cut_at_line(text: str, share: float, fraction: float) -> tuple[list[str], list[str]]:
    r"""The first `fraction` of a text's lines, its last `share` of them apart.

    >>> cut_at_line("1\n2\n3\n4\n", share=0.25, fraction=1.0)
    (['1\n2\n3\n'], ['4\n'])
    """
    lines = text.splitlines(keepends=True)
    lines = lines[: max(1, round(fraction * len(lines)))]
    cut = len(lines) - max(1, round(share * len(lines)))
    return ["".join(lines[:cut])], ["".join(lines[cut:])]

"""Choose the loss that all runs have in common."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence

from pli_analysis.scalars.reading import list_tags
from pli_train.core.errors import BadInput

ORDER = (
    *("eval/loss", "eval_loss", "validation/loss", "val/loss", "valid/loss", "val_loss", "valid_loss"),
    *("validation_loss", "lm loss validation", "validation/epoch_loss", "val/epoch_loss", "test/loss", "test_loss"),
    *("train/loss", "training/loss", "train_loss", "train_loss_epoch", "training_loss", "lm loss", "loss"),
    *("train/epoch_loss", "epoch_loss", "loss_metrics/global_avg_loss", "train_loss_step"),
)
"""Names of losses in logs of Trainer, W&B, Lightning, Keras, Megatron and torchtitan; held-out losses first."""
LISTED = 4
"""Maximum number of tags or runs that an error lists."""


def chosen(
    tags_of: Mapping[str, Sequence[str]], downloads: Mapping[str, str], pattern: str | None
) -> list[Mapping[str, str]]:
    """Choose the tags by which runs are compared; return for each of them the tag in every run.

    Without a pattern one tag is chosen: the first of `ORDER` that all runs have, else the only one that all have with
    `loss` in its name, else the only one that each run has. A download of one scalar matches any tag if its file name
    is not that of a known loss.

    Args:
        tags_of: run → its tags.
        downloads: run → file name, for downloads of one scalar.
        pattern: tags to compare by, such as `eval*`; each match that all runs have is compared.

    Raises:
        BadInput: if there is no such tag; the message lists the tags of each run.
    """
    if pattern is not None:
        return _matched(tags_of, pattern)
    named = {run: _known(tags, downloads.get(run)) for run, tags in tags_of.items()}
    free = [run for run, known in named.items() if not known]
    shared = [set(known) for known in named.values() if known]
    common = set.intersection(*shared) if shared else set()
    losses = [tag for tag in common if "loss" in tag.lower()]
    single = losses if len(losses) == 1 else list(common) if all(len(each) == 1 for each in shared) else []
    best = [tag for tag in ORDER if tag in common] or single
    if shared and not best:
        raise BadInput(_refused(tags_of, "no known loss that all runs have" if len(tags_of) > 1 else "no known loss"))
    return [{run: tags_of[run][0] if run in free else named[run][best[0]] for run in tags_of}]


def label(tags: Mapping[str, str], downloads: Mapping[str, str]) -> str:
    """Return the name of the scalar that is compared; empty for downloads whose file names do not contain it.

    Args:
        tags: run → its tag.
        downloads: as for `chosen`.
    """
    known = [_known([tag], downloads.get(run)) for run, tag in tags.items()]
    common = set.intersection(*(set(each) for each in known if each)) if any(known) else set()
    first = [tag for tag in ORDER if tag in common] or sorted(common)
    if first:
        return first[0]
    return ", ".join(f"{tag} of {run}" for run, tag in tags.items()) if any(known) else ""


def _known(tags: Sequence[str], download: str | None) -> dict[str, str]:
    """Return tags by scalar name; for a download, the scalar names that its file name may mean."""
    if download is None:
        return {tag: tag for tag in tags}
    plain = _plain(download.rpartition("tag-")[2])  # TensorBoard names a file run-RUN-tag-TAG
    return {tag: tags[0] for tag in ORDER if _plain(tag) == plain}


def _plain(tag: str) -> str:
    """Return a tag as it appears in file names."""
    return re.sub(r"[^a-z0-9]+", "_", tag.lower()).strip("_")


def _matched(tags_of: Mapping[str, Sequence[str]], pattern: str) -> list[Mapping[str, str]]:
    matches = {run: fnmatch.filter(tags, pattern) for run, tags in tags_of.items()}
    for run, tags in matches.items():
        if not tags:
            raise BadInput(f"{run}: no scalar matches --tag {pattern!r}; {list_tags(tags_of[run])}")
    shared = [tag for tag in next(iter(matches.values())) if all(tag in tags for tags in matches.values())]
    if shared:
        return [dict.fromkeys(tags_of, tag) for tag in shared]
    if all(len(tags) == 1 for tags in matches.values()):
        return [{run: tags[0] for run, tags in matches.items()}]
    raise BadInput(_refused(matches, f"no scalar that matches --tag {pattern!r} and that all runs have"))


def _refused(tags_of: Mapping[str, Sequence[str]], problem: str) -> str:
    """Format an error that lists the tags of each run, losses first; runs with the same tags are listed together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for run, tags in tags_of.items():
        alike.setdefault(tuple(sorted(tags, key=lambda tag: ("loss" not in tag.lower(), tag))), []).append(run)
    each = [
        f"{_few(runs)} {'has' if len(runs) == 1 else 'have'} {_few(tags) or 'none'}" for tags, runs in alike.items()
    ]
    more = f"; {len(each) - LISTED} more" if len(each) > LISTED else ""
    return f"{problem}: {'; '.join(each[:LISTED])}{more}; choose one with --tag, or name fewer runs"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more

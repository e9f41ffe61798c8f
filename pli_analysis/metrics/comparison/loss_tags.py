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
"""Names of a loss, those of held-out data first: of Trainer and W&B, Lightning, Keras, Megatron, torchtitan."""
LISTED = 4
"""Tags and runs that an error names in a row, at most."""


def chosen(
    there: Mapping[str, Sequence[str]], downloads: Mapping[str, str], pattern: str | None
) -> list[Mapping[str, str]]:
    """The tags to compare runs by: of each, the tag of every run.

    Without a pattern it is one: the first of `ORDER` that all runs have, else the only one with `loss` in its name that
    all have, else the only one that each of them has. A download of one scalar whose file is called after no known loss
    goes with any.

    Args:
        there: run → its tags.
        downloads: run → file name, of those that are a download of one scalar.
        pattern: tags to compare by, `eval*`; each that all runs have is one.

    Raises:
        BadInput: when there is no such tag; it lists what each run has.
    """
    if pattern is not None:
        return _matched(there, pattern)
    named = {run: _known(tags, downloads.get(run)) for run, tags in there.items()}
    free = [run for run, known in named.items() if not known]
    shared = [set(known) for known in named.values() if known]
    common = set.intersection(*shared) if shared else set()
    losses = [tag for tag in common if "loss" in tag.lower()]
    single = losses if len(losses) == 1 else list(common) if all(len(each) == 1 for each in shared) else []
    best = [tag for tag in ORDER if tag in common] or single
    if shared and not best:
        raise BadInput(
            _refused(there, "no loss by its name that all have" if len(there) > 1 else "no loss by its name")
        )
    return [{run: there[run][0] if run in free else named[run][best[0]] for run in there}]


def label(tags: Mapping[str, str], downloads: Mapping[str, str]) -> str:
    """What to call a scalar that runs are compared by; empty for downloads whose files do not tell.

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
    """Name of a scalar → its tag; of a download the names that its file may stand for."""
    if download is None:
        return {tag: tag for tag in tags}
    plain = _plain(download.rpartition("tag-")[2])  # TensorBoard calls a file run-RUN-tag-TAG
    return {tag: tags[0] for tag in ORDER if _plain(tag) == plain}


def _plain(tag: str) -> str:
    """A tag as a file is called after it."""
    return re.sub(r"[^a-z0-9]+", "_", tag.lower()).strip("_")


def _matched(there: Mapping[str, Sequence[str]], pattern: str) -> list[Mapping[str, str]]:
    found = {run: fnmatch.filter(tags, pattern) for run, tags in there.items()}
    for run, tags in found.items():
        if not tags:
            raise BadInput(f"{run}: no scalar matches --tag {pattern!r}; {list_tags(there[run])}")
    shared = [tag for tag in next(iter(found.values())) if all(tag in tags for tags in found.values())]
    if shared:
        return [dict.fromkeys(there, tag) for tag in shared]
    if all(len(tags) == 1 for tags in found.values()):
        return [{run: tags[0] for run, tags in found.items()}]
    raise BadInput(_refused(found, f"no scalar that matches --tag {pattern!r} and that all have"))


def _refused(there: Mapping[str, Sequence[str]], what: str) -> str:
    """One line on what each run has, losses first; those that have the same together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for run, tags in there.items():
        alike.setdefault(tuple(sorted(tags, key=lambda tag: ("loss" not in tag.lower(), tag))), []).append(run)
    each = [
        f"{_few(runs)} {'has' if len(runs) == 1 else 'have'} {_few(tags) or 'none'}" for tags, runs in alike.items()
    ]
    more = f"; {len(each) - LISTED} more" if len(each) > LISTED else ""
    return f"{what}: {'; '.join(each[:LISTED])}{more}; choose one with --tag, or name fewer runs"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more

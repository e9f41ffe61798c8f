"""A data set of the Hugging Face hub by name (`bookcorpus/bookcorpus`, `wikimedia/wikipedia`, …)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_train.corpus import Documents, fingerprint
from pli_train.errors import BadInput, PliError

if TYPE_CHECKING:
    from pli_train.sections import DataConfig


def read(data: DataConfig) -> Documents:
    """The chosen slice of a hub data set, shuffled and split by row with a fixed seed.

    Raises:
        BadInput: when the data set has no such split or column, or no rows.
        PliError: when the hub, or the data set on it, cannot be reached.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise BadInput(
            f"data.source: '{data.source}' is no file or folder here, so it is taken for a name on the hub, which "
            "needs the `hub` extra: pip install 'pli[hub]'"
        ) from None
    try:
        rows = load_dataset(data.source, data.subset, split=data.split, revision=data.revision)
    except ValueError as error:
        raise BadInput(f"data.source: '{data.source}': {_first_line(error)}") from None
    except (OSError, RuntimeError) as error:
        raise PliError(
            f"data.source: '{data.source}' is no file or folder here and could not be loaded from the hub "
            f"({_first_line(error)}); where no hub is within reach, set data.source to a local file or folder"
        ) from None
    if data.text_column not in rows.column_names:
        raise BadInput(
            f"data.text_column: '{data.source}' has no column '{data.text_column}' "
            f"(it has {', '.join(rows.column_names)})"
        )
    if data.fraction < 1:
        rows = rows.select(range(round(data.fraction * rows.num_rows)))
    if rows.num_rows < 2:
        raise BadInput(f"data.source: '{data.source}' split '{data.split}' holds no text to split")
    parts = rows.train_test_split(test_size=data.test_share, seed=0)
    name = fingerprint(data.source, rows._fingerprint, data.text_column, data.fraction, data.test_share)
    about = f"{data.source} {data.split}: {rows.num_rows} rows"
    return Documents(parts["train"][data.text_column], parts["test"][data.text_column], name, about)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]

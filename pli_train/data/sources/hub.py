"""A data set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput, PliError, first_line
from pli_train.core.texts.columns import Columns
from pli_train.core.texts.file_types import NoText
from pli_train.core.texts.reading import Segment, segments
from pli_train.data.documents import Documents, fingerprint

if TYPE_CHECKING:
    from pli_train.data.config import DataConfig


def read(data: DataConfig) -> Documents:
    """Read a slice of a hub data set, shuffled and split by row with a fixed seed.

    Raises:
        BadInput: if the data set has no such split or column, or no rows.
        PliError: if the hub or the data set cannot be reached.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise BadInput(
            f"data.source: '{data.source}' is not a local file or folder; reading it from the hub "
            "needs the `hub` extra: pip install 'pli[hub]'"
        ) from None
    try:
        rows = load_dataset(data.source, data.subset, split=data.split, revision=data.revision)
    except ValueError as error:
        raise BadInput(f"data.source: '{data.source}': {first_line(error)}") from None
    except (OSError, RuntimeError) as error:
        raise PliError(
            f"data.source: '{data.source}' is not a local file or folder and could not be loaded from the hub "
            f"({first_line(error)}); without access to the hub, set data.source to a local file or folder"
        ) from None
    column = _column_of(rows, data)
    if data.fraction < 1:
        rows = rows.select(range(round(data.fraction * rows.num_rows)))
    if rows.num_rows < 2:
        raise BadInput(f"data.source: '{data.source}' split '{data.split}' holds no text to split")
    parts = rows.train_test_split(test_size=data.test_share, seed=0)
    name = fingerprint(data.source, rows._fingerprint, column, data.fraction, data.test_share)
    about = f"{data.source} {data.split}: {rows.num_rows} rows"
    return Documents(_Column(parts["train"], column), _Column(parts["test"], column), name, about)


@dataclass(frozen=True)
class _Column:
    """The segments of a column's texts."""

    rows: Any
    name: str

    def __iter__(self) -> Iterator[Segment]:
        for text in self.rows[self.name]:
            yield from segments([text or ""])


def _column_of(rows: Any, data: DataConfig) -> str:
    """Return the column that holds the text."""
    columns = Columns()
    for name, feature in rows.features.items():
        holds = getattr(feature, "dtype", None)
        columns.add(name, "text" if holds in ("string", "large_string") else holds or type(feature).__name__)
    try:
        return columns.chosen(data.text_column, data.source, "data.text_column")
    except NoText as error:
        raise BadInput(f"{data.source} {error}") from None

"""A text file, or a folder of text files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core import texts
from pli_train.core.errors import BadInput
from pli_train.data.documents import Documents
from pli_train.data.sources import files

if TYPE_CHECKING:
    from pli_train.data.config import DataConfig


def read(data: DataConfig) -> Documents:
    """Read the documents of a file, or of all files below a folder, split by document.

    Raises:
        BadInput: if the path is missing, a file is damaged, or there is no text.
    """
    root = Path(data.source).expanduser()
    try:
        corpus = texts.of_path(root, data.text_column, "data.text_column")
        return files.documents(corpus, data.test_share, data.fraction, str(root))
    except BadInput as error:
        raise BadInput(f"data.source: {error}") from None

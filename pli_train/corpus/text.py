"""A text file, or a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.corpus import Documents, files
from pli_train.errors import BadInput

if TYPE_CHECKING:
    from pli_train.sections import DataConfig


def read(data: DataConfig) -> Documents:
    """One file, or every file below a folder (hidden ones left out), split by file.

    Raises:
        BadInput: when the path is missing, or holds no text.
    """
    root = Path(data.source).expanduser()
    if not root.exists():
        raise BadInput(f"data.source: {root}: no such file or folder")
    if root.is_file():
        return files.documents([root], root.parent, data.test_share, data.fraction, str(root))
    paths = [path for path in root.rglob("*") if path.is_file() and not _hidden(path, root)]
    return files.documents(paths, root, data.test_share, data.fraction, str(root))


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)

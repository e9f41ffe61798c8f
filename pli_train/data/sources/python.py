"""The source code of Python's standard library, which is available on every machine."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.texts import Texts
from pli_train.core.texts.file_types import File
from pli_train.data.documents import Documents
from pli_train.data.sources import files

if TYPE_CHECKING:
    from pli_train.data.config import DataConfig

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def read(data: DataConfig) -> Documents:
    """Read every `.py` file of the standard library outside its test folders, split by file."""
    root = Path(sysconfig.get_path("stdlib"))
    names = (path.relative_to(root) for path in sorted(root.rglob("*.py")))
    sources = [File(root / name, str(name)) for name in names if not LEFT_OUT & set(name.parts)]
    about = f"the standard library of Python {sys.version.split()[0]}"
    return files.documents(Texts(root, sources), data.test_share, data.fraction, about)

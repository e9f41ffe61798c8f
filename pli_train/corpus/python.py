"""The source code of this interpreter's own standard library: real text that every machine has, tests left out."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.corpus import Documents, files

if TYPE_CHECKING:
    from pli_train.sections import DataConfig

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def read(data: DataConfig) -> Documents:
    """Every `.py` of the standard library outside its test folders, split by file."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in root.rglob("*.py") if not LEFT_OUT & set(path.relative_to(root).parts)]
    about = f"the standard library of Python {sys.version.split()[0]}"
    return files.documents(paths, root, data.test_share, data.fraction, about)

"""Check a command's output files before it reads anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from functools import wraps
from itertools import combinations
from pathlib import Path
from typing import Any

from pli_analysis.tables import format_of
from pli_train.core import output
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder, study_folder

FILES = {"html": "--html", "save": "--save", "out": "-o"}
"""Parameters with an output file → their options."""
INPUTS = ("run", "runs", "scratch", "twin", "text", "lineage_file")
"""Parameters with inputs."""
PARTS = (
    run_folder.RUN,
    run_folder.LINEAGE,
    run_folder.MANIFEST,
    run_folder.TRAINER_STATE,
    run_folder.LOCK,
    run_folder.SCALARS,
    study_folder.STUDY,
    study_folder.TRIALS,
    study_folder.JOURNAL,
    "*config.json",
    "*tokenizer*.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
)
"""Files of runs, studies and models, which an output file must not overwrite."""


def check_outputs_first(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that it checks its output files before it reads anything."""

    @wraps(command)
    def checked(**given: Any) -> None:
        require_files({option: given[name] for name, option in FILES.items() if given.get(name)}, inputs_of(given))
        if not given.get("tree"):  # a tree is text, whatever the suffix of the file
            format_of(given.get("format"), given.get("out"))
        command(**given)

    return checked


def require_files(files: dict[str, Path], inputs: Iterable[Path]) -> None:
    """Raise BadInput if a file cannot be written, or would overwrite another output or an input.

    Args:
        files: option → output file.
        inputs: files and folders that the command reads.
    """
    for path in files.values():
        output.check(path)
    for (option, path), (other, there) in combinations(files.items(), 2):
        if path.resolve() == there.resolve() and not path.is_char_device():
            raise BadInput(f"{option} {path}: is also the file of {other}: name another")
    read = list(inputs)
    for option, path in files.items():
        if path.is_file() and any(_is_part(path.resolve(), one.resolve()) for one in read):
            raise BadInput(f"{option} {path}: is part of what is read: name another file")


def inputs_of(given: dict[str, Any]) -> Iterator[Path]:
    """Yield the files and folders that a command reads; for `GROUP=RUN` the run."""
    for name in INPUTS:
        words = given.get(name)
        for word in words if isinstance(words, list | tuple) else [words]:
            if word is not None:
                yield Path(word)
                yield Path(str(word).partition("=")[2])


def _is_part(path: Path, read: Path) -> bool:
    return path == read or (path.is_relative_to(read) and any(fnmatch(path.name, part) for part in PARTS))

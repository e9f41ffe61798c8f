"""Check Python, libraries, cache and devices."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from pli_train.core import cache

LEAST_FREE = 2**30
"""Bytes free below which the cache may not hold what it is for."""
FOR = {
    "parquet": "tables and texts as .parquet, texts as .zst",
    "hub": "corpora of the hub",
}
"""What each extra is for; those of training and development are not looked at."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: it is.
        found: a version, a size, a place; empty when it is not there.
        state: `ok`, `missing` (nothing works without) or `optional` (not there, and only `use` needs it).
        use: what needs it.
        do: what to do about it, empty when nothing.
    """

    what: str
    found: str
    state: str
    use: str
    do: str


def check() -> Iterator[Finding]:
    """Look at Python, libraries, the cache and the devices."""
    version = ".".join(map(str, sys.version_info[:3]))
    new = sys.version_info >= (3, 11)
    yield Finding(
        "python", version, "ok" if new else "missing", "everything", "" if new else "use Python 3.11 or newer"
    )
    yield from _libraries()
    yield _cache()
    yield _devices()


def _libraries() -> Iterator[Finding]:
    for line in metadata.requires("pli") or []:
        wanted = Requirement(line)
        extra = next((name for name in FOR if wanted.marker and f'extra == "{name}"' in str(wanted.marker)), None)
        if wanted.marker and extra is None:
            continue
        found = _version(wanted.name)
        fits = found != "" and wanted.specifier.contains(found, prereleases=True)
        state = "ok" if fits else "missing" if extra is None else "optional"
        install = f"pip install 'pli[{extra}]'" if extra else f"pip install '{wanted.name}{wanted.specifier}'"
        yield Finding(wanted.name, found, state, FOR[extra] if extra else "everything", "" if fits else install)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _cache() -> Finding:
    """The folder of what is kept between calls. It need not be there yet."""
    root = cache.root()
    there = next(path for path in (root, *root.parents) if path.exists())
    held = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) if root.exists() else 0
    free, use = shutil.disk_usage(there).free, "second calls, which read only what is new"
    message = f"{root}: {held / 1e6:,.0f} MB, {free / 1e9:,.1f} GB free"
    if not os.access(there, os.W_OK):
        return Finding("cache", message, "optional", use, "set PLI_CACHE to a folder that can be written to")
    if free < LEAST_FREE:
        return Finding("cache", message, "optional", use, f"free some space, or set PLI_CACHE; {root} may be removed")
    return Finding("cache", message, "ok", use, "")


def _devices() -> Finding:
    """Analysis runs on the CPU alone; what training would have is told beside it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    message = f"{cores} CPU cores" + (f", {gpus} NVIDIA GPUs (not used by analysis)" if gpus else "")
    return Finding("devices", message, "ok", "everything", "")

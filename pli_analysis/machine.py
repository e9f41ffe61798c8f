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
"""Minimum free bytes on the disk of the cache."""
FOR = {
    "parquet": "tables and texts as .parquet, texts as .zst",
    "hub": "corpora of the Hugging Face hub",
}
"""Purpose of each extra; extras for training and development are not checked."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: what was checked.
        found: its version, size or path; empty if not found.
        state: `ok`, `missing` (required, but not found) or `optional` (not found, and only `use` needs it).
        use: what needs it.
        do: what the user can do; empty if nothing is needed.
    """

    what: str
    found: str
    state: str
    use: str
    do: str


def check() -> Iterator[Finding]:
    """Check Python, libraries, the cache and the devices."""
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
    """Check the cache folder, which need not exist yet."""
    root = cache.root()
    existing = next(path for path in (root, *root.parents) if path.exists())
    used = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) if root.exists() else 0
    free, use = shutil.disk_usage(existing).free, "repeated calls: they read only new data"
    found = f"{root}: {used / 1e6:,.0f} MB, {free / 1e9:,.1f} GB free"
    if not os.access(existing, os.W_OK):
        return Finding("cache", found, "optional", use, "set PLI_CACHE to a writable folder")
    if free < LEAST_FREE:
        return Finding(
            "cache", found, "optional", use, f"free some disk space, or set PLI_CACHE; {root} can be deleted"
        )
    return Finding("cache", found, "ok", use, "")


def _devices() -> Finding:
    """List CPU cores and NVIDIA GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    found = f"{cores} CPU cores" + (f", {gpus} NVIDIA GPUs" if gpus else "")
    return Finding("devices", found, "ok", "everything", "")

"""What a benchmark ran on, to be printed above its table."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path


def machine() -> str:
    """Processor, cores this process may use, and torch's version."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, torch {metadata.version('torch')}"


def _processor() -> str:
    message = Path("/proc/cpuinfo")
    lines = message.read_text().splitlines() if message.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

"""Cost of a map of many points, and accuracy of its distances: `python tests/benchmarks/bench_embed.py`.

A run of weights-only checkpoints with layers of BERT-base's size, each a step of a random walk from the previous one.
They have only layers, in bfloat16 by default, so that a run fits the page cache of a small machine. A turn reads the
bytes into one warm buffer and makes maps of increasing numbers of checkpoints, each in a new process that prints its
seconds, without imports, and peak memory: its own, sampled ten times a second, without pages of mapped files, which the
kernel can free at any time. For the first `--exact` checkpoints, exact and sketched distances are compared pair by
pair.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bench_drift import WARM, clock, spread, vouch

from pli_analysis.metrics.maps.gram import SketchError
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder

STEP = 0.02
"""Step of a weight between checkpoints ÷ its standard deviation."""


def write(folder: Path, count: int, layers: int, half: int) -> None:
    """Write the run."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(num_hidden_layers=layers)
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in BertForMaskedLM(config).state_dict().items() if ".layer." in n}
    lineage = Lineage.begin(layers, config.num_attention_heads, units=config.intermediate_size).to_json()
    folder.mkdir()
    (folder / run_folder.RUN).write_text('{"config": {}}')
    (folder / run_folder.LINEAGE).write_text(lineage)
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for step in range(count):
        path = folder / str(run_folder.CheckpointName(step))
        path.mkdir()
        stored = {name: tensor.bfloat16() if half else tensor for name, tensor in weights.items()}
        save_file(stored, path / run_folder.WEIGHTS, {"format": "pt"})
        for tensor in weights.values():
            # Steps are shifts of one random sample, as drawing new numbers each time would take most of the time.
            drawn = torch.randn(min(tensor.numel(), 2**20) + 4099, generator=generator)
            locations = torch.arange(tensor.numel()).remainder_(len(drawn))
            tensor.view(-1).add_(drawn[locations], alpha=0.02 * STEP)
        (path / run_folder.CONFIG).write_text(config.to_json_string())
        (path / run_folder.LINEAGE).write_text(lineage)
        (path / run_folder.TRAINER_STATE).write_text('{"num_input_tokens_seen": 0}')
        vouch(path)


def opened(folder: Path, most: int):
    """The run with its first checkpoints only."""
    from pli_analysis.runs.opening import open_run

    run = open_run(folder)
    run.__dict__["checkpoints"] = run.checkpoints[:most]
    return run


def warm(folder: Path, most: int) -> np.ndarray:
    """Read the weights of the first checkpoints into one buffer."""
    buffer, began = bytearray(WARM), clock()
    for checkpoint in opened(folder, most).checkpoints:
        with (checkpoint.path / run_folder.WEIGHTS).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return clock() - began


def embed(folder: Path, most: int) -> np.ndarray:
    """Make the PCA map of the layers of the first checkpoints. Return its error."""
    import pandas  # noqa: F401

    from pli_analysis.metrics.maps import embedding

    began = clock()
    found = embedding.embed(opened(folder, most))
    taken = clock() - began
    return np.array([*taken, *_stated(found.error), len(found.table) / 2])


def _stated(error: SketchError | None) -> tuple[float, float]:
    """Return the bound (NaN if not known) and the median."""
    return (0.0, 0.0) if error is None else (error.bound or np.nan, error.median)


def compare(folder: Path, most: int) -> np.ndarray:
    """Compare sketched with exact distances: errors as estimated by the sketch, and as measured over all pairs."""
    from pli_analysis.metrics.maps.gram import gram, squared_distances
    from pli_analysis.metrics.maps.points import points_of
    from pli_analysis.metrics.maps.vectors import Weights

    points = points_of(opened(folder, most))
    sources = [point.source for point in points]
    exact, sketch = (gram(Weights(points), sources, bound) for bound in (np.inf, 0.0))
    pairs = np.triu_indices(len(points), 1)
    true, sketched = (np.sqrt(squared_distances(found.steps, sources)[pairs]) for found in (exact, sketch))
    error = np.abs(sketched / true - 1)
    return np.array([*_stated(sketch.error), error.max(), np.median(error), len(points)])


def watch_memory(peak: list[float]) -> None:
    """Record the peak of this process's own memory, in MiB."""
    while True:
        kilobytes = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]
        peak[0] = max(peak[0], int(kilobytes) / 1024)
        time.sleep(0.1)


CHILDREN = {"write": write, "warm": warm, "embed": embed, "compare": compare}


def ask(what: str, folder: Path, *more: int) -> list[float]:
    """Run a child process. Return its output and its peak memory in MiB."""
    env = os.environ | {"PLI_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", what, "--folder", str(folder), *map(str, more)]
    return json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    """Print a table: seconds and memory by number of points, and the sketch's error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=108)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--exact", type=int, default=10, help="number of checkpoints with exact distances")
    parser.add_argument("--float32", action="store_true", help="use float32, with twice the bytes")
    parser.add_argument("--folder", type=Path, help="folder to write to (default: a temporary folder)")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("more", type=int, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        peak = [0.0]
        threading.Thread(target=watch_memory, args=(peak,), daemon=True).start()
        found = CHILDREN[options.child](options.folder, *options.more)
        print(json.dumps([*([] if found is None else found.tolist()), *peak]))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        run = Path(name) / "run"
        ask("write", run, options.checkpoints, options.layers, int(not options.float32))
        size = sum(path.stat().st_size for path in run.rglob(run_folder.WEIGHTS)) / 1e9
        kind = "float32" if options.float32 else "bfloat16"
        print(f"{options.checkpoints} checkpoints, {options.layers} layers of BERT-base in {kind}, {size:.1f} GB")
        print(
            "points   seconds (spread)              ÷ reading warm (spread)       MiB   states errors of up to, median"
        )
        for most in (options.checkpoints // 4, options.checkpoints // 2, options.checkpoints):
            taken = [(ask("warm", run, most), ask("embed", run, most)) for _ in range(options.repeats)]
            seconds = spread([mapped[0] for _, mapped in taken], 1)
            ratios = spread([mapped[0] / read[0] for read, mapped in taken], 1)
            *_, largest, median, points, _ = taken[0][1]
            peak = max(mapped[-1] for _, mapped in taken)
            print(f"{points:6.0f} {seconds:29} {ratios:28} {peak:5.0f}   {largest:.1%}, {median:.1%}")
        stated = ask("compare", run, options.exact)
    print(
        f"sketch against exact, {stated[4]:.0f} points: it states {stated[0]:.1%}, {stated[1]:.1%}; "
        f"all pairs err by {stated[2]:.1%} at most, {stated[3]:.1%} in the median"
    )


if __name__ == "__main__":
    main()

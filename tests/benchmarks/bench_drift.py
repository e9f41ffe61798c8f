"""Cost of all drift measures vs. reading the same bytes: `python tests/benchmarks/bench_drift.py`.

A run of weights-only checkpoints of BERT-base's size, with random weights that move a little from one to the next.
Every turn reads the layers' bytes (into one warm buffer, and with safetensors tensor by tensor), computes drift with an
empty cache and again after one checkpoint was added, and runs a naive script: `from_pretrained` of each checkpoint and
a subtraction by name. Each is done in a new process that prints its seconds, without imports, and peak memory.

Checkpoints beyond `--distinct` are hard links to earlier ones, so that all of them stay in the page cache of a small
machine; their manifests have different hashes, so that none is found in the cache of results.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pli_analysis import api
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder

WARM = 2**20


def write(folder: Path, count: int, distinct: int, layers: int) -> None:
    """Write the run without its last checkpoint's manifest, so that this checkpoint can be added later."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(num_hidden_layers=layers)
    torch.manual_seed(0)
    model = BertForMaskedLM(config)
    lineage = Lineage.begin(layers, config.num_attention_heads, units=config.intermediate_size).to_json()
    folder.mkdir()
    (folder / run_folder.RUN).write_text('{"config": {}}')
    (folder / run_folder.LINEAGE).write_text(lineage)
    for step in range(count + 1):
        path = folder / str(run_folder.CheckpointName(step))
        path.mkdir()
        if step < distinct:
            tensors = {n: t for n, t in model.state_dict().items() if n != "cls.predictions.decoder.weight"}
            tensors.pop("cls.predictions.decoder.bias", None)
            save_file({n: t.contiguous() for n, t in tensors.items()}, path / run_folder.WEIGHTS, {"format": "pt"})
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=1e-3)
        else:
            os.link(folder / f"checkpoint-{step % distinct}" / run_folder.WEIGHTS, path / run_folder.WEIGHTS)
        (path / run_folder.CONFIG).write_text(config.to_json_string())
        (path / run_folder.LINEAGE).write_text(lineage)
        (path / run_folder.TRAINER_STATE).write_text('{"num_input_tokens_seen": 0}')
        if step < count:
            vouch(path)


def vouch(path: Path) -> None:
    """Write a manifest with hashes of names, so that no two checkpoints are equal."""
    files = [file for file in path.iterdir() if file.name != run_folder.MANIFEST]
    entries = {
        f.name: {"bytes": f.stat().st_size, "sha256": hashlib.sha256(str(f).encode()).hexdigest()} for f in files
    }
    (path / run_folder.MANIFEST).write_text(json.dumps({"files": entries}))


# --- timed functions, each in a new process -------------------------------------------------------------------------


def clock() -> np.ndarray:
    """Return seconds, and CPU seconds of this process and its children, which do not depend on other programs."""
    return np.array([time.perf_counter(), sum(os.times()[:4])])


def warm(folder: Path) -> np.ndarray:
    """Read the bytes of the layers into one buffer."""
    from pli_analysis.runs.safetensors_file import locations_of

    checkpoints = api.open_run(folder).checkpoints
    locations = [
        locations_of(c.files[full])[full]
        for c in checkpoints
        for names in c.names_of_layers.values()
        for full in names.values()
    ]
    buffer = memoryview(bytearray(WARM))
    began = clock()
    for position in locations:
        left, offset = 4 * int(np.prod(position.shape)), position.offset
        handle = os.open(position.path, os.O_RDONLY)
        while left:
            got = os.preadv(handle, [buffer[: min(left, WARM)]], offset)
            left, offset = left - got, offset + got
        os.close(handle)
    return clock() - began


def tensors(folder: Path) -> np.ndarray:
    """Read the tensors of the layers with safetensors."""
    from safetensors import safe_open

    checkpoints = api.open_run(folder).checkpoints
    named = [[n for names in c.names_of_layers.values() for n in names.values()] for c in checkpoints]
    began = clock()
    for checkpoint, names in zip(checkpoints, named, strict=True):
        with safe_open(checkpoint.path / run_folder.WEIGHTS, framework="numpy") as file:
            for name in names:
                file.get_tensor(name)
    return clock() - began


def drift(folder: Path, threads: int) -> np.ndarray:
    """Compute drift of all parts and checkpoints. Compilation by numba is included, imports are not."""
    import ml_dtypes  # noqa: F401
    import numba  # noqa: F401
    import pandas  # noqa: F401
    import safetensors  # noqa: F401
    import scipy.linalg  # noqa: F401

    from pli_analysis.metrics.drift import drift  # noqa: F401
    from pli_analysis.scalars import reading  # noqa: F401

    began = clock()
    table = api.drift(api.open_run(folder), "all", threads=threads)
    assert len(table) and table["relative_l2"].notna().all()
    return clock() - began


def naive(folder: Path, most: int) -> np.ndarray:
    """Compare the first `most` checkpoints with the first, with from_pretrained; scale the time to all of them."""
    from transformers import BertForMaskedLM

    paths = [path for _, path in run_folder.checkpoints(folder) if (path / run_folder.MANIFEST).is_file()]
    began = clock()
    first, table = BertForMaskedLM.from_pretrained(paths[0]).state_dict(), []
    for path in paths[:most]:
        for name, tensor in BertForMaskedLM.from_pretrained(path).state_dict().items():
            birth = first[name].double()
            table.append((path.name, name, ((tensor.double() - birth).norm() / birth.norm()).item()))
    return (clock() - began) * len(paths) / min(most, len(paths))


CHILDREN = {"write": write, "warm": warm, "tensors": tensors, "drift": drift, "naive": naive}


def ask(what: str, folder: Path, cache: Path, *more: int) -> tuple[float, float, float]:
    """Return seconds, CPU seconds, and peak memory in MiB of the largest process."""
    env = os.environ | {"PLI_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", what, "--folder", str(folder), *map(str, more)]
    output = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    return float(output[-3]), float(output[-2]), float(output[-1])


def main() -> None:
    """Print a table: seconds of each, ratios within a turn, peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=50)
    parser.add_argument("--distinct", type=int, default=10)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--naive", type=int, default=5, help="number of checkpoints for the naive script; 0 to skip it")
    parser.add_argument("--folder", type=Path, help="folder to write to (default: a temporary folder)")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("more", type=int, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        seconds = CHILDREN[options.child](options.folder, *options.more)
        peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        print(*(seconds if seconds is not None else (0, 0)), max(peaks))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        # In a new process, as children of a large process count its memory as their peak.
        ask("write", work / "run", work, options.checkpoints, options.distinct, options.layers)
        taken = turns(work, options)
    report(taken, options)


def turns(work: Path, options: argparse.Namespace) -> dict[str, list[tuple[float, float, float]]]:
    """Return seconds and memory of each job in each turn; the order is reversed every other turn."""
    run, cache, last = work / "run", work / "cache", work / "run" / f"checkpoint-{options.checkpoints}"
    taken: dict[str, list[tuple[float, float, float]]] = {}
    ask("warm", run, cache)
    for turn in range(options.repeats):
        jobs = [
            "warm",
            "drift, 1 thread",
            f"drift, {options.threads} threads",
            "tensors",
            *["naive"] * (options.naive > 0),
        ]
        for job in jobs if turn % 2 == 0 else reversed(jobs):
            shutil.rmtree(cache, ignore_errors=True)
            what, _, threads = job.partition(", ")
            more = [int(threads.split()[0])] if threads else [options.naive] * (what == "naive")
            taken.setdefault(job, []).append(ask(what, run, cache, *more))
        shutil.rmtree(cache, ignore_errors=True)
        first = ask("drift", run, cache, 1)
        vouch(last)
        taken.setdefault("one more, 1 thread", []).append(ask("drift", run, cache, 1))
        taken.setdefault("its first call", []).append(first)
        (last / run_folder.MANIFEST).unlink()
    return taken


def report(taken: dict[str, list[tuple[float, float, float]]], options: argparse.Namespace) -> None:
    """Print the table."""
    gigabytes = options.checkpoints * options.layers * 7_087_872 * 4 / 1e9
    what = f"{options.checkpoints} checkpoints, {options.layers} layers of BERT-base"
    print(f"{what}, {gigabytes:.1f} GB; {options.repeats} turns")
    print(
        "                       median  (spread), s        ÷ reading warm (spread)    the same in seconds of CPU    MiB"
    )
    base, cpu = ([row[at] for row in taken["warm"]] for at in (0, 1))
    for name, measured in taken.items():
        times = [row[0] for row in measured]
        ratios = [
            spread([row[at] / one for one, row in zip(of, measured, strict=True)], 2)
            for at, of in ((0, base), (1, cpu))
        ]
        peak = max(row[2] for row in measured)
        print(f"{name:22} {spread(times, 2):26} {ratios[0]:26} {ratios[1]:26} {peak:.0f}")
    pairs = zip(taken["one more, 1 thread"], taken["its first call"], strict=True)
    print(f"one more checkpoint ÷ first call: {spread([more[0] / first[0] for more, first in pairs], 3)}")
    if "naive" in taken:
        ours = taken["drift, 1 thread"]
        ratio = [slow[0] / ours[0] for slow, ours in zip(taken["naive"], ours, strict=True)]
        print(f"naive script ÷ drift, 1 thread: {spread(ratio, 1)}")


def spread(numbers: list[float], digits: int) -> str:
    """Return median, minimum and maximum."""
    low, middle, high = (f"{n:.{digits}f}" for n in (min(numbers), statistics.median(numbers), max(numbers)))
    return f"{middle:>7}  ({low} to {high})"


if __name__ == "__main__":
    main()

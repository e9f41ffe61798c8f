"""Cost of a report of a large run: `python tests/benchmarks/bench_report.py`.

A real run of a tiny GPT-2 that grows from 1 to 12 layers of 12 heads, with 100 checkpoints and 10 000 logged steps,
each with the gradient norm of every layer, head and FFN (15 minutes of training; `--run` uses an existing one). Each
report is made in a new process, first with an empty cache, then with a full one. The page is opened in Chromium, which
measures when it can be used and when everything is drawn.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
SCHEDULE = " ".join(f"{0.05 * position:.2f}@{position}" for position in range(1, 12))
USABLE = """() => new Promise(done => {
  const first = performance.getEntriesByType('navigation')[0];
  const wait = () => {
    const shown = document.querySelectorAll('figure').length;
    const drawn = document.querySelectorAll('figure .drawing .main-svg, figure .drawing canvas');
    const figures = new Set([...drawn].map((part) => part.closest('figure'))).size;
    if (figures < shown) return setTimeout(wait, 20);
    done([first.domInteractive, first.loadEventEnd, performance.now(), shown]);
  };
  wait();
})"""
"""JavaScript: milliseconds until the page is usable, loaded, and drawn completely; and the number of figures."""


def train(folder: Path, steps: int, checkpoints: int) -> None:
    """Train the run."""
    from pli_train.config import loading
    from pli_train.training import launch

    table = {
        "name": "big",
        "model": {
            "family": "gpt2",
            "config": {"n_embd": 48, "n_head": 12, "n_positions": 32},
            "initial_layers": 1,
        },
        "tokenizer": {"vocab_size": 300},
        "data": {"source": str(Path(os.__file__).parent / "json"), "test_share": 0.2},
        "train": {"steps": steps, "block_size": 32, "batch_size": 4, "log_every": 1, "eval_every": steps // 100}
        | {"eval_blocks": 16, "grad_norms_every": 1},
        "optim": {"lr": 2e-3, "warmup_ratio": 0.02},
        "growth": {"schedule": SCHEDULE, "initializer": "clone-noise"},
        "checkpoint": {"every": steps // checkpoints, "full_last": 1},
    }
    launch.begin(loading.check(table, "benchmark"), folder).run()


def report(run: Path, page: Path, cache: Path) -> tuple[float, float]:
    """Make a report from the shell. Return seconds, and the size of the page in MiB."""
    env = os.environ | {"PLI_CACHE": str(cache)}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pli_analysis.cli", "report", run, "--html", page], env=env, check=True)
    return time.perf_counter() - began, page.stat().st_size / 2**20


def browse(page: Path) -> list[float]:
    """Open the page in a new browser. Return the times of USABLE in seconds, and the number of figures."""
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--disable-sync", "--no-first-run"])
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.goto(page.as_uri())
        *times, figures = tab.evaluate(USABLE)
        browser.close()
    return [*(milliseconds / 1000 for milliseconds in times), figures]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", type=Path, help="the run folder; trained first if it does not exist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run = options.run or work / "run"
        if not run.is_dir():
            train(run, options.steps, options.checkpoints)
        page = work / "report.html"
        first, _ = report(run, page, work / "cache")
        again = [report(run, page, work / "cache") for _ in range(options.repeats)]
        seen = [browse(page) for _ in range(options.repeats)]
    print(f"{'report, nothing cached':28} {first:7.2f} s")
    print(f"{'report, from cached metrics':28} {spread([seconds for seconds, _ in again])} s")
    print(f"{'page':28} {again[0][1]:7.2f} MiB")
    for what, times in zip(("can be used", "loaded", "all figures drawn"), zip(*seen, strict=True), strict=False):
        print(f"{what + ' in Chromium':28} {spread(list(times))} s")
    print(f"{'figures':28} {seen[0][-1]:7.0f}")


def spread(numbers: list[float]) -> str:
    """Return median, minimum and maximum."""
    return f"{statistics.median(numbers):7.2f}  ({min(numbers):.2f} to {max(numbers):.2f})"


if __name__ == "__main__":
    main()

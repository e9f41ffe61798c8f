"""The command `pli-train`.

Commands import heavy libraries when they need them, so that `--help` is fast.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pli_train.core.cli.console import Bar, is_quiet
from pli_train.core.cli.shell import app_of, run_app
from pli_train.core.cli.tables import Format, render
from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format.study_folder import COMPARISON, STUDY, Launcher, Objective, Pruner, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pli_train.config.schema import RunConfig
    from pli_train.training.progress import NullReporter

TRIALS = 20
"""Default number of trials of each arm of a search."""

app = app_of("pli-train", "Train transformers that grow during training, and record the lineage of each layer.")


def _presets() -> list[str]:
    """Return the names of the presets for shell completion, without reading the files, which is slow."""
    return sorted(path.stem for path in (Path(__file__).parent / "config" / "presets").glob("*.toml"))


def _spaces() -> list[str]:
    """Names of preset spaces and of presets, for shell completion."""
    spaces = sorted(path.stem for path in (Path(__file__).parent / "sweep" / "spaces").glob("*.toml"))
    return [*spaces, *_presets()]


Config = Annotated[
    str,
    typer.Argument(metavar="[PRESET|FILE.toml]", help="Name of a preset, or a TOML file.", autocompletion=_presets),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key, e.g. optim.lr=3e-4; KEY= resets it. Repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Short for --set seed=N.")]
Steps = Annotated[int | None, typer.Option("--steps", metavar="N", help="Short for --set train.steps=N.")]
Rate = Annotated[float | None, typer.Option("--lr", metavar="X", help="Short for --set optim.lr=X.")]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="KEY=VALUE,VALUE",
        help="Run all values of a config key (lag: only of fields of growth events, growth.FIELD); may be repeated.",
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="Parallel runs. Default: one per GPU, or per core.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Threads per run. Default: cores / workers.")
]
Until = Annotated[
    int | None,
    typer.Option("--until", min=0, metavar="STEP", help="Stop at this step, before its growth events; resumable."),
]
FormatOption = Annotated[
    Format, typer.Option("--format", "-f", metavar="FORMAT", help="Output format: table, json, csv, md or latex.")
]


@app.command()
def run(
    config: Config = "tiny",
    overrides: Overrides = None,
    seed: Seed = None,
    steps: Steps = None,
    rate: Rate = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run. Default: runs/NAME.")
    ] = None,
    until: Until = None,
) -> None:
    """Train a growing model; print the run's folder when done.

    Example: pli-train run tiny --steps 200
    """
    from pli_train.config import loading as configs

    settings = configs.load(config, _overrides(overrides, seed, steps, rate))
    from pli_train.training import launch

    folder = out or _free(Path("runs"), settings.name)
    launch.require_new(folder)
    show = _show()
    show.say(f"run folder: {folder}")
    launch.begin(settings, folder, show).run(until)
    print(folder)


@app.command()
def resume(run: RunFolder, until: Until = None) -> None:
    """Resume a run that was stopped or killed.

    Training continues from its last complete checkpoint.

    Example: pli-train resume runs/tiny
    """
    from pli_train.config import loading as configs

    settings = configs.of_run(run)
    from pli_train.training import launch

    launch.resume(settings, run, _show()).run(until)
    print(run)


@app.command()
def fork(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the parent run, which is only read.")],
    at: Annotated[int, typer.Option("--at", metavar="STEP", min=0, help="Step of a checkpoint of the parent.")],
    no_growth: Annotated[bool, typer.Option("--no-growth", help="Leave out growth events from that step on.")] = False,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the twin. Default: RUN-twin-STEP.")
    ] = None,
) -> None:
    """Train a twin: a run forked at a step.

    The twin has the same data order and random seeds, without growth or with other settings.

    Example: pli-train fork runs/tiny --at 160 --no-growth
    """
    from pli_train.core.run_format.run_folder import require_run

    require_run(run)
    from pli_train.commands import fork as forks

    folder = out or _free(run.resolve().parent if run.name in ("", "..") else run.parent, f"{run.name}-twin-{at}")
    forks.fork(run, at, folder, not no_growth, overrides or [], _show()).run()
    print(folder)


@app.command()
def sweep(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SPACE|PRESET|FILE.toml",
            help="A search space (name or TOML file); with --grid or --seeds, a preset or config file.",
            autocompletion=_spaces,
        ),
    ],
    grid: Grid = None,
    seeds: Annotated[int, typer.Option("--seeds", min=0, metavar="K", help="Number of seeds for each grid point.")] = 0,
    overrides: Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", min=1, metavar="N", help=f"Number of growth trials, and of baseline trials. Default: {TRIALS}."
        ),
    ] = None,
    objective: Annotated[
        Objective,
        typer.Option(
            "--objective",
            metavar="OBJECTIVE",
            help="Minimize the loss at equal flops, tokens or seconds, or the mean loss over FLOPs (area).",
        ),
    ] = "flops",
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="N", help="FLOPs, tokens or seconds per run. Default: as the baseline."),
    ] = None,
    sampler: Annotated[
        Sampler | None,
        typer.Option("--sampler", metavar="NAME", help="Sampler: tpe, random or grid. Default: tpe."),
    ] = None,
    pruner: Annotated[
        Pruner, typer.Option("--pruner", metavar="NAME", help="Stop poor trials early: none, halving or hyperband.")
    ] = "none",
    sampler_seed: Annotated[int, typer.Option("--sampler-seed", min=0, metavar="N", help="Seed of the sampler.")] = 0,
    confirm: Annotated[
        int, typer.Option("--confirm", min=0, metavar="K", help="Repeat the best trial of each arm with K new seeds.")
    ] = 0,
    no_baseline: Annotated[bool, typer.Option("--no-baseline", help="Do not run the full-depth baseline.")] = False,
    workers: Workers = None,
    threads: Threads = None,
    launcher: Annotated[
        Launcher, typer.Option("--launcher", metavar="NAME", help="Where runs start: local, slurm or ray.")
    ] = "local",
    launcher_options: Annotated[
        list[str] | None,
        typer.Option("--launcher-option", metavar="KEY=VALUE", help="Option for submitit or Ray; may be repeated."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="URL of a database, to share the study between machines."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the study. Default: studies/NAME.")
    ] = None,
) -> None:
    """Search over growth strategies; print the study folder.

    A full-depth baseline is tuned with the same number of trials. To resume a study that was stopped or killed, run
    the same command again.

    Example: pli-train sweep tiny --grid growth.initializer=random,clone --seeds 3
    """
    from pli_train.commands import sweep as sweeps
    from pli_train.sweep import space_reading

    if trials is not None and (grid or seeds):
        raise BadInput("--trials: cannot be combined with --grid or --seeds, as a grid runs each combination once")
    found = space_reading.from_words(source, grid or [], seeds, overrides or [])
    settings = sweeps.settings_of(found, objective, budget, sampler, pruner, sampler_seed, not no_baseline)
    folder = out or Path("studies", found.name)
    with _stopped_in_a_line(folder / STUDY):
        sweeps.require(settings, folder, storage)
        starts, show = sweeps.launcher_of(launcher, workers, threads, launcher_options or [], folder), _show()
        show.say(f"study: {folder} ({starts.slots} at a time)")
        sweeps.sweep(settings, folder, trials or TRIALS, starts, confirm, storage, show.say)
    print(folder)


@app.command()
def lag(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PRESET|FILE.toml",
            help="With --grid, a preset or config file with growth events; else a space file.",
            autocompletion=_presets,
        ),
    ],
    grid: Grid = None,
    steps: Annotated[
        int | None,
        typer.Option("--lag", min=1, metavar="K", help="Steps from growth to the comparison. Default: until recovery."),
    ] = None,
    orders: Annotated[
        int, typer.Option("--orders", min=1, metavar="N", help="Data orders with which each candidate is trained.")
    ] = 2,
    complete: Annotated[
        bool, typer.Option("--complete", help="Train all candidates to the end; print rank correlations.")
    ] = False,
    overrides: Overrides = None,
    workers: Workers = None,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder to make. Default: studies/NAME-lag.")
    ] = None,
) -> None:
    """Try candidates at each growth event; print the folder.

    Candidates have the values of --grid growth.FIELD, a field of growth events. Each is trained for some steps after
    the event. The run continues with the one whose loss is then the lowest. To resume, run the same command again.

    Example: pli-train lag tiny --grid growth.initializer=random,clone --lag 20
    """
    from pli_train.commands import lag as lags
    from pli_train.sweep import space_reading
    from pli_train.sweep.launchers.local import LocalLauncher, count_gpus

    found = space_reading.from_words(source, grid or [], 0, overrides or [], "--grid growth.FIELD=A,B")
    folder = out or Path("studies", f"{found.name}-lag")
    with _stopped_in_a_line(folder / COMPARISON):
        lags.require(found, folder, steps, orders)
        launcher, show = LocalLauncher(workers, count_gpus(), threads), _show()
        show.say(f"comparison: {folder} ({launcher.slots} at a time)")
        lags.lag(found, folder, launcher, steps, orders, complete, show.say)
    print(folder)


@app.command()
def verify(
    run: RunFolder,
    format: FormatOption = Format.TABLE,
) -> None:
    """Check every checkpoint against its manifest.

    Reads every byte. Exit code 1 if anything is damaged.

    Example: pli-train verify runs/tiny --format json
    """
    from pli_train.commands import verify as checks

    rows = list(checks.verify(run, Bar("checkpoints")))
    print(render(rows, format), end="")
    if lost := sum(map(checks.is_damage, rows)):
        raise PliError(f"{run}: damaged: {lost} of {len(rows)} rows")


@app.command()
def plan(
    config: Config = "tiny", overrides: Overrides = None, seed: Seed = None, steps: Steps = None, rate: Rate = None
) -> None:
    """Print a run's growth without training.

    Shows stacks, parameters, FLOPs relative to full depth, and disk use.

    Example: pli-train plan seed-appendix
    """
    from pli_train.config import loading as configs

    settings = configs.load(config, _overrides(overrides, seed, steps, rate))
    from pli_train.commands import plan as plans

    for line in plans.lines(settings, plans.plan(settings)):
        print(line)


@app.command()
def schedules() -> None:
    """List the named growth schedules, with their papers.

    Example: pli-train schedules
    """
    from pli_train.growth import schedules

    for name, kind in schedules.every().items():
        print(f"{name:<14} {kind.about()} {kind.cites}".rstrip())


@app.command()
def check(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET|FILE.toml]",
            help="As for run. Default with --from: the run's own config.",
            autocompletion=_presets,
        ),
    ] = None,
    overrides: Overrides = None,
    origin: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN|CHECKPOINT", help="Start from a checkpoint, with the remaining events."),
    ] = None,
    batches: Annotated[
        int, typer.Option("--batches", min=1, metavar="N", help="Number of held-out batches to read.")
    ] = 4,
    format: FormatOption = Format.TABLE,
) -> None:
    """Print the immediate effect of each growth event.

    Measures changes of logits, loss and gradient norm, without training.

    Example: pli-train check tiny --set growth.initializer=identity
    """
    show = _show()
    settings = _settings(config, overrides or [], origin)
    from pli_train.commands import check as checks

    run, rows = checks.prepare(settings, origin, show), []
    for row in checks.check(run, batches):
        show.say(f"event {row['event']} of {len(run.plan.events)}: {row['what']}")
        rows.append(row)
    print(render(rows, format), end="")


@app.command()
def evaluate(
    run: RunFolder,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="NAME", help="Name of the checkpoint. Default: the last complete one."),
    ] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Print a checkpoint's loss over all held-out text.

    Also prints the estimate of the run's own evaluations.

    Example: pli-train evaluate runs/tiny --checkpoint checkpoint-160-before
    """
    from pli_train.config import loading as configs

    settings = configs.of_run(run)
    from pli_train.commands import evaluate as evaluates

    print(render([evaluates.evaluate(settings, run, checkpoint, _show().say)], format), end="")


@app.command()
def sample(
    run: RunFolder,
    blocks: Annotated[int, typer.Option("--blocks", min=1, metavar="N", help="Maximum number of blocks.")] = 128,
) -> None:
    """Save training blocks in a run, for pli-analyze influence.

    Draws them at random, with the run's seed, from those that the run has trained on. Prints the file.

    Example: pli-train sample runs/tiny
    """
    from pli_train.config import loading as configs

    settings = configs.of_run(run)
    from pli_train.commands import sample as samples

    print(samples.sample(settings, run, blocks, _show().say))


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="Folder to make. Default: RUN/export.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="NAME", help="Name of the checkpoint. Default: the last complete one."),
    ] = None,
) -> None:
    """Export a run's model as a Hugging Face folder; print its path.

    Includes the tokenizer and a model card.

    Example: pli-train export runs/tiny models/tiny
    """
    from pli_train.commands import export as exports

    print(exports.export(run, out, checkpoint, _show().say))


@app.command()
def presets() -> None:
    """List the presets included in this package.

    Example: pli-train presets
    """
    from pli_train.config import loading as configs

    for name, description in configs.presets().items():
        default = " (default)" if name == configs.DEFAULT_PRESET else ""
        print(f"{name:<14} {description}{default}")


@app.command()
def config(
    config: Config = "tiny",
    overrides: Overrides = None,
    seed: Seed = None,
    steps: Steps = None,
    rate: Rate = None,
    keys: Annotated[bool, typer.Option("--keys", help="List all keys: type, default and meaning.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print a JSON schema of config files, for editors.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Print a config as TOML, with all keys.

    Keys that the file or preset does not set have their defaults. The format is that of --keys.

    Example: pli-train config tiny --set optim.lr=3e-4 > mine.toml
    """
    from pli_train.config import keys as listing
    from pli_train.config import loading as configs
    from pli_train.config.schema import RunConfig

    if keys and schema:
        raise BadInput("--keys and --schema: cannot be combined, as each prints something else: use one of them")
    if keys:
        print(render(list(listing.keys(RunConfig)), format), end="")
    elif schema:
        import json

        print(json.dumps(listing.schema(RunConfig), indent=1, ensure_ascii=False))
    else:
        print(listing.to_toml(configs.load(config, _overrides(overrides, seed, steps, rate))), end="")


def _overrides(overrides: list[str] | None, seed: int | None, steps: int | None, rate: float | None) -> list[str]:
    """Return the KEY=VALUE arguments of --set, and those that the short options stand for."""
    short = {"seed": seed, "train.steps": steps, "optim.lr": rate}
    no_epochs = [] if steps is None else ["train.epochs="]  # --steps replaces the epochs of a config
    return [*no_epochs, *(overrides or []), *(f"{key}={value!r}" for key, value in short.items() if value is not None)]


def _settings(config: str | None, overrides: list[str], origin: Path | None) -> RunConfig:
    """Return the named config, or that of the run at or above `origin`, or the default preset."""
    from pli_train.config import loading as configs
    from pli_train.core.run_format import run_folder

    if config is None and origin is not None:
        return configs.of_run(origin if (origin / run_folder.RUN).is_file() else origin.absolute().parent, overrides)
    return configs.load(config or configs.DEFAULT_PRESET, overrides)


def _free(root: Path, name: str) -> Path:
    """Return `root/name`, or the first free one of `name-2`, `name-3`, …."""
    folder, number = root / name, 2
    while folder.exists() or folder.is_symlink():
        folder, number = root / f"{name}-{number}", number + 1
    return folder


@contextmanager
def _stopped_in_a_line(settings_file: Path) -> Iterator[None]:
    """Say on Ctrl-C that the command was stopped, and how to resume if the settings file of its folder exists.

    While workers run, a signal handler does this.
    """
    from pli_train.sweep.worker_ends import Interrupted

    try:
        yield
    except KeyboardInterrupt:
        more = "; run the same command to resume" if settings_file.is_file() else ""
        raise Interrupted(f"stopped{more}") from None


def _show() -> NullReporter:
    from pli_train.training.progress import ConsoleReporter, NullReporter

    return NullReporter() if is_quiet() else ConsoleReporter()


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()

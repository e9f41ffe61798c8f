"""The command-line app: common options, one-line errors, exit codes."""

from __future__ import annotations

import errno
import importlib.metadata
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand
from typer.main import get_command

from pli_train.core import openmp
from pli_train.core.cli import console, encoding
from pli_train.core.errors import BadInput, PliError, did_you_mean

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors on stderr.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print what is read, cached and timed; show tracebacks.")
]
WIDEST = 100
"""Maximum characters of a line of help, as longer lines are hard to read."""

_Misuse: type[Any] = typer.BadParameter.__bases__[0]
"""The class of Typer's usage errors; it is defined in Click or in Typer, depending on the release."""


class Command(TyperCommand):
    """A command whose help shows arguments by their metavars, with optional ones in brackets.

    Typer's own help adds braces and the Python type to a metavar: `{RUN}...` and `RUN <list[Path]>`.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line."""
        return ["[OPTIONS]", *(str(param.metavar) for param in _arguments(self, ctx))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options; common options come last."""
        arguments = _arguments(self, ctx)
        options = [param for param in self.get_params(ctx) if param not in arguments]
        described = [(param.metavar, param.get_help_record(ctx)[1]) for param in arguments]
        for title, rows in (("Arguments", described), ("Options", [param.get_help_record(ctx) for param in options])):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _arguments(command: TyperCommand, ctx: Any) -> list[Any]:
    return [param for param in command.get_params(ctx) if param.param_type_name == "argument"]


class App(typer.Typer):
    """An app whose commands all have --quiet and --verbose."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **settings: Any) -> Any:
        """Register a command, as Typer does, and return the function unchanged."""
        register = super().command(name, cls=cls, **settings)

        def add(function: Callable[..., None]) -> Callable[..., None]:
            register(_with_common_options(function))
            return function

        return add


def app_of(name: str, about: str) -> App:
    """Return an app with plain-text help, Python's own tracebacks and the option --version."""
    app = App(
        name=name,
        help=about,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": WIDEST, "color": False},
    )
    app.callback()(_app_options)
    return app


def _print_version(ctx: typer.Context, version: bool) -> None:
    if version:
        print(f"{ctx.info_name} {importlib.metadata.version('pli')}")
        raise typer.Exit


def _app_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the app itself, given before the name of a command."""


def run_app(app: App) -> NoReturn:
    """Run the command line of this process, and exit."""
    run_process(lambda: _run(app, str(app.info.name)))


def run_process(work: Callable[[], None]) -> NoReturn:
    """Run all the work of this process, and exit.

    A PliError becomes one line on stderr and its exit code. A closed pipe is no error. System errors about a file (disk
    full, no permission, a failing disk) are printed as one line too.
    """
    openmp.wait_briefly()
    encoding.configure()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP
            signal.signal(number, _exit_on_signal)
    try:
        work()
        print(end="", flush=True)  # does nothing without stdout
    except PliError as error:
        _exit_with(error.exit_code, *str(error).splitlines())
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except _Misuse as error:
        _exit_with(2, _usage_error(error))
    except BrokenPipeError:
        sys.exit(0)  # the reader closed the pipe
    except OSError as error:
        # The error of a write on a full disk has no file name: it was to stdout, or to a file that the user named.
        target = error.filename or (error.errno == errno.ENOSPC and "output")
        if not target or error.strerror is None:
            raise
        _exit_with(1, f"{target}: {error.strerror.lower()}")
    except UnicodeEncodeError as error:
        if error.encoding in ("utf-8", "utf8") or error.encoding != sys.getfilesystemencoding():
            raise
        # Output cannot raise this, as `encoding` replaces characters: it is a file name.
        _exit_with(
            2, f"{error.object}: the locale ({error.encoding}) lacks some of these characters; set LC_ALL=C.UTF-8"
        )
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _flush()
    sys.exit(0)


def _exit_on_signal(number: int, frame: object) -> NoReturn:
    """Exit like Ctrl-C, so that partial files are removed."""
    sys.exit(128 + number)


def _run(app: App, name: str) -> None:
    """Run a command line with Typer, but without its error handling, which fails on closed pipes."""
    if f"_{name.upper().replace('-', '_')}_COMPLETE" in os.environ:
        app(prog_name=name)  # shell completion
    command = get_command(app)
    with command.make_context(name, sys.argv[1:] or ["--help"]) as ctx:
        command.invoke(ctx)


def _flush() -> None:
    """Remove the progress bar and flush stdout; drop the output if its pipe is closed or its disk is full."""
    console.erase()
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_with(code: int, *lines: str) -> NoReturn:
    console.erase()
    for line in lines:
        console.put(f"error: {line}" if code != 130 else line)
    sys.exit(code)


def _with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the common options added."""

    @wraps(command)
    def with_options(*, quiet: bool, verbose: bool, **arguments: Any) -> None:
        if quiet and verbose:
            raise BadInput("--quiet and --verbose exclude each other: use one of them")
        console.configure(quiet, verbose)
        try:
            with console.timed(f"{command.__name__}, in total"):
                command(**arguments)
        except PliError as error:
            if verbose:
                _print_traceback(error)
            raise
        if verbose:
            _report_cache()

    own = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    with_options.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    return with_options


def _report_cache() -> None:
    """Print how many look-ups in the cache were hits."""
    from pli_train.core import cache

    for folder, lookups in cache.lookups.items():
        console.say(f"cache {cache.root() / folder}: found {cache.hits[folder]} of {lookups}")


def _usage_error(error: Any) -> str:
    """Return Typer's usage error as one line, with the most similar valid word.

    Typer itself suggests commands and options, but not the values of an option.
    """
    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    near = ""
    if " is not one of " in message:
        word, *known = re.findall(r"'([^']*)'", message.partition(": ")[2])
        near = did_you_mean(word, known)
    if not near and error.ctx and not re.search(r"Did you mean|Possible options", message):
        near = f"; see {error.ctx.command_path} --help"
    return message[0].lower() + message[1:] + near


def _print_traceback(error: BaseException) -> None:
    """Print the traceback of an error, including causes hidden by `raise … from None`."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    console.erase()
    traceback.print_exception(error)

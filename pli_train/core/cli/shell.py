"""The command-line app: common options, errors in one line, exit codes."""

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

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what was read, cached and timed; trace errors.")]
WIDEST = 100
"""Characters of a line of help where the terminal has more: longer ones are hard to read."""

_Misuse: type[Any] = typer.BadParameter.__bases__[0]
"""What Typer raises for words that it does not understand; its home is Click's or Typer's, by release."""


class Command(TyperCommand):
    """A command whose help calls arguments what their metavars call them: brackets are around what may be left out.

    Typer's own help adds braces to a metavar, and the type in Python: `{RUN}...` and `RUN <list[Path]>`.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the line that begins the help."""
        return ["[OPTIONS]", *(str(param.metavar) for param in _arguments(self, ctx))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options; those that all commands have come last."""
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
        """Register a command, as Typer does; the function itself stays as it is."""
        register = super().command(name, cls=cls, **settings)

        def add(function: Callable[..., None]) -> Callable[..., None]:
            register(_with_common_options(function))
            return function

        return add


def app_of(name: str, about: str) -> App:
    """An app whose tracebacks are Python's own, whose words are plain text, and that prints its version on request."""
    app = App(
        name=name,
        help=about,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": WIDEST, "color": False},
    )
    app.callback()(_app_options)
    return app


def _print_version(ctx: typer.Context, asked: bool) -> None:
    if asked:
        print(f"{ctx.info_name} {importlib.metadata.version('pli')}")
        raise typer.Exit


def _app_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the app itself, before the name of a command."""


def run_app(app: App) -> NoReturn:
    """Do what the command line asks for, and end this process."""
    run_process(lambda: _run(app, str(app.info.name)))


def run_process(work: Callable[[], None]) -> NoReturn:
    """Do all that this process is for, and end it.

    A PliError becomes its line on stderr and its exit code, a closed pipe is no error. What the system refuses about a
    file (no room, no permission, a failing disk) is told in a line too.
    """
    openmp.wait_briefly()
    encoding.configure()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has SIGHUP ignored
            signal.signal(number, _stop)
    try:
        work()
        print(end="", flush=True)  # nothing where there is no stdout
    except PliError as error:
        _end(error.exit_code, *str(error).splitlines())
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except _Misuse as error:
        _end(2, _misuse(error))
    except BrokenPipeError:
        sys.exit(0)  # whoever read our output has seen enough
    except OSError as error:
        # A write that finds no room does not say where: it is stdout's here, or a file's that was asked for.
        position = error.filename or (error.errno == errno.ENOSPC and "what was to be written")
        if not position or error.strerror is None:
            raise
        _end(1, f"{position}: {error.strerror.lower()}")
    except UnicodeEncodeError as error:
        if error.encoding in ("utf-8", "utf8") or error.encoding != sys.getfilesystemencoding():
            raise
        # What is printed and written has a way out (`encoding`): this is a file's name.
        _end(2, f"{error.object}: this locale ({error.encoding}) has no such characters; set LC_ALL=C.UTF-8")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _let_go()
    sys.exit(0)


def _stop(number: int, frame: object) -> NoReturn:
    """End as Ctrl-C does, so that whatever is half written is taken away."""
    sys.exit(128 + number)


def _run(app: App, name: str) -> None:
    """What Typer does with a command line, but for its own view of errors: it fails where a pipe was closed."""
    if f"_{name.upper().replace('-', '_')}_COMPLETE" in os.environ:
        app(prog_name=name)  # a shell asks how a word goes on
    command = get_command(app)
    with command.make_context(name, sys.argv[1:] or ["--help"]) as ctx:
        command.invoke(ctx)


def _let_go() -> None:
    """Take the bar away and write what stdout still holds; what nobody reads, or there is no room for, goes nowhere."""
    console.erase()
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(code: int, *lines: str) -> NoReturn:
    console.erase()
    for line in lines:
        console.put(f"error: {line}" if code != 130 else line)
    sys.exit(code)


def _with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options that all of them have."""

    @wraps(command)
    def message(*, quiet: bool, verbose: bool, **given: Any) -> None:
        if quiet and verbose:
            raise BadInput("--quiet and --verbose: say less and say more: use one of them")
        console.configure(quiet, verbose)
        try:
            with console.timed(f"{command.__name__}, all of it"):
                command(**given)
        except PliError as error:
            if verbose:
                _trace(error)
            raise
        if verbose:
            _report_cache()

    own = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    message.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    return message


def _report_cache() -> None:
    """Say how much of what was looked for in the cache was there."""
    from pli_train.core import cache

    for folder, asked in cache.asked.items():
        console.say(f"cache {cache.root() / folder}: {cache.there[folder]} of {asked} were there")


def _misuse(error: Any) -> str:
    """Typer's message on a command line that it does not understand, in one line, with what was probably meant.

    Of commands and options Typer itself says what is near; of the words that an option takes it does not.
    """
    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    near = ""
    if " is not one of " in message:
        word, *known = re.findall(r"'([^']*)'", message.partition(": ")[2])
        near = did_you_mean(word, known)
    if not near and error.ctx and not re.search(r"Did you mean|Possible options", message):
        near = f"; see {error.ctx.command_path} --help"
    return message[0].lower() + message[1:] + near


def _trace(error: BaseException) -> None:
    """Print where an error comes from, with those behind it that its line stands for (`raise … from None`)."""
    behind: BaseException | None = error
    while behind is not None:
        behind.__suppress_context__ = False
        behind = behind.__cause__ or behind.__context__
    console.erase()
    traceback.print_exception(error)

"""What the two commands share at the keyboard: an app, and errors as one clear line with the right exit code."""

from __future__ import annotations

import os
import sys

import typer

from pli_train.errors import PliError


def app_of(about: str) -> typer.Typer:
    """An app whose tracebacks are Python's own and whose help names no completion options."""
    return typer.Typer(
        help=about, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None
    )


def run_app(app: typer.Typer) -> None:
    """Run it; a PliError becomes its line on stderr and its exit code, a closed pipe is no error.

    What the system refuses about a file (no room, no permission, a failing disk) is told in a line too.
    """
    try:
        app()
    except PliError as error:
        for line in str(error).splitlines():
            print(f"error: {line}" if error.exit_code != 130 else line, file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep the interpreter from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        print(f"error: {error.filename}: {error.strerror.lower()}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

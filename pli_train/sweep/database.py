"""Open the database of a study that several machines run, and describe its failures."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import StorageInternalError

from pli_train.core.errors import BadInput, PliError, in_a_line

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

HEARTBEAT = 60
"""Seconds between two heartbeats of a trial. A machine without one for three times as long is lost."""
ATTEMPTS = 20
"""Number of attempts to create tables that other machines create at the same time."""


def open_storage(url: str) -> RDBStorage:
    """Open a database, and create its tables if there are none.

    Args:
        url: SQLAlchemy's URL of the database.

    Raises:
        BadInput: when the database cannot be reached or its driver is not installed.
    """
    with _in_a_line(url):
        return _with_tables(url)


def require(url: str) -> None:
    """Connect to a database without creating tables. Raises BadInput as `open_storage`."""
    from sqlalchemy import create_engine

    with _in_a_line(url):
        engine = create_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


@contextmanager
def _in_a_line(url: str) -> Iterator[None]:
    """Raise BadInput when the database cannot be reached or its driver is not installed."""
    shown = without_password(url)
    try:
        yield
    except ImportError as error:
        raise BadInput(f"--storage {shown}: {in_a_line(error)}; {_driver(url)}") from None
    except Exception as error:
        raise BadInput(f"--storage {shown}: cannot be reached ({cause(error)})") from None


def _with_tables(url: str) -> RDBStorage:
    """Open a database. If several machines create its tables at once, all but one get an error and try again."""
    from sqlalchemy.exc import DatabaseError

    attempt = 1
    while True:
        try:
            return optuna.storages.RDBStorage(
                url, {"pool_pre_ping": True}, heartbeat_interval=HEARTBEAT, grace_period=3 * HEARTBEAT
            )
        except (DatabaseError, StorageInternalError) as error:
            if attempt == ATTEMPTS or "already exists" not in cause(error):
                raise
        attempt += 1
        time.sleep(0.1)


def cause(error: BaseException) -> str:
    """Return in one line why a database failed: the message of its driver."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return in_a_line(getattr(error, "orig", None) or error)


@contextmanager
def failures_as_errors() -> Iterator[None]:
    """Raise PliError with one line for a database that fails."""
    try:
        yield
    except StorageInternalError as error:
        raise PliError(
            f"the database of the study failed ({cause(error)}); when it is up, run the same command to resume"
        ) from None


def without_password(url: str) -> str:
    """Return the URL of a database without its password.

    >>> without_password("postgresql+psycopg://me:secret@host/db")
    'postgresql+psycopg://me:***@host/db'
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        shown = re.sub(r":[^:/@]+@", ":***@", url)
        raise BadInput(f"--storage {shown}: not a database URL (postgresql+psycopg://USER@HOST/DATABASE)") from None


def _driver(url: str) -> str:
    if url.startswith("postgres"):
        return "pip install 'pli[postgres]', and begin the URL with postgresql+psycopg://"
    return "install the driver that SQLAlchemy needs for it"

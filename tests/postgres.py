"""A PostgreSQL server of the tests' own, on a free port of the loopback interface."""

import functools
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

OWNER = "postgres"
"""Name of the account that runs the server for root, from which PostgreSQL refuses to run, and of its superuser."""
GUARDED = "guarded"
PASSWORD = "not-for-others"
"""A database user who needs a password, and the password."""
RULES = f"""
host all {GUARDED} 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""
SETTINGS = ("-h", "127.0.0.1", "-c", "fsync=off", "-c", "unix_socket_directories=''")


@functools.cache
def programs():
    """The folder of PostgreSQL's programs, which Debian keeps off PATH; None if PostgreSQL is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


class Server:
    """A server whose data are gone when it is closed. It is down until `start`."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="pli-postgres-"))  # pytest's own folders are closed to other users
        self._data, self._names = self.folder / "data", itertools.count()
        self._prefix = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, OWNER)
            self._prefix = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._call("initdb", "--no-sync", "--auth=trust", f"--username={OWNER}", "--encoding=UTF8", "--locale=C")
        (self._data / "pg_hba.conf").write_text(RULES)

    def _call(self, program, *words):
        command = [*self._prefix, str(programs() / program), "-D", str(self._data), *words]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)

    def start(self):
        """Start it; return when it takes connections."""
        options = " ".join([*SETTINGS, "-p", str(self.port)])
        self._call("pg_ctl", "start", "-w", "-s", "-l", str(self.folder / "log"), "-o", options)

    def guard(self):
        """Create the user who needs a password, if there is none."""
        if not self.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{GUARDED}'"):
            self.execute(f"CREATE ROLE {GUARDED} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")

    def stop(self):
        """Stop it as a crash does: connections are cut, and transactions in progress are lost."""
        self._call("pg_ctl", "stop", "-w", "-s", "-m", "immediate")

    def url(self, user=OWNER, database=None):
        """The URL of a database: of a new one unless it is named."""
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database or self.create()}"

    def create(self):
        """Create a database; its name."""
        name = f"studies_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, statement):
        """Execute a statement in the server's own database; the rows that it returns."""
        import psycopg

        with psycopg.connect(self.url(database=OWNER).replace("+psycopg", ""), autocommit=True) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def close(self):
        """Stop it and remove its data."""
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

"""Write output files: atomically, through links, into devices and pipes.

`write` is for files that a user named. `replace` is its primitive, for callers that write to a path themselves and word
their own error messages.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pli_train.core.cli import encoding
from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format.run_folder import PARTIAL

STDOUT = Path("/dev/stdout")
MOST_LINKS = 40
"""Maximum number of links that are followed, as on Linux."""

_FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE}
"""Errors caused by the disk, not by the path that the user named."""


def write(path: Path, data: str | bytes) -> None:
    """Write a file that a user named; text is written as UTF-8.

    A regular file is replaced atomically, or left unchanged. Links are followed, even if the target does not exist yet.
    Devices, pipes and open descriptors (`/dev/stdout`, `/dev/fd/63`) are written to directly. A pipe closed by its
    reader is no error.

    Raises:
        BadInput: if the path cannot be written to: a folder, no such parent folder, no permission.
        PliError: if the disk is full or fails.
    """
    content = data if isinstance(data, bytes) else encoding.utf8(data)
    try:
        if (descriptor := _descriptor(path)) is not None:
            _write_to(descriptor, content)
        else:
            _require_folder(path)
            replace(path, lambda partial: partial.write_bytes(content))
    except (OSError, ValueError) as error:
        raise refusal(path, error) from None


def check(path: Path) -> None:
    """Raise BadInput if `write` would, as far as this can be checked without writing."""
    try:
        if not _is_special(path):
            _require_folder(path)
    except (OSError, ValueError) as error:
        raise refusal(path, error) from None


def make_folder(path: Path) -> None:
    """Make a folder that a user named, with its parents, unless it exists. Raises the same errors as `write`."""
    try:
        if path.exists() and not path.is_dir():
            raise OSError(errno.ENOTDIR, "it is a file: name a folder")
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise refusal(path, error) from None


def replace(path: Path, fill: Callable[[Path], object], durable: bool = True) -> None:
    """Replace a regular file atomically: readers see either the old content or the new one.

    After any error, including Ctrl-C, the old file is unchanged and no temporary file is left. A new file has the
    permissions of the umask. A replaced file keeps its permissions, and its owner if the system allows it.

    Args:
        path: the file; if it is a link, the link's target is replaced.
        fill: function that writes the content to the path it is given.
        durable: return only after the content is synced to disk.

    Raises:
        OSError: raised by `fill` or the system.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(PARTIAL + secrets.token_hex(8))
    try:
        make(partial, fill)
        if durable:
            sync(partial)
        _copy_permissions(target, partial)
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    if durable:
        with suppress(PermissionError):  # the folder may be writable but not readable
            sync(target.parent)


def _copy_permissions(old: Path, new: Path) -> None:
    """Give a new file the permissions of the old one, if it exists, and its owner, if allowed."""
    with suppress(FileNotFoundError):
        stats = old.stat()
        with suppress(PermissionError):
            os.chown(new, stats.st_uid, stats.st_gid)
        new.chmod(stat.S_IMODE(stats.st_mode))


@contextmanager
def folder(final: Path, durable: bool = True) -> Iterator[Path]:
    """Make a folder atomically: readers see either no folder or all of its files.

    Args:
        final: path of the folder; a folder at this path must be empty.
        durable: return only after the folder is synced to disk.

    Yields:
        A temporary folder beside it, to write regular files into. It is removed if the block raises an error.

    Raises:
        OSError: raised by the system.
    """
    partial = final.with_name(PARTIAL + secrets.token_hex(8))
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.iterdir(), partial) if durable else ():
            sync(path)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if durable:
        sync(final.parent)


def make(path: Path, fill: Callable[[Path], object]) -> None:
    """Make a new file with the permissions of the umask, because safetensors makes files only their owner can read."""
    path.touch(exist_ok=False)
    mode = stat.S_IMODE(path.stat().st_mode)
    fill(path)
    path.chmod(mode)


def sync(path: Path) -> None:
    """Sync a file's content, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refusal(path: Path, error: OSError | ValueError) -> PliError:
    """Return the error for a failed write: PliError if the disk caused it, else BadInput."""
    reason = getattr(error, "strerror", None) or str(error)
    line = f"{path}: cannot be written ({reason[:1].lower()}{reason[1:]})"
    return PliError(line) if getattr(error, "errno", None) in _FAILING else BadInput(line)


# --- devices, pipes and descriptors ---------------------------------------------------------------------------------


def _is_special(path: Path) -> bool:
    """Return whether a path is a device, a pipe or an open descriptor."""
    if _number(path) is not None:
        return True
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)


def _descriptor(path: Path) -> int | None:
    """Return a descriptor of a device, a pipe or an open file; None for a regular file to replace."""
    if (number := _number(path)) is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # keep the order of what was printed before
        return os.dup(number)
    if not _is_special(path):
        return None
    if stat.S_ISBLK(path.stat().st_mode):
        raise BadInput(f"{path}: cannot be written (it is a disk, and its content would be lost)")
    return os.open(path, os.O_WRONLY | os.O_NOCTTY)


def _number(path: Path) -> int | None:
    """Return the number of the open descriptor that a path names: 1 for /dev/stdout, 63 for /dev/fd/63.

    The descriptor is used directly, because opening the path again would truncate a file that the shell opened.
    """
    for _ in range(MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if folder in ("/dev/fd", f"/proc/{os.getpid()}/fd") and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, path.readlink())
    return None


def _write_to(descriptor: int, content: bytes) -> None:
    with suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as file:
        file.write(content)


# --- checks of a path -----------------------------------------------------------------------------------------------


def _require_folder(path: Path) -> None:
    """Raise OSError with a clear reason unless a regular file can be written at the path."""
    target = Path(os.path.realpath(path))
    folder = target.parent
    if target.is_dir():
        raise OSError(errno.EISDIR, "it is a folder: name a file")
    if not folder.is_dir():
        raise OSError(errno.ENOTDIR if folder.exists() else errno.ENOENT, f"there is no folder {folder}")
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    if target.exists() and not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"{os.strerror(errno.EACCES)} in its folder {folder}")

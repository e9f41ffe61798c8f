"""Write output files: atomically, through links, into devices and pipes.

`write` is for files that a user named. `replace` is the primitive below it, for writers that want a path to write to
and tell of errors in their own words.
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
"""Links that are followed from one to the next, as many as Linux follows."""

_FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE}
"""What the disk, and not the path that was named, is to blame for."""


def write(path: Path, data: str | bytes) -> None:
    """Write a file that a user named; text is written as UTF-8.

    A plain file is replaced in one step, or stays as it was. A link is followed, also to a file that is not there yet.
    Devices, pipes and open descriptors (`/dev/stdout`, `/dev/fd/63`) are written into; a reader that closes a pipe has
    seen enough, which is no error.

    Raises:
        BadInput: when the path cannot be written to: a folder, no such parent folder, no permission.
        PliError: when the disk is full or fails.
    """
    content = data if isinstance(data, bytes) else encoding.utf8(data)
    try:
        if (descriptor := _descriptor(path)) is not None:
            _pour(descriptor, content)
        else:
            _require_folder(path)
            replace(path, lambda partial: partial.write_bytes(content))
    except (OSError, ValueError) as error:
        raise refusal(path, error) from None


def check(path: Path) -> None:
    """Raise BadInput where `write` would, as far as that can be told without writing."""
    try:
        if not _is_special(path):
            _require_folder(path)
    except (OSError, ValueError) as error:
        raise refusal(path, error) from None


def make_folder(path: Path) -> None:
    """Make a folder that a user named, and those above it. Raises as `write`; one that is there is left as it is."""
    try:
        if path.exists() and not path.is_dir():
            raise OSError(errno.ENOTDIR, "it is a file: name a folder")
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise refusal(path, error) from None


def replace(path: Path, fill: Callable[[Path], object], durable: bool = True) -> None:
    """Put a plain file in place once it is whole: whoever looks sees the old content or the new.

    Whatever goes wrong, Ctrl-C included, the old file stays as it was and nothing is left beside it. A new file has the
    permissions that the umask leaves; one that takes an old file's place has the old one's, and its owner where that is
    allowed.

    Args:
        path: the file; if it is a link, the file that it points to.
        fill: writes the content to the path that it is given.
        durable: return only when the content would survive a power cut.

    Raises:
        OSError: as `fill` and the system raise it.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(PARTIAL + secrets.token_hex(8))
    try:
        make(partial, fill)
        if durable:
            sync(partial)
        _take_over(target, partial)
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    if durable:
        with suppress(PermissionError):  # a folder that may be written to, and not be listed
            sync(target.parent)


def _take_over(old: Path, new: Path) -> None:
    """Give a new file the permissions of the old one, if there is one, and its owner, if that is allowed."""
    with suppress(FileNotFoundError):
        was = old.stat()
        with suppress(PermissionError):
            os.chown(new, was.st_uid, was.st_gid)
        new.chmod(stat.S_IMODE(was.st_mode))


@contextmanager
def folder(final: Path, durable: bool = True) -> Iterator[Path]:
    """Make a folder that is there entirely, or not at all: whoever looks sees none, or all of its files.

    Args:
        final: where it appears; no folder that holds something may be there.
        durable: return only when it would survive a power cut.

    Yields:
        A new folder beside it, to put plain files into. It is removed when the block raises.

    Raises:
        OSError: as the system raises it.
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
    """Make a new file with the permissions that the umask leaves; safetensors would make it its owner's alone."""
    path.touch(exist_ok=False)
    mode = stat.S_IMODE(path.stat().st_mode)
    fill(path)
    path.chmod(mode)


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refusal(path: Path, error: OSError | ValueError) -> PliError:
    """One line on what could not be written: BadInput, unless the disk is to blame."""
    reason = getattr(error, "strerror", None) or str(error)
    line = f"{path}: cannot be written ({reason[:1].lower()}{reason[1:]})"
    return PliError(line) if getattr(error, "errno", None) in _FAILING else BadInput(line)


# --- devices, pipes and descriptors ---------------------------------------------------------------------------------


def _is_special(path: Path) -> bool:
    """Whether there is a device, a pipe or an open descriptor to write into."""
    if _number(path) is not None:
        return True
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)


def _descriptor(path: Path) -> int | None:
    """A descriptor of a device, a pipe or whatever is open already; None where a plain file is to be replaced."""
    if (number := _number(path)) is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # what was printed before comes first
        return os.dup(number)
    if not _is_special(path):
        return None
    if stat.S_ISBLK(path.stat().st_mode):
        raise BadInput(f"{path}: cannot be written (it is a disk, whose content would be lost)")
    return os.open(path, os.O_WRONLY | os.O_NOCTTY)


def _number(path: Path) -> int | None:
    """The number of the descriptor of this process that a path names: 1 for /dev/stdout, 63 for /dev/fd/63.

    It is written to as it is. Opened anew by its path, a file that the shell has opened would lose what is in it.
    """
    for _ in range(MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if folder in ("/dev/fd", f"/proc/{os.getpid()}/fd") and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, path.readlink())
    return None


def _pour(descriptor: int, content: bytes) -> None:
    with suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as file:
        file.write(content)


# --- what can be said of a path -------------------------------------------------------------------------------------


def _require_folder(path: Path) -> None:
    """Raise OSError, in words that say what to do, unless a plain file can be put there."""
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

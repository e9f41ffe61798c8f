"""Files that are written: whole or not at all, through links, and straight into devices and pipes."""

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from pli_train.core import output
from pli_train.core.errors import BadInput, PliError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def old(tmp_path):
    """A file that is there already."""
    path = tmp_path / "old.txt"
    path.write_text("old")
    return path


@contextmanager
def alone(*folders):
    """Nothing is to be left in these folders that was not there before."""
    before = [sorted(folder.iterdir()) for folder in folders]
    yield
    assert [sorted(folder.iterdir()) for folder in folders] == before


def write(path, text="new", before="", **settings):
    """`output.write` in a process of its own, as a command does it."""
    code = (
        "import sys; from pathlib import Path\n"
        "from pli_train.core import output; from pli_train.core.cli import shell\n"
        f"{before}\n"
        "shell.run_process(lambda: output.write(Path(sys.argv[1]), sys.argv[2] * int(sys.argv[3])))"
    )
    times = str(settings.pop("times", 1))
    words = [sys.executable, "-c", code, str(path), text, times]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, **settings)


# --- plain files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_what_the_umask_leaves_and_another_keeps_its_mode(tmp_path, old, umask):
    old.chmod(0o604)
    before = os.umask(umask)
    try:
        output.write(tmp_path / "new.txt", "näher → 1")
        output.write(old, b"\x00\xff")
    finally:
        os.umask(before)
    assert (tmp_path / "new.txt").read_bytes() == "näher → 1".encode()
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o666 & ~umask
    assert (old.read_bytes(), stat.S_IMODE(old.stat().st_mode)) == (b"\x00\xff", 0o604)
    assert len(list(tmp_path.iterdir())) == 2


def test_who_has_the_old_file_open_reads_the_old_content_to_its_end(old):
    with old.open() as reader:
        output.write(old, "new")
        assert (reader.read(), old.read_text()) == ("old", "new")


def test_names_as_long_as_a_disk_takes(tmp_path):
    output.write(tmp_path / ("n" * 255), "new")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_whatever_interrupts_a_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, old, error):
    def half(path):
        path.write_text("ne")
        raise error

    with alone(tmp_path), pytest.raises(error):
        output.replace(old, half)
    with alone(tmp_path), pytest.raises(error):
        output.replace(tmp_path / "fresh", half)
    assert old.read_text() == "old"


def test_a_disk_that_takes_no_more_leaves_the_old_file(tmp_path, old):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    with alone(tmp_path):
        done = write(old, times=1000, preexec_fn=limit)
        fresh = write(tmp_path / "fresh", times=1000, preexec_fn=limit)
    assert (done.returncode, done.stderr) == (1, f"error: {old}: cannot be written (file too large)\n")
    assert fresh.returncode == 1 and old.read_text() == "old"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_the_old_file_and_nothing_beside_it(tmp_path, old, number, code):
    program = (
        "import signal, sys, time; from pathlib import Path; from pli_train.core import output\n"
        "from pli_train.core.cli import shell\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "def half(path):\n    path.write_text('ne'); print('half', flush=True); time.sleep(60)\n"
        "shell.run_process(lambda: output.replace(Path(sys.argv[1]), half))"
    )
    words = [sys.executable, "-c", program, str(old)]
    with alone(tmp_path), subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        assert len(list(tmp_path.iterdir())) == 2, "it is in the middle of writing"
        process.send_signal(number)
        assert process.wait(30) == code
    assert old.read_text() == "old"


# --- links ----------------------------------------------------------------------------------------------------------


def test_a_link_stays_and_its_target_is_replaced(tmp_path, old):
    there = tmp_path / "there"
    there.mkdir()
    (there / "near").symlink_to("../old.txt")
    (there / "far").symlink_to(there / "near")
    (there / "dangling").symlink_to("../fresh.txt")
    with alone(there):
        output.write(there / "far", "new")
        output.write(there / "dangling", "born")
    assert all((there / name).is_symlink() for name in ("near", "far", "dangling"))
    assert (old.read_text(), (tmp_path / "fresh.txt").read_text()) == ("new", "born")


def test_a_link_to_another_file_system_is_followed(tmp_path):
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    target = other / f"{tmp_path.name}-{os.getpid()}"
    (tmp_path / "link").symlink_to(target)
    try:
        output.write(tmp_path / "link", "new")
        output.write(tmp_path / "link", "newer")
        assert target.read_text() == "newer" and (tmp_path / "link").is_symlink()
        assert list(other.glob(".partial-*")) == []
    finally:
        target.unlink(missing_ok=True)


# --- devices and pipes ----------------------------------------------------------------------------------------------


def device(path, kind, major, minor):
    """A private device; what a real one would suffer, the machine would."""
    try:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
        os.close(os.open(path, os.O_RDONLY)) if kind == stat.S_IFCHR else None
    except OSError:
        pytest.skip("may make no devices here")


def test_a_device_is_written_into_and_stays_one(tmp_path):
    device(tmp_path / "null", stat.S_IFCHR, 1, 3)
    (tmp_path / "link").symlink_to("null")
    with alone(tmp_path):
        output.write(tmp_path / "null", "new")
        output.write(tmp_path / "link", "new")
    assert (tmp_path / "null").is_char_device() and (tmp_path / "link").is_symlink()


def test_a_full_device_is_reported_in_a_line(tmp_path):
    device(tmp_path / "full", stat.S_IFCHR, 1, 7)
    with pytest.raises(PliError, match=r"full: cannot be written \(no space left on device\)$") as caught:
        output.write(tmp_path / "full", "new")
    assert caught.value.exit_code == 1


def test_a_disk_itself_is_not_written_over(tmp_path):
    try:
        os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 250))
    except OSError:
        pytest.skip("may make no devices here")
    with pytest.raises(BadInput, match="it is a disk, and its content would be lost"):
        output.write(tmp_path / "disk", "new")


def test_a_named_pipe_gets_all_of_it_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got, text = [], "new" * 100_000  # more than a pipe holds
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    output.write(tmp_path / "pipe", text)
    reader.join(20)
    assert got == [text] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_terminal_is_written_to():
    ours, theirs = os.openpty()
    try:
        output.write(Path(os.ttyname(theirs)), "new")
        assert os.read(ours, 10) == b"new"
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_open_descriptor_is_written_to_where_it_stands(tmp_path, old):
    with old.open("ab", buffering=0) as file:
        output.write(Path(f"/dev/fd/{file.fileno()}"), " new")
        output.write(Path(f"/proc/self/fd/{file.fileno()}"), " newer")
        file.write(b" last")
    assert old.read_text() == "old new newer last"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_reader_that_has_seen_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        output.write(Path(f"/dev/fd/{writing}"), "new")
    finally:
        os.close(writing)


@pytest.mark.parametrize("into", [">", ">>"])
def test_stdout_named_as_a_file_keeps_what_the_shell_has_put_there(tmp_path, into):
    code = (
        "from pathlib import Path; from pli_train.core import output; print('printed'); "
        "output.write(Path('/dev/stdout'), 'written\\n'); print('after')"
    )
    shell = f'echo first > log; {{ echo second; {sys.executable} -c "{code}"; echo last; }} {into} log'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-c", shell], cwd=tmp_path, check=True, env=environment)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == ["first"] * (into == ">>") + ["second", "printed", "written", "after", "last"]


def test_process_substitution(tmp_path):
    code = "import sys; from pathlib import Path; "
    code += "from pli_train.core import output; output.write(Path(sys.argv[1]), 'new')"
    shell = f'{sys.executable} -c "{code}" >(cat > got); sleep 0.1; cat got'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("new", "")


# --- what cannot be written -----------------------------------------------------------------------------------------

REFUSED = {
    "folder": "it is a folder: name a file",
    "no/such/file": "there is no folder {0}/no/such",
    "old.txt/file": "there is no folder {0}/old.txt",
    "loop": "too many levels of symbolic links",
    "lost": "there is no folder {0}/no",
    "n" * 256: "file name too long",
    "a\0b": "embedded null byte",
    "a\0b/c": "embedded null byte",
}


@pytest.mark.parametrize("act", [lambda path: output.write(path, "new"), output.check], ids=["write", "check"])
@pytest.mark.parametrize(("name", "message"), REFUSED.items(), ids=lambda word: repr(word)[:20])
def test_a_path_that_takes_no_file_is_reported_in_one_line(tmp_path, old, act, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("no/file")
    with alone(tmp_path), pytest.raises(BadInput) as caught:
        act(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: cannot be written ({message.format(tmp_path)})"
    assert old.read_text() == "old"


def test_permission_bits_are_heeded(tmp_path, old):
    shut = tmp_path / "shut"
    shut.mkdir()
    (shut / "there.txt").write_text("old")
    old.chmod(0o444)
    shut.chmod(0o555)
    locations = {
        old: "permission denied",
        **dict.fromkeys((shut / "there.txt", shut / "new.txt"), "denied in its folder"),
    }
    with alone(tmp_path, shut):
        for path, message in locations.items():
            done = write(path, before="from tests import warm; warm.drop_capabilities()")
            assert (done.returncode, done.stderr.count("\n")) == (2, 1) and message in done.stderr
    assert old.read_text() == (shut / "there.txt").read_text() == "old"


def test_check_writes_nothing(tmp_path, old):
    with alone(tmp_path):
        output.check(old)
        output.check(tmp_path / "fresh")
    assert old.read_text() == "old"


def test_a_folder_is_made_with_those_above_it_or_refused_in_a_line(tmp_path, old):
    output.make_folder(tmp_path / "a" / "b")
    output.make_folder(tmp_path / "a")
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(BadInput, match=r"old\.txt: cannot be written \(it is a file: name a folder\)$"):
        output.make_folder(old)
    with pytest.raises(BadInput, match=r"old\.txt/c: cannot be written \(not a directory\)$"):
        output.make_folder(old / "c")


def test_a_folder_appears_with_all_of_its_files_or_not_at_all(tmp_path):
    final = tmp_path / "above" / "model"
    with output.folder(final) as partial:
        (partial / "weights").write_text("1")
        assert not final.exists()
    assert [path.name for path in final.parent.iterdir()] == ["model"] and (final / "weights").read_text() == "1"
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), output.folder(tmp_path / "other") as partial:
            (partial / "weights").write_text("1")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["above"]


def test_a_folder_takes_no_other_ones_place(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    with pytest.raises(OSError), output.folder(tmp_path / "model") as partial:
        (partial / "weights").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "old"

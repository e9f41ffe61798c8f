"""Run the commands of the README and the pages under docs/, and compare their output with what is shown."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.documented import ROOT, VARIABLES, ShownCommand, check, commands, disagreement
from tests.plugging import environment
from tests.plugging import example as example_package
from tests.warm_programs import WarmPrograms

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
TEXTS = [path.read_text(encoding="utf-8") for path in PAGES]
UNRUN: dict[str, str] = {}
"""Commands that no page can run, and why."""

LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")


@pytest.fixture(scope="session")
def programs():
    """A folder with `pli-train` and `pli-analyze` that run in forks of a warm process."""
    with tempfile.TemporaryDirectory() as folder:
        WarmPrograms(Path(folder), **VARIABLES)
        yield Path(folder)


@pytest.fixture(scope="session")
def example(programs, tmp_path_factory):
    """A folder with the run and its twin that pages share, made by the commands of the index, and its differences."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs/example.toml", folder / "docs")
    return folder, check(TEXTS[NAMES.index("docs/index.md")], folder, programs)


@pytest.fixture(scope="session")
def wrong(example, programs, tmp_path_factory, request):
    """Page → its differences. Pages run in parallel in their own folders."""
    made, message = example

    def read(name):
        if name == "docs/index.md":
            return message
        folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("page") / "here"))
        if name == "README.md":  # which makes the run itself
            shutil.rmtree(folder / "runs")
        plugged = environment(example_package(folder / "packages")) if name == "docs/plugins.md" else {}
        return check(TEXTS[NAMES.index(name)], folder, programs, **plugged)

    asked = [item.callspec.params["name"] for item in request.session.items if "wrong" in item.fixturenames]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(asked, pool.map(read, asked), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_page_shows_is_what_is_printed(name, wrong):
    assert "\n\n".join(wrong[name]) == ""


PYTHON = [
    pytest.param(name, code, id=f"{name}-{number}")
    for name, text in zip(NAMES, TEXTS, strict=True)
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    if name != "README.md"  # which tests/test_readme.py runs
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), PYTHON)
def test_a_python_block_of_a_page_runs(name, code, example, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], cwd=example[0], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


TOML = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in zip(NAMES, TEXTS, strict=True)
    for number, block in enumerate(re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize("block", TOML)
def test_a_config_of_a_page_is_one(block, tmp_path):
    from pli_train.config import loading

    file = tmp_path / "page.toml"
    if "[space]" in block:
        from pli_train.sweep import space_reading

        file.write_text(block)
        space_reading.load(str(file))
        return
    file.write_text(block if "extends" in block else f'extends = "tiny"\n{block}')
    loading.load(str(file))


def test_every_command_is_shown_somewhere():
    from pli_analysis.cli import app as analyze
    from pli_train.cli import app as train

    there = {
        f"{word} {command.name or command.callback.__name__.replace('_', '-')}"
        for word, app in (("pli-train", train), ("pli-analyze", analyze))
        for command in app.registered_commands
        if not command.hidden  # old spellings
    }
    message = " ; ".join(shown.command for text in TEXTS for shown in commands(text))
    assert {command for command in there if f"{command} " not in f"{message} "} == set(UNRUN)


def test_every_page_is_linked_from_the_index():
    linked = {target for target, _ in LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8"))}
    assert {path.name for path in PAGES if path.parent != ROOT} - {"index.md"} <= linked


def test_every_page_is_in_the_navigation_of_the_site():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "reports").rglob("*.md")]
    names = [str(path.relative_to(ROOT)).removeprefix("docs/") for path in pages]
    assert [name for name in names if f": {name}\n" not in navigation] == []


@pytest.mark.parametrize("path", [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        there = path.parent / target if target else path
        assert there.exists(), f"{path.name} links to {target}, which is not there"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def of(*output, code=0, varies=False):
    return ShownCommand(1, "a command", code, output, varies)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (of("a   1", "─────", "0.5 of 3"), "a 1\n──\n0.123e-4 of 3\n"),
        (of("step 15: 2 layers, loss 4.1 → 4.2"), "step 15: 2 layers, loss 3.99 → 5\n"),
        (of("first", "…", "last"), "first\nx\n\ny\nlast\n"),
        (of("first", "…", "last"), "first\nlast\n"),
        (of("bytes: …, state: whole"), "bytes: 7, state: whole\n"),
        (of("12% of it"), "7.5% of it\n"),
        (of("+b at step 3 raised the loss", varies=True), "+b at step 3 lowered it\n"),
        (of(), ""),
    ],
)
def test_the_checker_accepts_what_is_shown(shown, printed):
    assert disagreement(shown, 0, printed) is None


@pytest.mark.parametrize(
    ("shown", "code", "printed"),
    [
        (of("a 1"), 0, "a 2\n"),
        (of("a b c"), 0, "a c b\n"),
        (of("a 0.5"), 0, "a nothing\n"),
        (of("a 0.5"), 0, "a\n"),
        (of("a"), 0, "a\nb\n"),
        (of("a", "b"), 0, "a\n"),
        (of("a", "…", "c"), 0, "a\nb\n"),
        (of("…x"), 0, "y\nx y\n"),
        (of(), 0, "a\n"),
        (of("a"), 1, "a\n"),
        (of("a", code=2), 0, "a\n"),
        (of("+b one", "+c two", varies=True), 0, "+b one\n"),
        (of("+b one", varies=True), 0, "+c one\n"),
    ],
)
def test_the_checker_finds_what_is_wrong(shown, code, printed):
    assert "line 1" in disagreement(shown, code, printed)


def test_commands_run_in_order_in_one_folder_and_only_the_wrong_ones_are_reported(tmp_path):
    page = """
Words.

```console
$ echo 3.5 > number; cat number
1.25
$ cat number
the wrong words
$ ls nowhere   # exit 2
…nowhere…
```

```toml
$ false
```

```console
$ false
$ echo early; false | cat
early
$ pli-train plan tny   # exit 2
error: no preset 'tny'; did you mean 'tiny'?…
…
```
"""
    found = check(page, tmp_path)
    assert [re.search(r"line (\d+): `(.*?)`", message).groups() for message in found] == [
        ("7", "cat number"),
        ("18", "false"),
        ("19", "echo early; false | cat"),
    ]
    assert "-the wrong words" in found[0] and "+3.5" in found[0]
    with pytest.raises(ValueError, match="line 2: a console block must begin with a command"):
        list(commands("```console\nno command\n```\n"))

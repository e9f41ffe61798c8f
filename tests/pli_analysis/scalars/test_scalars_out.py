"""Scalars on their way out: tables that keep every value, and TensorBoard's own downloads."""

import io
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pli_analysis.cli import app
from pli_analysis.scalars import downloads, reading
from pli_analysis.scalars.events import Columns
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from tests.event_files import event, framed

STEPS, VALUES = [0, 1, 5, 7, 2**31], [0.1, math.nan, math.inf, -math.inf, -0.0]
LOGGED = {"loss/train": dict(zip(STEPS, VALUES, strict=True)), "../../lr": {3: 1e-4}, "é|,\"'\n": {0: 2.0}}


def as32(value):
    return float(np.float32(value))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    records = [event(s, [(tag, v)], 1.7e9 + s / 8) for tag, of_tag in LOGGED.items() for s, v in of_tag.items()]
    (folder / "events.out.tfevents.1.host.1.0").write_bytes(b"".join(map(framed, records)))
    return folder


def call(*words):
    return CliRunner().invoke(app, ["scalars", *map(str, words)])


def expected_rows():
    rows = []
    for tag in sorted(LOGGED):
        rows += [(tag, step, 1.7e9 + step / 8, as32(value)) for step, value in sorted(LOGGED[tag].items())]
    return rows


def same(rows):
    """Whether rows of (tag, step, wall time, value) are what was logged, to the last bit, NaN included."""
    ours, expected = list(rows), expected_rows()
    assert [row[:3] for row in ours] == [row[:3] for row in expected]
    assert np.array_equal([row[3] for row in ours], [row[3] for row in expected], equal_nan=True)


@pytest.mark.parametrize("format", ["json", "csv", "parquet"])
def test_each_value_comes_back_from_a_table(run, format, tmp_path):
    out = tmp_path / f"out.{format}"
    assert call(run, "-o", out).exit_code == 0
    if format == "json":
        rows = json.loads(out.read_text(), parse_constant=pytest.fail)  # strict JSON: no bare NaN
    elif format == "csv":
        rows = pd.read_csv(io.StringIO(out.read_text()), float_precision="round_trip").to_dict("records")
    else:
        pytest.importorskip("pyarrow")
        from pyarrow import parquet

        rows = parquet.read_table(out).to_pylist()
    assert {row["run"] for row in rows} == {"run"}
    same((row["tag"], row["step"], row["wall_time"], float(row["value"])) for row in rows)


def test_tags_are_chosen_by_name_and_by_pattern(run):
    rows = json.loads(call(run, "--tags", "loss/*", "--tags", "../../lr", "-f", "json").stdout)
    assert {row["tag"] for row in rows} == {"loss/train", "../../lr"}
    printed = call(run, "--tags", "loss/*").stdout
    assert "nan" in printed and "-inf" in printed


def test_a_table_too_long_to_read_is_not_drawn(run, monkeypatch):
    monkeypatch.setattr("pli_analysis.commands.scalars.MOST_DRAWN", 6)
    answered = call(run)
    assert isinstance(answered.exception, BadInput) and "7 rows are too many for a table: select with --tags" in str(
        answered.exception
    )
    assert call(run, "--tags", "loss/*").exit_code == call(run, "-f", "table").exit_code == 0


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_downloads_are_byte_for_byte_those_of_tensorboard(run, ending, tmp_path):
    from tensorboard.backend import json_util
    from tensorboard.plugins.scalar.scalars_plugin import OutputFormat

    folder = tmp_path / "deep" / "down"
    assert call(run, "--download", folder, "--format", ending[1:]).stdout == f"{folder}\n"
    served, asked = tensorboards(run), OutputFormat.CSV if ending == ".csv" else OutputFormat.JSON
    names = {"loss/train": "loss_train", "../../lr": "lr", "é|,\"'\n": "scalar"}
    assert sorted(path.name for path in folder.iterdir()) == sorted(name + ending for name in names.values())
    for tag, name in names.items():
        body, _ = served(tag, asked)
        text = body if ending == ".csv" else json.dumps(json_util.Cleanse(body, "utf-8"))
        assert (folder / f"{name}{ending}").read_bytes().decode() == text
        back, read = reading.read(folder / f"{name}{ending}").of(name), reading.read(run).of(tag)
        for mine, theirs in zip(back, read, strict=True):
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs, equal_nan=True)


def tensorboards(folder):
    """What TensorBoard serves for a tag of a run: its own plugin over its own reader."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

    multiplexer = EventMultiplexer({"run": str(folder)}, tensor_size_guidance={"scalars": 0})
    multiplexer.Reload()
    plugin = ScalarsPlugin(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    return lambda tag, format: plugin.scalars_impl(RequestContext(), tag, "run", "", format)


@given(st.lists(st.text(), unique=True, max_size=20))
def test_file_names_stay_in_the_folder_and_differ(tags):
    names = downloads.names([*tags, "..", "/etc/passwd", "a/b", "a_b", "A_B", "x" * 5000])
    assert len({name.lower() for name in names.values()}) == len(names)
    for name in names.values():
        assert 0 < len(name) < 120 and not name.startswith((".", "-"))
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(-(2**53) + 1, 2**53 - 1), st.floats(), max_size=20), st.sampled_from(downloads.ENDINGS)
)
def test_what_a_download_holds_is_read_as_it_was(tmp_path_factory, points, ending):
    steps = np.array(sorted(points), dtype=np.int64)
    columns = Columns(steps, steps / 7, np.array([points[step] for step in steps.tolist()], dtype=np.float64))
    path = downloads.write(tmp_path_factory.mktemp("down"), {"x": columns}, ending)["x"]
    for mine, theirs in zip(reading.read(path).of("x"), columns, strict=True):
        assert np.array_equal(mine, theirs, equal_nan=True)


MISTAKES = {
    "no such path": (["nowhere"], "nowhere: no such file or folder"),
    "nothing logged": (["EMPTY"], "holds no scalars"),
    "no such tag": (["RUN", "--tags", "los"], "no scalar matches 'los'; there are: ../../lr, loss/train, "),
    "Parquet to a terminal": (["RUN", "-f", "parquet"], "write it to a file"),
    "downloads as Markdown": (
        ["RUN", "--download", "d", "-f", "md"],
        "--download: writes json (the default) or csv files",
    ),
    "downloads and a table": (["RUN", "--download", "d", "-o", "x.csv"], "omit -o"),
    "a file in the way": (["RUN", "--download", "FILE"], "cannot be written"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line(run, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    paths = {"RUN": run, "EMPTY": tmp_path / "empty", "FILE": tmp_path / "file"}
    answered = call(*(paths.get(word, word) for word in words))
    assert isinstance(answered.exception, BadInput) and message in str(answered.exception)
    assert answered.stdout == ""


def test_without_pyarrow_a_line_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answered = call(run, "-o", tmp_path / "x.parquet")
    assert isinstance(answered.exception, BadInput) and "pip install 'pli[parquet]'" in str(answered.exception)
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.parametrize("words", [["drift"], ["report"], ["compare"], ["scalars"]], ids=lambda words: words[0])
def test_damaged_records_are_reported_in_one_line(small_run, words, tmp_path):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    [path] = run.glob(run_folder.SCALARS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    answered = CliRunner().invoke(app, [*words, str(run)])
    assert answered.exit_code == 0, answered.output
    assert answered.stderr.count(f"passed over: {path}: 1 damaged record\n") == 1
    assert words != ["report"] or "damaged record" in answered.stdout


@pytest.mark.parametrize(
    ("name", "text"), [("loss.csv", "Wall time,Step,Value\r\n1.5,3,0.25\r\n"), ("loss.json", "[[1.5, 3, 0.25]]")]
)
def test_a_byte_order_mark_before_a_download_is_passed_over(name, text, tmp_path):
    """Spreadsheets put one before a CSV that they save as UTF-8."""
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert (tmp_path / name).read_bytes().startswith(b"\xef\xbb\xbf")
    assert downloads.read(tmp_path / name).tolist() == [[1.5, 3.0, 0.25]]

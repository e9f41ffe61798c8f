"""Tables that others log to, read into the numbers that stand in them."""

import math

import pytest

from pli_analysis.runs import paths
from pli_analysis.scalars import csv_logs
from pli_train.core.errors import BadInput


def points(columns):
    return dict(zip(columns.steps.tolist(), columns.values.tolist(), strict=True))


def test_lightnings_metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train_loss,val_loss\n0,49,2.5,\n0,99,2.25,\n0,99,,2.0\n1,149,inf,\n1,149,,nan\n")
    [found] = csv_logs.read(path).values()
    assert points(found.of("train_loss")) == {49: 2.5, 99: 2.25, 149: math.inf}
    assert points(found.of("val_loss"))[99] == 2.0 and math.isnan(points(found.of("val_loss"))[149])
    assert points(found.of("epoch")) == {49: 0, 99: 0, 149: 1} and not found.damaged


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_keras_logger_with_any_separator_and_a_byte_order_mark(tmp_path, sign):
    path = tmp_path / "training.log"
    text = "epoch,loss,val_loss\n0,3.5,NA\n1,3.25,3.5\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace(",", sign).encode())
    [(source, found)] = paths.logged(path)
    assert source.kind == paths.Kind.FILE
    assert points(found.of("loss")) == {0: 3.5, 1: 3.25} and points(found.of("val_loss")) == {1: 3.5}


def test_what_wandb_exports_of_a_chart_is_several_runs(tmp_path):
    path = tmp_path / "wandb_export.csv"
    columns = [f"{run} - {tag}{bound}" for run in ("a - b", "c") for tag in ("_step", "train/loss") for bound in BOUNDS]
    cells = {"a - b - train/loss": "2.5", "c - train/loss": "1.5", "a - b - train/loss__MIN": "9"}
    header = ",".join(f'"{name}"' for name in ["Step", *columns])
    row = ",".join(["10", *(cells.get(name, "") for name in columns)])
    path.write_text(f"{header}\n{row}\n")
    found = csv_logs.read(path)
    assert {run: {tag: points(of) for tag, of in logged.columns.items()} for run, logged in found.items()} == {
        "a - b": {"train/loss": {10: 2.5}},
        "c": {"train/loss": {10: 1.5}},
    }
    assert paths.names([source for source, _ in paths.logged(path)]) == ["a - b", "c"]


BOUNDS = ("", "__MIN", "__MAX")


def test_wandb_history_has_wall_times(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("_step,_timestamp,loss,note\n1,1700000000.5,2,good\n2,1700000001.5,1,bad\n")
    [found] = csv_logs.read(path).values()
    assert found.of("loss").wall_times.tolist() == [1700000000.5, 1700000001.5] and list(found.columns) == ["loss"]


def test_what_is_skipped_is_reported(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,2\n2,oops\n3\n4,1,2\n5,1\n6,0.")
    [found] = csv_logs.read(path).values()
    assert points(found.of("loss")) == {1: 2, 5: 1, 6: 0}
    assert found.damaged == [
        f"{path}: 2 rows with more or fewer cells than columns",
        f"{path}: 1 cell of 'loss' without a number",
    ]


def test_a_file_that_was_gone_on_with_has_a_first_line_more(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss\n0,3\n1,2\nepoch,loss\n1,2.5\nepoch,loss,val_loss\n2,1,1.5\n")
    [found] = csv_logs.read(path).values()
    assert points(found.of("loss")) == {0: 3, 1: 2.5, 2: 1} and points(found.of("val_loss")) == {2: 1.5}
    assert not found.damaged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("Relative Time (Process),a - loss\n1,2\n", "has no step column, only 'Relative Time"),
        ('"Name","State","epoch","loss"\n"sunny-1","finished",3,2.5\n', "is a table with one row per run, not a log"),
        ("step,loss\n1.5,2\n", "a step in column 'step' is not an integer"),
        ("step,loss\nx,2\n", "a step in column 'step' is not an integer"),
        ("step,loss,loss\n1,2,3\n", "two columns are named 'loss'"),
        ("step,loss\n1e300,2\n", "is not an integer"),
        ("step,loss\n1," + "9" * 200_000 + "\n", "cannot be read as a table"),
    ],
)
def test_what_is_no_log_is_one_line(tmp_path, text, message):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"log\.csv: ") as found:
        csv_logs.read(path)
    assert message in str(found.value) and "\n" not in str(found.value)


def test_scalars_beside_an_epoch_alone_count_epochs(tmp_path):
    path = tmp_path / "log.csv"
    for first, expected in (("Epoch", {"loss", "val_loss"}), ("step", set()), ("step,epoch", set())):
        names = f"{first},loss,val_loss"
        path.write_text(f"{names}\n{','.join('1' for _ in names.split(','))}\n")
        [found] = csv_logs.read(path).values()
        assert found.epochs == expected and {"loss", "val_loss"} <= set(found.columns)
        assert found.only(["loss"]).epochs == expected & {"loss"}
        assert paths.logged(path)[0][1].epochs == expected


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ("1;5,5\n2;5,25\n", "2 cells of 'loss' without a number (a decimal comma? write 5.5 for 5,5)"),
        ("1;5\n2;5,25\n", "1 cell of 'loss' without a number (a decimal comma? write 5.5 for 5,5)"),
        ("1;five\n2;six\n", "2 cells of 'loss' without a number"),
        ("1;5,5\n2;six\n", "2 cells of 'loss' without a number"),
    ],
)
def test_cells_without_a_number_are_counted_with_the_likely_reason(tmp_path, rows, line):
    path = tmp_path / "log.csv"
    path.write_text(f"step;loss\n{rows}")
    [found] = csv_logs.read(path).values()
    assert found.damaged == [f"{path}: {line}"]
    if not found.columns:
        with pytest.raises(BadInput) as error:
            paths.logged(path)
        assert str(error.value) == f"{path}: holds no scalars; {path}: {line}"


def test_a_column_of_words_beside_numbers_is_nothing_amiss(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,phase,loss\n1,warm-up,5.5\n2,decay,5.25\n")
    [found] = csv_logs.read(path).values()
    assert points(found.of("loss")) == {1: 5.5, 2: 5.25} and not found.damaged

"""JSON Lines logs, read into the numbers that stand in them, under the rules of CSV logs."""

import json
import math

import pytest

from pli_analysis.runs import paths
from pli_analysis.scalars import json_logs
from pli_train.core.errors import BadInput

RECORDS = [
    {"step": 1, "loss": 5.5, "phase": "warm-up", "lr": None, "ok": True, "config": {"a": 1}},
    {"step": 2, "loss": math.nan, "eval/loss": 4, "layers": [1, 2]},
    {"step": 2, "loss": 5.25},
    {"step": 3, "loss": 10**400},
]


def points(columns):
    return dict(zip(columns.steps.tolist(), columns.values.tolist(), strict=True))


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".JSONL"])
def test_numbers_with_a_step_are_scalars_and_nothing_else_is(tmp_path, ending):
    path = tmp_path / f"log{ending}"
    path.write_text(lines(RECORDS))
    [(source, found)] = paths.logged(path)
    assert source.kind == paths.Kind.FILE and not found.damaged
    assert {tag: points(of) for tag, of in found.columns.items()} == {
        "loss": {1: 5.5, 2: 5.25, 3: math.inf},
        "eval/loss": {2: 4.0},
    }


def test_a_line_cut_short_is_reported_and_the_rest_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(lines(RECORDS[:1]) + '{"step": 2, "lo')
    [found] = json_logs.read(path).values()
    assert points(found.of("loss")) == {1: 5.5}
    assert found.damaged == [f"{path}: 1 line without a JSON object"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]\n3\n", "has no records"),
        ("", "has no records"),
        ('{"loss": 1}\n', "has no step column, only 'loss'"),
        ('{"step": 1.5, "loss": 1}\n', "is not an integer"),
        ('{"step": 1, "note": "a"}\n', "holds no scalars; .*: 1 cell of 'note' without a number"),
    ],
)
def test_what_is_no_log_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput, match=rf"log\.jsonl: .*{message}"):
        paths.logged(path)


def test_a_folder_of_logs_holds_one_run_each_and_no_texts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(lines(RECORDS))
    (tmp_path / "corpus.jsonl").write_text('{"text": "no log"}\n')
    found = paths.logged(tmp_path)
    assert paths.names([source for source, _ in found]) == ["a", "b"]

"""One run, one number: command, table, caption, summary and page give the same figure for the same question.

Several runs: `test_command_table_caption_summary_and_page_agree_on_several_runs`.
"""

import html
import inspect
import json
import re

import pytest
from typer.testing import CliRunner

from pli_analysis.cli import app
from pli_analysis.commands.disturbance import disturbance as command_of_disturbance
from pli_analysis.metrics.disturbance.disturbance import disturbance
from pli_analysis.scalars import reading
from pli_train.core.run_format import run_folder

EVENTS = (20, 40)


@pytest.fixture(scope="module")
def run(config_of, tmp_path_factory):
    """A run that grows twice, with checkpoints at placebo steps."""
    from pli_train.training import launch

    folder = tmp_path_factory.mktemp("agreement") / "run"
    changed = {"train.steps": 60, "checkpoint.every": 2, "growth.schedule": "20@1 40@1", "optim.schedule": "constant"}
    launch.begin(
        config_of("gpt2", {**changed, "optim.warmup_ratio": 0.0, "train.eval_every": 10, "train.eval_blocks": 24}),
        folder,
    ).run()
    return folder


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    """The text of the report's page."""
    file = tmp_path_factory.mktemp("agreement") / "page.html"
    command("report", run, "--html", file)
    return html.unescape(file.read_text(encoding="utf-8"))


def command(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


def rows(*words):
    return json.loads(command(*words, "--format", "json").stdout)


def cell(value):
    return f"<td>{value:.6g}</td>"


def logged(run, tag, step):
    return float(reading.read(run).at(tag, step))


def test_the_command_reads_as_much_as_the_report():
    asked = inspect.signature(command_of_disturbance).parameters
    measured = inspect.signature(disturbance).parameters
    assert asked["placebos"].default == measured["most"].default
    assert asked["blocks"].default == measured["blocks"].default


@pytest.mark.slow
def test_an_event_changes_the_loss_by_one_number(run, page):
    events = rows("disturbance", run)
    assert [event["step"] for event in events] == list(EVENTS)
    lines = command("disturbance", run).stderr.splitlines()
    printed, seen = command("report", run).stdout, command("watch", run, "--once").stdout
    for event, line in zip(events, lines, strict=True):
        # What the run logged on the same blocks.
        sides = [logged(run, tag, event["step"]) for tag in (run_folder.EVAL_LOSS, run_folder.EVAL_LOSS_AFTER_EVENT)]
        assert [event["loss_before"], event["loss_after"]] == sides
        assert event["loss_change"] == pytest.approx(sides[1] - sides[0], abs=2e-6)
        assert event["blocks"] == 24 and event["loss_change_low"] < event["loss_change"] < event["loss_change_high"]
        # The sentence, on stderr, in the terminal's report and on the page.
        words = re.search(
            r"(raised|lowered|changed) the loss by ([\d.e+-]+) \(95 % interval (\S+) to (\S+), 24 blocks", line
        )
        assert (words[1] == "changed") == (event["loss_change_low"] <= 0 <= event["loss_change_high"])
        sign = -1 if words[1] == "lowered" else 1
        assert [sign * float(words[2]), float(words[3]), float(words[4])] == pytest.approx(
            [event["loss_change"], event["loss_change_low"], event["loss_change_high"]], abs=0.00051
        )
        sentence = line[line.index(words[1]) :]
        assert sentence in page and " ".join(sentence.split()) in " ".join(printed.split())
        # The page's table, and what `watch` shows.
        assert all(cell(event[name]) in page for name in ("loss_change", "loss_change_low", "loss_change_high", "kl"))
        assert f"{sides[0]:.3f} → {sides[1]:.3f}" in " ".join(seen.split())


def test_a_layer_has_one_score(run, page):
    layers = rows("disturbance", run, "--layers")
    scored = [layer for layer in layers if layer["score"] is not None]
    assert len(scored) >= 3
    for layer in scored:
        assert cell(layer["score"]) in page and cell(layer["p"]) in page
    highest = max(scored, key=lambda layer: layer["score"])
    sentence = (
        rf"the highest score, {highest['score']:.1f}, is that of layer {highest['layer']}, .*, at \{highest['event']}\."
    )
    assert re.search(sentence, page)


def test_the_eval_loss_is_one_number(run, page):
    points = reading.read(run).of(run_folder.EVAL_LOSS)
    first, last = (f"{points.values[position]:.3f}" for position in (0, -1))
    assert f"{first} → {last} nats per token" in page  # the summary
    assert f"Eval loss went from {first} to {last};" in page  # the caption of the loss
    assert f"{first} → {last} nats per token" in command("report", run).stdout
    (row,) = rows("compare", run, "--runs")
    assert row["eval/loss at 60"] == pytest.approx(points.values[-1]) and row["lowest loss"] == pytest.approx(
        points.values.min()
    )
    error, full = (reading.read(run).of(tag).values[-1] for tag in (run_folder.EVAL_LOSS_SE, run_folder.EVAL_LOSS_FULL))
    assert f"nats per token (standard error {error:.3f})" in page and f"{full:.3f} over all held-out text" in page
    history = json.loads((run / "checkpoint-60/trainer_state.json").read_text())["log_history"]
    assert [entry["eval_loss"] for entry in history if "eval_loss" in entry][-1] == pytest.approx(points.values[-1])


def test_drift_is_one_number(run, page):
    final = [row for row in rows("drift", run) if row["checkpoint"] == "checkpoint-60"]
    nearest, *_, farthest = sorted(final, key=lambda row: row["relative_l2"])
    sentence = (
        f"At the last checkpoint layer {farthest['part']} (age {farthest['age']}) has the largest relative L2 drift, "
        f"{farthest['relative_l2']:.2f}, and layer {nearest['part']} (age {nearest['age']}) the smallest, "
        f"{nearest['relative_l2']:.2f}."
    )
    assert page.count(sentence) >= 2  # the caption and the summary
    assert sentence in " ".join(command("report", run).stdout.split())


def test_the_top_of_the_page_has_the_numbers_of_the_commands(run, page):
    """The share of FLOPs is that of `pli-train plan`, which computes it from shapes before training."""
    from pli_train.commands.plan import plan
    from pli_train.config import loading

    top, printed = page[: page.index("<main")], " ".join(command("report", run).stdout.split())
    config = json.loads((run / run_folder.RUN).read_text())["config"]
    share = plan(loading.check(config, "test")).share
    last = reading.read(run).of(run_folder.EVAL_LOSS).values[-1]
    verdict = (
        f"The final eval loss is {last:.3f}, with {share:.1%} of the FLOPs that 3 layers from the start would take"
    )
    assert verdict in top and verdict in printed

    events = rows("disturbance", run)
    change = sum(event["loss_change"] for event in events) / len(events)
    recovered = sorted(event["recovery_steps"] for event in events if event["is_recovered"])
    shown = dict(re.findall(r"<dt>(.*?)</dt>\s*<dd><b>(.*?)</b>", top))
    assert shown["Final eval loss"] == f"{last:.3f}" and shown["FLOPs vs full depth"] == f"{share:.1%}"
    assert float(shown["Change of loss at birth"]) == pytest.approx(change, abs=0.00051)
    assert f"after {len(recovered)} of 2 events" in top and f"after {len(recovered)} of 2 events" in page[len(top) :]
    if recovered:
        median = int((recovered[0] + recovered[-1]) / 2)
        assert shown["Recovery of the loss"].split()[0] == str(median) and f"(median: {median} step" in page[len(top) :]
    assert all(f"{label}: {value} (" in printed for label, value in shown.items())

"""What `pli-train plan` prints: columns only for what varies, papers, and what waits for a plateau."""

import pytest

from pli_train.commands import plan
from pli_train.config import loading


def printed(*overrides):
    settings = loading.load("tiny-gpt2", overrides)
    return plan.lines(settings, plan.plan(settings))


def column(lines, title, following):
    """The words under a right-aligned title, whose neighbor to the right is `following`."""
    end = lines[4].index(title) + len(title)
    assert lines[4][end:].split()[0] == following
    return [line[:end].split()[-1] for line in lines[5:]]


def test_only_depth_varies_and_no_other_column_is_shown():
    assert printed()[4] == " from     step   parameters  FLOPs  event                             stack, bottom to top"


def test_what_grows_has_a_column_and_what_does_not_has_none():
    named = 'growth.schedule={name="compound", layers=2, units=512, context=128, heads=[4]}'
    lines = printed(named, "model.initial_heads=2", "model.config.n_inner=256")
    assert column(lines, "heads", "FFN")[:1] + column(lines, "heads", "FFN")[-1:] == ["2", "4"]
    assert column(lines, "FFN", "context")[:1] + column(lines, "FFN", "context")[-1:] == ["256", "512"]
    assert column(lines, "context", "FLOPs") == ["128", "64", "64", "64", "128", "128"]
    heads_only = printed('growth.schedule=[{operator="heads", at=0.5, to=4}]', "model.initial_heads=2")
    assert column(heads_only, "heads", "FLOPs") == ["2", "4"]
    assert "FFN" not in heads_only[4] and "context" not in heads_only[4]


def test_layers_that_differ_are_shown_as_a_range():
    some = 'growth.schedule=[{operator="heads", at=0.5, to=4, layers=["b"]}]'
    lines = printed(some, "model.initial_heads=2", "model.initial_layers=2")
    assert column(lines, "heads", "FLOPs") == ["2", "2–4"]


def test_a_run_from_no_layer_has_no_column_for_heads_that_never_change():
    lines = printed('growth.schedule={name="single-shot", layers=2}', "model.initial_layers=0")
    assert "heads" not in lines[4] and lines[5].endswith("total: 0")


@pytest.mark.parametrize(
    ("schedule", "paper"),
    [('{name="g-stack", at=0.2}', "[g-stack: Du et al. 2024, arXiv 2405.15319]"), ('"0.2@1"', "two cores")],
)
def test_a_named_schedule_names_its_paper(schedule, paper):
    assert printed(f"growth.schedule={schedule}")[0].endswith(paper)


def test_plateaus_have_no_step_and_leave_shares_open():
    lines = printed('growth.schedule={name="adaptive", layers=3}')
    assert [line.split()[:2] for line in lines[5:]] == [["0%", "0"], ["?", "plateau"], ["?", "plateau"]]
    assert [line.split()[3] for line in lines[5:]] == ["?"] * 3
    assert lines[1].endswith("unknown")


def test_columns_stay_in_line_however_long_an_event_is():
    named = 'growth.schedule={name="compound", layers=2, units=512, heads=[4]}'
    lines = printed(named, "model.initial_heads=2", "model.config.n_inner=256")
    at = lines[4].index("stack, bottom")
    assert {line[at - 2 : at] for line in lines[5:]} == {"  "} and {line[at] for line in lines[5:]} == {"a"}


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_the_speed_up_at_equal_steps_against_its_closed_form(share):
    width, vocabulary, context = 128, 2048, 128  # those of the preset
    layer, output = 6 * 12 * width**2 + 12 * width * context, 6 * vocabulary * width
    full, small = 12 * layer + output, layer + output
    first = printed(f'growth.schedule={{name="single-shot", layers=12, at={share}}}')[1]
    assert first.endswith(f"speed-up at equal steps: {full / (share * small + (1 - share) * full):.3g}")
    assert printed("growth.schedule=")[1].endswith("speed-up at equal steps: 1")

"""Named schedules against the papers' own definitions: sequences and moments are written out here, not asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pli_train.core.errors import BadInput
from pli_train.growth import schedule
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.operators.insert import Insert
from pli_train.growth.schedules import SCHEDULES, read
from pli_train.growth.schedules.g_stack import growth_tokens


def events_of(name, depth, *, total_steps=None, **fields):
    return read({"name": name, **fields}).events(depth, None, None, total_steps)


def stages(events, depth):
    """What the project's own rehearsal makes of the inserts: moment → the initial layer that each layer stems from."""
    inserts = [Insert(**event) for event in events if event["operator"] == "insert"]
    stems = {id: index for index, id in enumerate(InitialShape(depth).lineage().stack)}
    found = {}
    for planned in schedule.plan(inserts, InitialShape(depth), None):
        born = planned.lineage.events[-1].facts
        stems[born["layer"]] = stems[born["donor"]]
        found[planned.event.at] = [stems[id] for id in planned.stack]
    return found


def at_of(events, operator):
    return {event["at"]: event["to"] for event in events if event["operator"] == operator}


def mistakes(*args, **kwargs):
    with pytest.raises(BadInput) as caught:
        events_of(*args, **kwargs)
    assert all(line.startswith("growth.schedule: ") for line in caught.value.mistakes)
    return caught.value.mistakes


# --- sequences and moments ------------------------------------------------------------------------------------------


def test_the_nine_schedules_are_found_by_the_names_users_write_and_cite_their_paper():
    assert set(SCHEDULES) == {
        *("pli", "stackbert", "g-stack", "interleave", "midas", "copy-last", "single-shot", "compound", "adaptive")
    }
    assert all(kind.cites for kind in SCHEDULES.values())


def test_pli_gives_the_seeds_appendix():
    events = events_of("pli", 1, layers=10, position=[1, 1, 2, 2, 2, 3, 3, 3, 4], first=0.1, last=0.9)
    seed = schedule.parse_short("0.1@1 0.2@1 0.3@2 0.4@2 0.5@2 0.6@3 0.7@3 0.8@3 0.9@4")
    assert events == [{"operator": "insert", **event} for event in seed]
    planned = schedule.plan([Insert(**event) for event in events], InitialShape(1), None)
    assert " ".join(planned[-1].stack) == "a c f i j h g e d b"


@pytest.mark.parametrize(
    ("position", "expected"),
    [("start", [0, 0, 0, 0]), ("end", [1, 2, 3, 4]), ("middle", [1, 1, 2, 2])],
)
def test_pli_inserts_by_rule(position, expected):
    assert [event["index"] for event in events_of("pli", 1, layers=5, position=position)] == expected


def test_stackbert_doubles_at_the_papers_steps():
    """Gong et al. train BERT-base for 50, 70 and 280 thousand steps with 3, 6 and 12 layers."""
    found = stages(events_of("stackbert", 3, layers=12), 3)
    assert found == {
        50 / 400: [0, 1, 2, 0, 1, 2],
        (50 + 70) / 400: [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2],
    }


def test_stackbert_keeps_the_papers_share_of_full_depth_with_another_number_of_doublings():
    assert list(stages(events_of("stackbert", 1, layers=8), 1)) == [0.1, 0.2, 0.3]
    assert list(stages(events_of("stackbert", 2, layers=4), 2)) == [0.3]


def test_stackbert_copies_the_stack_as_it_stands_and_not_the_first_layers_again():
    second = [event for event in events_of("stackbert", 1, layers=4, at=[10, 20]) if event["at"] == 20]
    assert [event["donor"] for event in second] == ["a", "b"]


def test_g_stack_is_i_mod_l():
    """The released configuration of 6 to 24 layers lists 0 … 5 four times over."""
    found = stages(events_of("g-stack", 6, at=0.03), 6)
    assert found == {0.03: [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize(
    ("parameters", "tokens", "billions"),
    [(8e9, 15e12, 6.58), (7e9, 2e12, 11.11), (13e9, 2e12, 15.84), (70e9, 2e12, 42.48)],
)
def test_g_stack_grows_when_the_authors_table_says(parameters, tokens, billions):
    """N, D and d of the authors' table of Llama models; C is 6·N·D."""
    assert growth_tokens(parameters, 6 * parameters * tokens) / 1e9 == pytest.approx(billions, rel=1e-3)
    for event in events_of("g-stack", 2, parameters=parameters, tokens=tokens):
        assert event["at"] == pytest.approx(billions * 1e9 / tokens, rel=1e-3)


def test_g_stack_says_what_its_timing_lacks_or_that_the_run_is_too_small_for_the_fit():
    assert "parameters and tokens" in mistakes("g-stack", 2)[0]
    assert mistakes("g-stack", 2, parameters=1e9)[0].endswith("needs tokens")
    assert "set at" in mistakes("g-stack", 2, parameters=1e6, tokens=1e7)[0]


def test_interleave_is_i_div_g_with_each_newborn_right_above_its_donor():
    assert stages(events_of("interleave", 3, at=0.5), 3) == {0.5: [0, 0, 1, 1, 2, 2]}
    events = events_of("interleave", 2, growth_factor=3, at=0.5)
    assert stages(events, 2) == {0.5: [0, 0, 0, 1, 1, 1]}
    planned = schedule.plan([Insert(**event) for event in events], InitialShape(2), None)
    assert planned[-1].stack == ("a", "c", "d", "b", "e", "f")


def test_midas_copies_the_middle_block_in_place():
    """From blocks A B C D (two layers each): block ⌈4/2⌉ = B; then of A B B' C D block ⌈5/2⌉ = B'."""
    found = stages(events_of("midas", 8, layers=12, block=2), 8)
    assert list(found.values()) == [
        [0, 1, 2, 3, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3, 2, 3, 2, 3, 4, 5, 6, 7],
    ]


@pytest.mark.parametrize(
    ("alpha", "lengths"),
    [(0, [1 / 4, 1 / 4, 1 / 4, 1 / 4]), (1, [1 / 10, 2 / 10, 3 / 10, 4 / 10]), (2, [1 / 30, 4 / 30, 9 / 30, 16 / 30])],
)
def test_midas_stages_last_in_proportion_to_their_number_to_the_alpha(alpha, lengths):
    moments = list(stages(events_of("midas", 3, layers=12, alpha=alpha), 3))
    assert moments == pytest.approx([lengths[0], sum(lengths[:2]), sum(lengths[:3])])
    assert 1 - moments[-1] == pytest.approx(lengths[3])


def test_copy_last_clones_the_trained_top_layer_onto_the_top():
    events = events_of("copy-last", 3, layers=7, layers_per_moment=2, first=0.2, last=0.6)
    assert stages(events, 3) == {0.2: [0, 1, 2, 2, 2], 0.6: [0, 1, 2, 2, 2, 2, 2]}
    # Both of a moment copy the layer that has trained, not one the other.
    assert [event["donor"] for event in events] == ["c", "c", "e", "e"]
    assert [event["index"] for event in events] == [3, 4, 5, 6]


def test_single_shot_draws_all_layers_afresh_from_none_and_copies_the_one_there_is():
    from_none = events_of("single-shot", 0, layers=3)
    assert from_none == [{"operator": "insert", "at": 0.8, "index": i, "initializer": "random"} for i in range(3)]
    from_one = events_of("single-shot", 1, layers=4, at=70)
    assert stages(from_one, 1) == {70: [0, 0, 0, 0]}
    assert [event["index"] for event in from_one] == [1, 2, 3]
    assert not any("initializer" in event for event in from_one)


def test_compound_takes_lists_and_leaves_out_halves_the_model_begins_with():
    listed = {"name": "compound", "layers": 8, "at": [5, 9], "context": [16, 64], "units": [300]}
    events = read(listed).events(2, None, 64, 20)
    assert at_of(events, "context") == {5: 16, 9: 64}
    assert at_of(events, "ffn") == {9: 300}
    halved = read({"name": "compound", "layers": 8, "at": [5, 9], "units": 256}).events(2, None, 128, 20)
    assert at_of(halved, "ffn") == {9: 256}
    with pytest.raises(BadInput, match="above the 512"):
        read({"name": "compound", "layers": 8, "units": 256}).events(2, None, 512, None)


def test_compound_grows_depth_width_and_length_at_the_same_moments():
    table = {"name": "compound", "layers": 8, "at": [0.25, 0.5], "context": 128, "units": 256}
    events = read(table).events(2, None, 64, None)
    assert stages(events, 2) == {0.25: [0, 1, 0, 1], 0.5: [0, 1, 0, 1, 0, 1, 0, 1]}
    assert at_of(events, "ffn") == {0.25: 128, 0.5: 256}
    assert at_of(events, "context") == {0: 32, 0.25: 64, 0.5: 128}
    assert events[0]["operator"] == "context"


# --- heads ----------------------------------------------------------------------------------------------------------


def test_heads_grow_from_4_to_8_to_12_after_the_inserts_of_the_second_and_the_fourth_moment():
    events = read({"name": "pli", "layers": 5, "first": 0.2, "last": 0.8, "heads": [8, 12]}).events(1, 4, None, None)
    assert [(e["at"], e["operator"], e.get("to")) for e in events] == [
        (0.2, "insert", None),
        (0.4, "insert", None),
        (0.4, "heads", 8),
        (0.6, "insert", None),
        (0.8, "insert", None),
        (0.8, "heads", 12),
    ]


def test_fewer_heads_than_moments_are_spread_evenly_and_the_last_comes_last():
    table = {"name": "copy-last", "layers": 4, "first": 0.2, "last": 0.6, "heads": [8, 12]}
    assert at_of(read(table).events(1, 4, None, None), "heads") == {0.4: 8, 0.6: 12}


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_reported_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'g-stack'"):
        read({"name": "g_stack"})
    with pytest.raises(BadInput, match="name is missing"):
        read({"layers": 3})


@pytest.mark.parametrize(
    "table",
    [
        {"name": "pli", "layer": 3},
        {"name": "pli", "layers": 3, "first": 0.5, "last": 0.2},
        {"name": "pli", "layers": 3, "last": 1.0},
        {"name": "stackbert", "layers": 4, "at": [0.5, 0.2]},
        {"name": "stackbert", "layers": 4, "at": [0.5, 700]},
        {"name": "stackbert", "layers": 4, "at": [1.5]},
        {"name": "stackbert", "layers": 4, "at": [True]},
        {"name": "interleave"},
    ],
)
def test_field_mistakes_are_for_the_caller_to_word(table):
    with pytest.raises(ValidationError):
        read(table)


def test_all_mistakes_come_at_once():
    table = {"name": "pli", "layers": 6, "position": [1, 5, 9], "heads": [4, 12, 8]}
    with pytest.raises(BadInput) as caught:
        read(table).events(1, 4, None, None)
    lines = "\n".join(caught.value.mistakes)
    for part in ("index 5", "index 9", "needs 5", "must increase", "above the 4"):
        assert part in lines
    assert len(caught.value.mistakes) == 5


def test_more_head_stages_than_growth_moments_are_refused():
    with pytest.raises(BadInput, match="only 1 growth moments"):
        read({"name": "interleave", "at": 0.5, "heads": [8, 12]}).events(2, 4, None, None)


def test_a_step_after_the_end_is_refused_once_the_length_is_known():
    events_of("interleave", 2, at=500)
    events_of("interleave", 2, at=159, total_steps=160)
    for at in (160, 500):
        assert "160 steps" in mistakes("interleave", 2, at=at, total_steps=160)[0]


@pytest.mark.parametrize(
    ("name", "depth", "fields", "part"),
    [
        ("stackbert", 3, {"layers": 10}, "6 or 12"),
        ("stackbert", 3, {"layers": 12, "at": [0.5]}, "needs 2"),
        ("stackbert", 0, {"layers": 12}, "at least 1"),
        ("midas", 3, {"layers": 10, "block": 2}, "initial depth, 3"),
        ("copy-last", 3, {"layers": 6, "layers_per_moment": 2}, "layers_per_moment"),
        ("single-shot", 2, {"layers": 6}, "0 or 1 layers"),
        ("single-shot", 0, {"layers": 6, "initializer": "clone"}, "no donor"),
        ("compound", 2, {"layers": 8, "context": 30}, "halved 2 times"),
        ("compound", 2, {"layers": 8, "context": [8, 16, 32, 64]}, "2 growth moments"),
        ("pli", 4, {"layers": 4}, "4 already"),
        ("pli", 4, {}, "layers is missing"),
    ],
)
def test_what_cannot_be_done_from_this_beginning_is_said(name, depth, fields, part):
    assert part in "\n".join(mistakes(name, depth, **fields))


# --- whatever the numbers -------------------------------------------------------------------------------------------


def _pli(draw, depth):
    added = draw(st.integers(1, 9))
    return {"layers": depth + added, "position": draw(st.sampled_from(["start", "end", "middle"]))}, depth + added


def _doubling(draw, depth):
    layers = depth * 2 ** draw(st.integers(1, 3))
    return {"layers": layers}, layers


def _factor(draw, depth):
    factor = draw(st.integers(2, 5))
    return {"growth_factor": factor, "at": draw(st.sampled_from([0.0, 0.4, 7]))}, factor * depth


def _midas(draw, depth):
    layers = depth * draw(st.integers(2, 6))
    block = draw(st.sampled_from([b for b in range(1, depth + 1) if depth % b == 0]))
    return {"layers": layers, "block": block, "alpha": draw(st.floats(0, 5))}, layers


def _copy_last(draw, depth):
    per, moments = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    return {"layers": depth + per * moments, "layers_per_moment": per}, depth + per * moments


FIELDS = {
    "pli": _pli,
    "stackbert": _doubling,
    "compound": _doubling,
    "g-stack": _factor,
    "interleave": _factor,
    "midas": _midas,
    "copy-last": _copy_last,
}


@st.composite
def grown(draw):
    name = draw(st.sampled_from(list(FIELDS)))
    depth = draw(st.integers(1, 6))
    fields, final = FIELDS[name](draw, depth)
    return name, depth, fields, final


@given(grown())
def test_every_schedule_can_be_rehearsed_and_ends_at_its_depth(case):
    """The rehearsal refuses an index outside the stack, a donor that is not there, and events out of order."""
    name, depth, fields, final = case
    events = events_of(name, depth, **fields)
    inserts = [Insert(**event) for event in events if event["operator"] == "insert"]
    planned = schedule.plan(inserts, InitialShape(depth), None)
    assert len(planned[-1].stack) == final
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert read({"name": name, **fields}).events(depth, None, None, None) == events


@given(grown())
def test_copies_of_one_moment_stem_from_layers_that_were_there_before_it(case):
    name, depth, fields, _ = case
    if name == "pli":
        return
    inserts = [Insert(**event) for event in events_of(name, depth, **fields)]
    before, moment, latest = set(InitialShape(depth).lineage().stack), None, set(InitialShape(depth).lineage().stack)
    for planned in schedule.plan(inserts, InitialShape(depth), None):
        if planned.event.at != moment:
            before, moment = latest, planned.event.at
        assert planned.lineage.events[-1].facts["donor"] in before
        latest = set(planned.stack)

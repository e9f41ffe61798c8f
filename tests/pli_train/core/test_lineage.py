import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pli_train.core.errors import BadInput
from pli_train.core.lineage import BadLineage, Lineage, layer_id


@st.composite
def lineages(draw):
    """Any lineage that insertions can make."""
    lineage = Lineage.begin(draw(st.integers(1, 4)), heads=draw(st.integers(0, 3)))
    step = 0
    for _ in range(draw(st.integers(0, 40))):
        step += draw(st.integers(0, 5))
        donor = draw(st.none() | st.sampled_from(lineage.stack))
        index = draw(st.integers(0, len(lineage.stack)))
        lineage.insert(index, step, "clone" if donor else "random", donor)
    return lineage


def test_the_seeds_appendix_sequence():
    lineage = Lineage.begin(1, heads=1)
    for index in (1, 1, 2, 2, 2, 3, 3, 3, 4):
        lineage.insert(index, 0, "random")
    assert str(lineage) == "a c f i j h g e d b"


def test_ids_are_bijective_base_26():
    ids = [layer_id(n) for n in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids, key=lambda id: (len(id), id))
    assert ids[26 + 26**2] == "aaa"


@given(lineages(), st.data())
def test_an_insertion_moves_indices_and_no_identity(lineage, data):
    before, index = list(lineage.stack), data.draw(st.integers(0, len(lineage.stack)))
    births = dict(lineage.layers)
    newborn = lineage.insert(index, 10**6, "random")
    assert lineage.stack[index] == newborn
    assert [id for id in lineage.stack if id != newborn] == before
    assert {id: layer for id, layer in lineage.layers.items() if id != newborn} == births


@given(lineages())
def test_json_keeps_everything(lineage):
    text = lineage.to_json()
    assert Lineage.from_json(text) == lineage
    assert Lineage.from_json(text).to_json() == text


@given(lineages())
def test_history_can_be_wound_back(lineage):
    for number, event in enumerate(lineage.events):
        earlier = lineage.as_of(number)
        assert len(earlier.layers) == len(lineage.layers) - len(lineage.events) + number
        facts = event.facts
        assert earlier.insert(facts["index"], event.step, facts["initializer"], facts["donor"]) == facts["layer"]
        assert earlier == lineage.as_of(number + 1)


@given(lineages())
def test_stack_at_a_step_counts_the_events_of_that_step(lineage):
    for event in lineage.events:
        last = [other for other in lineage.events if other.step <= event.step][-1]
        assert tuple(lineage.stack_at(event.step)) == last.stack


def test_heads_of_a_clone_know_their_donors():
    lineage = Lineage.begin(1, heads=2)
    lineage.insert(1, 5, "clone", donor="a")
    assert {head: birth.donor for head, birth in lineage.layers["b"].heads.items()} == {"b.h0": "a.h0", "b.h1": "a.h1"}


def test_what_cannot_be_done_is_refused_and_changes_nothing():
    lineage = Lineage.begin(2, heads=1)
    before = lineage.to_json()
    for index, donor in ((3, None), (-1, None), (0, "z")):
        with pytest.raises(BadLineage):
            lineage.insert(index, 0, "clone", donor)
    assert lineage.to_json() == before


CONTRADICTIONS = {
    "a layer twice in the stack": lambda d: d["stack"].append("a"),
    "a stranger in the stack": lambda d: d["stack"].append("zz"),
    "the last event left another stack": lambda d: d["stack"].reverse(),
    "ids out of order": lambda d: d["layers"].update(q=d["layers"].pop("b")),
    "events numbered wrong": lambda d: d["events"][0].update(number=7),
    "no stack": lambda d: d.pop("stack"),
    "another format": lambda d: d.update(format="x"),
    "a newer version": lambda d: d.update(version=99),
    "a step that is no number": lambda d: d["events"][0].update(step="x"),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_contradiction_is_named(contradiction):
    lineage = Lineage.begin(1, heads=1)
    lineage.insert(1, 5, "random")
    document = json.loads(lineage.to_json())
    contradiction(document)
    with pytest.raises(BadLineage):
        Lineage.from_json(json.dumps(document))


def test_a_file_that_holds_none_is_bad_input_that_names_it(tmp_path):
    path = tmp_path / "lineage.json"
    for content in (None, "[]", "{"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(BadInput) as refused:
            Lineage.read(path)
        assert refused.value.exit_code == 2
        assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_anything_else_is_refused_by_name(text):
    with pytest.raises(BadLineage):
        Lineage.from_json(text)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    lineage = Lineage.begin(2, heads=2)
    (tmp_path / "lineage.json").write_bytes(b"\xef\xbb\xbf" + lineage.to_json().encode())
    assert Lineage.read(tmp_path / "lineage.json").to_json() == lineage.to_json()

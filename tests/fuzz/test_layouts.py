"""Models of random layouts: layers are found by their names, and all of their weights are measured."""

import json
import random

import numpy as np
from safetensors.numpy import save_file

from pli_analysis import api
from pli_analysis.runs.opening import open_run
from pli_train.core.anatomy.names import block_lists
from pli_train.core.errors import BadInput

WORDS = ["layers", "h", "blocks", "mixer", "attn", "mlp", "w", "norm", "experts", "0", "1", "12", "weight", "x_y", "é"]


def layout(chance):
    """Return (shapes, path of the stack, depth): blocks with a common norm and tensors by kind, and other tensors."""
    path = ".".join(chance.choice(WORDS[:4]) for _ in range(chance.randrange(1, 4)))
    depth, width = chance.randrange(2, 12), chance.randrange(1, 5)
    kinds = [
        {f"k{kind}.{chance.choice(WORDS)}.{n}": tuple(chance.randrange(1, 5) for _ in range(chance.randrange(1, 4)))
         for n in range(chance.randrange(1, 4))}
        for kind in range(chance.randrange(1, 4))
    ]  # fmt: skip
    shapes = {}
    for index in range(depth):
        inner = {"norm.weight": (width,), **chance.choice(kinds)}
        shapes |= {f"{path}.{index}.{name}": shape for name, shape in inner.items()}
    shapes |= {f"other.{n}.weight": (1,) for n in range(chance.randrange(3))} | {"embed.weight": (3, width)}
    order = list(shapes)
    chance.shuffle(order)
    return {name: shapes[name] for name in order}, path, depth


def test_the_stack_of_a_random_layout_is_found(fuzz_cases):
    chance = random.Random(0)
    for _ in range(max(500, fuzz_cases)):
        shapes, path, depth = layout(chance)
        first = block_lists(shapes)[0]
        assert (first.path, first.depth) == (path, depth)
        inside = [shape for name, shape in shapes.items() if name.startswith(f"{path}.")]
        assert first.numbers == sum(int(np.prod(shape)) for shape in inside)


def test_names_at_random_make_lists_or_none(fuzz_cases):
    """In every list blocks are numbered from 0 without gaps, and no list is inside a block of another."""
    chance = random.Random(1)
    found = 0
    for _ in range(max(2000, fuzz_cases)):
        names = {".".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 6))) for _ in range(40)}
        shapes = {name: (chance.randrange(1, 3), 2) for name in names}
        lists = block_lists(shapes)
        for one in lists:
            inside = [name.removeprefix(f"{one.path}.") for name in names if name.startswith(f"{one.path}.")]
            numbers = {name.split(".")[0] for name in inside if "." in name}
            assert {str(n) for n in range(one.depth)} <= numbers
            assert not any(other.path.startswith(f"{one.path}.0.") for other in lists)
        found += bool(lists)
    assert found


def test_a_random_layout_is_measured_or_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chance, drawn, measured = random.Random(2), np.random.default_rng(2), 0
    for case in range(12):
        shapes, path, depth = layout(chance)
        state = {name: drawn.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        moved = {name: (t + 0.01 * drawn.standard_normal(t.shape)).astype(np.float32) for name, t in state.items()}
        folder = tmp_path / str(case)
        for step, tensors in ((1, state), (2, moved)):
            checkpoint = folder / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
            save_file(tensors, checkpoint / "model.safetensors")
        run = open_run(folder)
        try:
            stack = run.lineage.stack
        except BadInput as error:
            assert "no weight matrix in common" in str(error), error  # only norms and vectors
            continue
        assert len(stack) == depth
        if stack != sorted(stack):
            continue  # layers of a few numbers are too similar
        found = api.drift(run).query("step == 2").set_index("part")["relative_l2"]
        for index, id in enumerate(stack):
            names = [name for name in shapes if name.startswith(f"{path}.{index}.")]
            by_hand = sum(float(((moved[n].astype(float) - state[n]) ** 2).sum()) for n in names)
            by_hand /= sum(float((state[n].astype(float) ** 2).sum()) for n in names)
            np.testing.assert_allclose(found[id], by_hand**0.5, rtol=1e-5)
        measured += 1
    assert measured > 3

"""Maps of runs: what their points are, and what is said of them."""

import csv

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist, squareform

from pli_analysis.figures import embed as figure
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.metrics.maps import vectors
from pli_analysis.metrics.maps.embedding import embed
from pli_analysis.metrics.maps.points import points_of
from pli_analysis.report import embed as message
from pli_analysis.report import projector
from pli_analysis.runs.opening import open_run
from pli_train.models import build
from pli_train.training import launch
from tests.commands import call, refused
from tests.conftest import MODELS, STEPS, UMAP

# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(config_of, tmp_path_factory):
    """A run whose layers differ in heads and FFN units, among each other and over time."""
    events = [
        {"at": 2, "index": 0},
        {"at": 3, "operator": "heads", "to": 4, "layers": ["a"]},
        {"at": 4, "operator": "ffn", "to": 160, "layers": ["b"]},
    ]
    folders = {}
    for family in ("bert", "gpt2", "llama"):
        more = {"model.initial_heads": 2, "growth.schedule": events, "train.steps": 6, "checkpoint.every": 2}
        # Heads have room beyond what the run begins with.
        more["model.config"] = MODELS[family] | {"bert": {"num_attention_heads": 4}, "gpt2": {"n_head": 4}}.get(
            family, {}
        )
        config = config_of(family, more)
        folders[family] = tmp_path_factory.mktemp("uneven") / family
        launch.begin(config, folders[family]).run()
    return folders


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "some.py"
    path.write_text("def one(a, b):\n    return a + b  # and so on\n" * 60)
    return path


def whole(values):
    return np.vstack([np.concatenate([segment.ravel() for segment in row]) for row in values])


def streamed(points, size, monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", size)
    return np.hstack(list(vectors.Weights(points).blocks()))


def test_layers_read_in_columns_are_the_layers(runs, family, monkeypatch):
    run = open_run(runs[family])
    points = points_of(run)
    expected = whole([[array for _, array in sorted(point.checkpoint.layer(point.layer))] for point in points])
    for size in (1, 5000, 2**26):
        found = streamed(points, size, monkeypatch)
        assert found.shape[1] == vectors.Weights(points).width
        assert squareform(pdist(found)) == pytest.approx(squareform(pdist(expected)), rel=1e-9, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("of", ["layers", "heads", "ffn"])
def test_parts_of_grown_layers_are_as_long_as_their_own_weights(kind, of, uneven, monkeypatch):
    """Slim models hold what is alive and nothing else: the norms of parts there are those of the padded vectors."""
    points = points_of(open_run(uneven[kind]), of)
    found = streamed(points, 3000, monkeypatch)
    for point, row in zip(points, found, strict=True):
        built, anatomy = build.load_checkpoint(point.checkpoint.path)
        build.shrink(built, anatomy, point.checkpoint.lineage.shapes())
        layer = build.stack_of(built, anatomy)[point.checkpoint.lineage.index(point.layer)]
        sizes = anatomy.sizes(built.config)
        heads = point.checkpoint.lineage.shape(point.layer)[0]
        sizes |= {"head": heads, "group": heads // sizes["member"]}
        wanted = {"layers": None, "heads": f"h{point.head}", "ffn": "ffn"}[of]
        segments = [
            segment.detach().double().numpy().ravel()
            for name, tensor in layer.named_parameters()
            for part, segment in anatomy.split(name, tensor, sizes)
            if wanted in (None, part)
        ]
        assert np.linalg.norm(row) == pytest.approx(np.linalg.norm(np.concatenate(segments)), rel=1e-6)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_growth_within_a_layer_moves_only_what_it_adds(kind, uneven):
    """Right before and right after FFNs got units, that layer differs by the new units alone, wherever they are."""
    run = open_run(uneven[kind])
    before, after = (
        next(c for c in run.checkpoints if str(c.name) == name) for name in ("checkpoint-4-before", "checkpoint-4")
    )
    points = {c: next(p for p in points_of(_only(run, c)) if p.layer == "b") for c in (before, after)}
    found = np.hstack(list(vectors.Weights(list(points.values())).blocks()))
    changed = found[0] != found[1]
    assert changed.any()
    assert not found[0][changed].any()


class _only:  # noqa: N801
    """A run of one checkpoint."""

    def __init__(self, run, checkpoint):
        self.path, self.checkpoints, self.states = run.path, [checkpoint], {checkpoint.step: checkpoint}


def test_the_map_has_every_part_with_its_birth_and_donor(runs, family):
    run = open_run(runs[family])
    table = embed(run).table
    assert set(table["walk"]) == {"run", "random"}
    mine = table[table["walk"] == "run"]
    births = mine[mine["is_birth"]].set_index("part")
    assert births["step"].to_dict() == {"a": 0, "b": 3, "c": 6, "d": 6, "e": 9}
    for id, layer in run.lineage.layers.items():
        message = births.loc[id, "donor"]
        assert (None if pd.isna(message) else message) == layer.birth.donor
    assert not mine["checkpoint"].str.endswith("-before").any()
    last = mine[mine["step"] == STEPS]
    assert dict(zip(last["part"], last["index"], strict=True)) == {id: n for n, id in enumerate(run.lineage.stack)}


def test_pca_of_the_map_equals_a_slow_one(runs, family):
    from sklearn.decomposition import PCA

    run = open_run(runs[family])
    found = embed(run)
    rows = whole(
        [
            [array.astype(np.float64) for _, array in sorted(point.checkpoint.layer(point.layer))]
            for point in points_of(run)
        ]
    )
    reference = PCA(2).fit_transform(rows)
    mine = found.table[found.table["walk"] == "run"][["x", "y"]].to_numpy()
    assert np.abs(mine) == pytest.approx(np.abs(reference), rel=1e-6, abs=1e-9)


def test_updates_are_differences_of_consecutive_checkpoints(runs, family):
    run = open_run(runs[family])
    points = points_of(run)
    rows = whole([[a.astype(np.float64) for _, a in sorted(p.checkpoint.layer(p.layer))] for p in points])
    moved = [n for n, point in enumerate(points) if not point.first]
    deltas = rows[moved] - rows[[points[n].source for n in moved]]
    found = embed(run, space="updates")
    assert len(found.table) == len(moved)
    components = found.components.values
    inner = deltas - deltas.mean(axis=0)
    assert components @ components.T == pytest.approx(inner @ inner.T, abs=1e-9)


def test_since_birth_puts_every_birth_in_one_place(runs, family):
    mine = embed(open_run(runs[family]), since_birth=True).table.query("walk == 'run' and is_birth")
    assert np.ptp(mine[["x", "y"]].to_numpy(), axis=0) == pytest.approx([0, 0], abs=1e-9)


def test_travel_is_distance_over_that_of_a_walk_of_the_same_steps(runs, family):
    run = open_run(runs[family])
    rows = list({c.step: c for c in run.checkpoints}.values())
    path = whole([[array.astype(np.float64) for _, array in sorted(c.layer("a"))] for c in rows])
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    expected = np.linalg.norm(path[-1] - path[0]) / np.sqrt(np.square(steps).sum())
    assert embed(run).travel["a"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_outputs_are_what_the_model_hands_on(kind, uneven, text):
    """Hidden states as transformers itself gives them; the FFN's and the heads' shares add up to the residual's."""
    import torch

    run = open_run(uneven[kind])
    last = run.checkpoints[-1]
    tokens, _ = eval_tokens.batch_of(run, text, 4)
    kept = eval_tokens.spread(tokens, 20)
    assert kept.sum() == 20 and (kept == kept[0]).all()
    built = checkpoint_model.model_of(last)
    with torch.no_grad():
        hidden = built(input_ids=tokens, output_hidden_states=True).hidden_states[1:]
    layers = checkpoint_model.outputs_of(last, "layers", tokens, kept)
    final = len(layers) - 1
    for position, (mine, theirs) in enumerate(zip(layers, hidden, strict=True)):
        if position < final or kind == "bert":  # in GPT-2 and Llama the last hidden state is after the last norm
            assert mine == pytest.approx(theirs[kept].numpy(), abs=1e-5)
    if kind == "bert":
        return
    heads, ffn = (checkpoint_model.outputs_of(last, of, tokens, kept) for of in ("heads", "ffn"))
    stack = built.get_submodule({"gpt2": "transformer.h", "llama": "model.layers"}[kind])
    name = {"gpt2": "attn.c_proj", "llama": "self_attn.o_proj"}[kind]
    below = layers[0]
    with torch.no_grad():
        attention = stack[1].get_submodule(name)(torch.from_numpy(heads[1].reshape(len(below), -1))).numpy()
    assert below + attention + ffn[1] == pytest.approx(layers[1], abs=1e-4)


@pytest.mark.parametrize("of", ["layers", "heads", "ffn"])
def test_maps_of_what_parts_do(of, uneven, text):
    run = open_run(uneven["llama"])
    found = embed(run, of=of, space="function", text=text)
    assert np.isfinite(found.table[["x", "y"]].to_numpy()).all()
    assert len(found.table) == 2 * len(points_of(run, of))


@pytest.mark.parametrize("method", ["pca", "tsne", UMAP])
@pytest.mark.parametrize("of", ["layers", "heads", "ffn"])
def test_the_figure_has_a_path_for_each_part_and_a_line_for_each_donor(method, of, runs):
    found = embed(open_run(runs["gpt2"]), method, of)
    drawn = figure.figure(found.table, found.methods)
    parts = found.table["part"].nunique()
    assert len(drawn.data) == 2 * (parts + 1)
    assert sum(trace.name == "cloned from" for trace in drawn.data) == 2
    donors = found.table.query("walk == 'run' and is_birth")["donor"].notna().sum()
    assert len(drawn.data[0].x) == 3 * donors


def test_further_methods_draw_the_same_distances(runs, family):
    run = open_run(runs[family])
    both, alone, pca = embed(run, further=["tsne"]), embed(run, "tsne"), embed(run)
    assert both.methods == ("pca", "tsne")
    assert list(both.table.columns) == [*pca.table.columns, "x_tsne", "y_tsne"]
    assert both.table[pca.table.columns].equals(pca.table)
    assert both.table["x_tsne"].equals(alone.table["x"]) and both.table["y_tsne"].equals(alone.table["y"])
    assert both.trust == {**pca.trust, **alone.trust}


def test_a_name_stands_where_its_path_is_not():
    locations = {(1, 0): "middle right", (1, 1): "top right", (0, 1): "top center", (-1, 0): "middle left"}
    for (x, y), position in {
        **locations,
        (0, -1): "bottom center",
        (-1, -1): "bottom left",
        (0, 0): "middle right",
    }.items():
        assert figure.outwards([0, x], [0, y]) == position


def test_the_figure_has_a_view_for_each_method(runs, family):
    found = embed(open_run(runs[family]), further=["tsne"])
    drawn = figure.figure(found.table, found.methods, {"run": (0.5, 0.25), "random": (0.4, 0.2)})
    views = drawn.layout.meta["views"]
    assert [view["name"] for view in views.values()] == ["PCA", "t-SNE"]
    assert views["pca"]["layout"]["yaxis2"]["title"]["text"] == "PC2, 20% of the variance"
    assert views["tsne"]["layout"]["xaxis"]["title"]["text"] == "t-SNE 1"
    paths = [trace for trace in drawn.data if trace.name == "c"]
    for trace, walk in zip(paths, ("run", "random"), strict=True):
        rows = found.table[(found.table["walk"] == walk) & (found.table["part"] == "c")]
        for method, (x, y) in {"pca": ("x", "y"), "tsne": ("x_tsne", "y_tsne")}.items():
            assert trace.meta["views"][method]["x"] == pytest.approx(rows[x].tolist(), rel=1e-6)
            assert trace.meta["views"][method]["y"] == pytest.approx(rows[y].tolist(), rel=1e-6)
    lines = drawn.data[0].meta["views"]["tsne"]["x"]
    clones = found.table.query("walk == 'run' and is_birth and donor.notna()")
    assert lines[1::3] == pytest.approx(clones["x_tsne"].tolist(), rel=1e-6)


def test_the_section_says_what_the_numbers_say(runs, family):
    run = open_run(runs[family])
    found, caption = embed(run), message.paths(run).figures[0].caption
    most = max(found.travel, key=found.travel.get)
    assert caption.startswith(f"{most} moved {found.travel[most]:.2f} times as far from its birth as a random walk")
    assert f"explains {found.components.shares[:2].sum():.0%} of the variance" in caption


def section(run, **asked):
    """What the section says, and which methods it draws."""
    found = message.paths(open_run(run), **asked)
    return found.words[1:], list(found.figures[0].captions)


def test_the_report_draws_what_is_quick_and_says_what_it_leaves_out(runs, monkeypatch):
    run = runs["gpt2"]
    slow = ["Not drawn because it is slow: UMAP. To draw it: pli-analyze report RUN --html --maps tsne,umap"]
    assert section(run) == (slow, ["pca", "tsne"])
    assert section(run, maps=()) == ([], ["pca"])
    assert section(run, maps=["tsne"]) == ([], ["pca", "tsne"])
    monkeypatch.setattr(message, "MOST_POINTS", 9)
    assert section(run) == ([slow[0].replace("UMAP", "t-SNE, UMAP")], ["pca"])


def test_each_method_has_a_caption_with_its_own_trustworthiness(runs, family):
    run = open_run(runs[family])
    drawn = message.paths(run).figures[0]
    assert drawn.caption == drawn.captions["pca"]
    for method, caption in drawn.captions.items():
        trust, neighbors = embed(run, method).trust[method]
        assert f"Trustworthiness is {trust:.2f} for {neighbors} neighbors." in caption
        assert ("of the variance" in caption) == (method == "pca")
        assert ("t-SNE preserves neighborhoods" in caption) == (method == "tsne")


def test_a_run_with_too_few_points_has_a_line_and_no_map(small_run):
    section = message.paths(open_run(small_run))
    assert section.words == ["A map needs 5 points, a layer at a checkpoint each; this run has 3."]
    assert section.figures == []


def test_the_projector_folder_is_what_tensorboard_reads(runs, tmp_path):
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    found = embed(open_run(runs["gpt2"]))
    projector.write(tmp_path / "proj", found)
    config = text_format.Parse((tmp_path / "proj/projector_config.pbtxt").read_text(), ProjectorConfig())
    mine = found.table[found.table["walk"] == "run"]
    for one, values in zip(config.embeddings, (found.components.values, mine[["x", "y"]].to_numpy()), strict=True):
        rows = [line.split("\t") for line in (tmp_path / "proj" / one.tensor_path).read_text().splitlines()]
        assert np.array_equal(np.array(rows, float), values)
        with (tmp_path / "proj" / one.metadata_path).open() as file:
            assert [row["part"] for row in csv.DictReader(file, delimiter="\t")] == mine["part"].tolist()


def test_the_command_prints_and_writes(runs, tmp_path):
    done = call(
        "pli-analyze",
        "embed",
        runs["gpt2"],
        "--html",
        tmp_path / "map.html",
        "--projector",
        tmp_path / "p",
        "-f",
        "csv",
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert {row["walk"] for row in rows} == {"run", "random"}
    assert "times as far from its birth as a random walk" in done.stderr
    assert "Map of the layers" in (tmp_path / "map.html").read_text()


def test_bad_input_gets_one_line(runs, small_run, text, tmp_path):
    run = runs["gpt2"]
    refused(
        call("pli-analyze", "embed", run, "--method", "tnse"), "not one of 'pca', 'tsne', 'umap'; did you mean 'tsne'?"
    )
    refused(call("pli-analyze", "embed", run, "--of", "toes"), "is not one of 'layer', 'head', 'ffn'")
    refused(call("pli-analyze", "embed", run, "--space", "outer"), "is not one of 'weights', 'updates', 'function'")
    refused(call("pli-analyze", "embed", run, "--text", text), "use it with --space function")
    refused(call("pli-analyze", "embed", small_run, "--space", "updates"), "a map needs at least two points")
    refused(call("pli-analyze", "embed", tmp_path), "not a run")


def test_few_points_are_mapped_by_pca_with_a_line(small_run):
    done = call("pli-analyze", "embed", small_run, "--method", "tsne", "-f", "csv")
    assert done.returncode == 0
    assert "tsne needs more points: this is PCA" in done.stderr
    assert embed(open_run(small_run), further=["tsne", "umap"]).methods == ("pca",)

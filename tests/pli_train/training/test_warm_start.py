"""Growth that starts from a run: its weights, its tokenizer, its live heads, and old layers that stay as they were."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pli_train.commands import plan
from pli_train.config import loading as configs
from pli_train.config import schema
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.training import launch, warm_start
from tests.conftest import STEPS

FROM_A_RUN = {"model.family": None, "model.config": {}, "model.initial_layers": None, "model.weights": "pretrained"}
NO_GROWTH = {"growth.schedule": "", "train.steps": 1}
HEADS = [{"operator": "heads", "at": 1, "to": 2}]


def weights(checkpoint):
    return load_file(checkpoint / run_folder.WEIGHTS)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def from_run(config_of):
    """Make the config of a run that begins with another's weights."""
    return lambda family, path, more=None: config_of(
        family, {**FROM_A_RUN, "model.name_or_path": str(path), **(more or {})}
    )


def test_a_run_begins_with_its_parents_weights_and_tokenizer(runs, family, from_run, tmp_path):
    child = tmp_path / "child"
    launch.begin(from_run(family, runs[family], NO_GROWTH), child).run()
    assert same(weights(child / "checkpoint-0"), weights(runs[family] / f"checkpoint-{STEPS}"))
    record = run_folder.read_json(child / run_folder.RUN)
    assert record["parent"] == {"path": str(runs[family]), "checkpoint": f"checkpoint-{STEPS}", "name": family}
    tokenizers = [run / run_folder.TOKENIZER / "tokenizer.json" for run in (child, runs[family])]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
    lineage = Lineage.read(child / run_folder.LINEAGE)
    assert len(lineage.stack) == 5 and {layer.birth.initializer for layer in lineage.layers.values()} == {"pretrained"}


def test_a_checkpoint_can_be_named_and_cut_and_grown(runs, from_run, tmp_path):
    named = runs["gpt2"] / "checkpoint-6-before"
    settings = from_run("gpt2", named, {"model.initial_layers": 1, "growth.schedule": "1@1", "train.steps": 2})
    launch.begin(settings, tmp_path / "child").run()
    old, new = weights(named), weights(tmp_path / "child" / "checkpoint-0")
    assert all(torch.equal(tensor, old[name]) for name, tensor in new.items())
    assert Lineage.read(tmp_path / "child" / run_folder.LINEAGE).stack == ["a", "b"]
    record = run_folder.read_json(tmp_path / "child" / run_folder.RUN)
    assert record["parent"]["checkpoint"] == "checkpoint-6-before"


def test_a_resumed_child_does_not_take_up_what_its_parent_did_since(runs, from_run, tmp_path, monkeypatch):
    mother = shutil.copytree(runs["gpt2"], tmp_path / "mother")
    shutil.rmtree(mother / f"checkpoint-{STEPS}")
    settings = from_run("gpt2", mother, {"growth.schedule": "", "train.steps": 4})
    launch.begin(settings, tmp_path / "unbroken").run()
    launch.begin(settings, tmp_path / "broken").run()
    for name in ("checkpoint-4", "checkpoint-2"):
        shutil.rmtree(tmp_path / "broken" / name)
    shutil.copytree(runs["gpt2"] / f"checkpoint-{STEPS}", mother / f"checkpoint-{STEPS}")
    monkeypatch.chdir(tmp_path / "broken")
    kept = configs.check(run_folder.read_json(tmp_path / "broken" / run_folder.RUN)["config"], "run.json")
    launch.resume(kept, tmp_path / "broken").run()
    assert same(weights(tmp_path / "broken" / "checkpoint-4"), weights(tmp_path / "unbroken" / "checkpoint-4"))


def test_padded_heads_stay_padding(config_of, from_run, family, tmp_path):
    """A run that never reached all the heads its config has: the child begins with those that live, and adds more."""
    mother = config_of(family, {"model.initial_heads": 1, "growth.schedule": "1@0", "train.steps": 2})
    last = launch.begin(mother, tmp_path / "mother").run()
    settings = from_run(family, tmp_path / "mother", {"growth.schedule": HEADS, "train.steps": 2})
    child = launch.begin(settings, tmp_path / "child")
    assert child.state.lineage.shapes() == [(1, 64 if family == "bert" else 128)] * 2
    child.run()
    assert same(weights(tmp_path / "child" / "checkpoint-0"), weights(last))
    assert child.state.lineage.shapes()[0][0] == 2
    shapes = [stage.lineage.shapes()[0][0] for stage in plan.plan(settings).stages]
    assert shapes == [1, 2]


def test_layers_that_differ_are_refused_in_one_line(config_of, from_run, tmp_path):
    uneven = [{"operator": "heads", "at": 1, "to": 2, "layers": ["b"]}]
    more = {"model.initial_heads": 1, "model.initial_layers": 2, "growth.schedule": uneven, "train.steps": 2}
    launch.begin(config_of("gpt2", more), tmp_path / "mother").run()
    with pytest.raises(BadInput, match=r"these differ: a 1 heads and 128 FFN units, b 2 heads") as message:
        launch.begin(from_run("gpt2", tmp_path / "mother", NO_GROWTH), tmp_path / "child")
    assert len(message.value.mistakes) == 1 and not (tmp_path / "child").exists()
    lower = from_run("gpt2", tmp_path / "mother", {**NO_GROWTH, "model.initial_layers": 1})
    assert warm_start.resolve_parent(lower)[0].model.initial_heads == 1
    with pytest.raises(BadInput, match=r"model.initial_heads: 2 is more than the 1 of"):
        warm_start.resolve_parent(
            from_run("gpt2", tmp_path / "mother", {"model.initial_layers": 1, "model.initial_heads": 2})
        )


def test_naming_a_run_replaces_a_presets_model_and_its_depth(runs, tmp_path):
    """`tiny-gpt2` says family, config and one layer at step 0: none of it is said of the run."""
    own = tmp_path / "mine.toml"
    own.write_text(f'extends = "tiny-gpt2"\n[model]\nname_or_path = "{runs["gpt2"]}"\nweights = "pretrained"\n')
    sets = [f"model.name_or_path={runs['gpt2']}", "model.weights=pretrained"]
    for settings in (configs.load("tiny-gpt2", sets), configs.load(str(own))):
        assert (settings.model.family, settings.model.config, settings.model.initial_layers) == (None, {}, None)
    assert configs.load("tiny-gpt2", [*sets, "model.initial_layers=2"]).model.initial_layers == 2
    stages = plan.plan(configs.load("tiny-gpt2", [*sets, "train.block_size=32", "growth.schedule=0.5@5"])).stages
    assert [len(stage.lineage.stack) for stage in stages] == [5, 6]


def test_configuring_twice_is_configuring_once(runs, from_run, config_of):
    once, message = warm_start.resolve_parent(from_run("gpt2", runs["gpt2"]))
    assert warm_start.resolve_parent(once) == (once, message)
    plain = config_of("gpt2")
    assert warm_start.resolve_parent(plain) == (plain, None)


def test_the_users_own_tokenizer_stays_and_must_fit(runs, from_run, tmp_path):
    own = shutil.copytree(runs["bert"] / run_folder.TOKENIZER, tmp_path / "own")
    settings = from_run("gpt2", runs["gpt2"], {"tokenizer.name_or_path": str(own)})
    assert warm_start.resolve_parent(settings)[0].tokenizer.name_or_path == str(own)
    document = json.loads((own / "tokenizer.json").read_text())
    document["added_tokens"].append(document["added_tokens"][0] | {"id": 300, "content": "<|more|>"})
    (own / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(BadInput, match=r"tokenizer: it has 301 tokens, but the weights of '.*' have 300"):
        launch.begin(settings, tmp_path / "child")


def test_another_tokenizer_under_the_same_name_is_not_taken_from_the_cache(runs, from_run, tmp_path):
    """Runs are deleted and made anew under their old names; token ids of the old one would train nonsense."""
    from pli_train.data import corpus

    own = shutil.copytree(runs["gpt2"] / run_folder.TOKENIZER, tmp_path / "own")
    settings = from_run("gpt2", runs["gpt2"], {"tokenizer.name_or_path": str(own)})
    first = corpus.load(settings.data, settings.tokenizer)
    small = corpus.load(settings.data, schema.TokenizerConfig(vocab_size=270))
    small.tokenizer.save_pretrained(own)
    assert len(corpus.load(settings.data, settings.tokenizer).tokenizer) == 270 != len(first.tokenizer)


@pytest.mark.parametrize("damage", ["no checkpoint", "a damaged one"])
def test_a_run_without_a_whole_checkpoint_is_refused(runs, from_run, tmp_path, damage):
    mother = shutil.copytree(runs["gpt2"], tmp_path / "mother")
    named = mother / "checkpoint-2"
    (named / run_folder.WEIGHTS).unlink()
    if damage == "no checkpoint":
        for _, folder in run_folder.checkpoints(mother):
            shutil.rmtree(folder)
        named = mother
    with pytest.raises(BadInput, match=r"model.name_or_path: .*(whole checkpoint|lacks model.safetensors)"):
        warm_start.resolve_parent(from_run("gpt2", named))


LLAMA = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_block_expansion_trains_new_layers_and_leaves_every_old_weight_alone(config_of, from_run, model_type, tmp_path):
    """LLaMA Pro (Wu et al. 2024, arXiv:2401.02415): identity blocks between frozen ones, trained on alone."""
    mother = {"model.family": model_type, "growth.schedule": "", "train.steps": 2, "model.initial_layers": 2}
    if model_type == "llama":
        mother["model.config"] = LLAMA
    last = launch.begin(config_of("gpt2", mother), tmp_path / "mother").run()
    settings = from_run(
        "gpt2",
        tmp_path / "mother",
        {"growth.schedule": "0@1 0@3", "growth.initializer": "identity", "growth.noise": 0.0}
        | {"growth.freeze_steps": 4, "train.steps": 4},
    )
    trained = launch.begin(settings, tmp_path / "child")
    grown = trained.run()
    before, born, after = weights(last), weights(tmp_path / "child" / "checkpoint-0"), weights(grown)
    assert trained.state.lineage.stack == ["a", "c", "b", "d"]
    moved = {"0": "0", "1": "2"}  # where the old layers sit now
    for name, tensor in before.items():
        position = trained.state.anatomy.locate(name)
        now = name if position is None else f"{position[0]}.{moved[str(position[1])]}.{position[2]}"
        assert torch.equal(after[now], tensor), now
    for name in born:
        position = trained.state.anatomy.locate(name)
        if position is not None and position[1] in (1, 3) and "proj.weight" in name and after[name].dim() == 2:
            assert not torch.equal(after[name], born[name]), name

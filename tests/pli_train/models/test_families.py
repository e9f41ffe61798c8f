"""Every text family trains, grows, and reloads in plain transformers; what is peculiar to one is told plainly."""

import copy

import pytest
import torch
import transformers

from pli_train.checkpointing import checkpoint
from pli_train.commands import plan
from pli_train.config import loading, schema
from pli_train.core import anatomy
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.growth.initializers import INITIALIZERS
from pli_train.growth.operators.insert import Insert
from pli_train.models import build, flops
from pli_train.models.build import AUTO_CLASS, stack_of
from pli_train.optim import optimizer
from pli_train.training import launch
from tests.families import POSITIONS, TINY, VOCABULARY, logits, tiny

TEXT = [family for family in TINY if anatomy.family(family).task != "image-classification"]
BLOCK, STEPS = 16, 3


@pytest.fixture(scope="session")
def table_of(corpus):
    """The table of a short run that grows from 2 to 3 layers: `table_of("bert")`."""

    def make(family, **more):
        table = {
            "name": family,
            "model": {"family": family, "config": TINY[family], "initial_layers": 2},
            "tokenizer": {"vocab_size": 300},
            "data": {"source": str(corpus), "test_share": 0.2},
            "train": {"steps": STEPS, "block_size": BLOCK, "batch_size": 4, "eval_blocks": 4},
            "growth": {"schedule": "2@1"},
        }
        for section, fields in more.items():
            table[section] = table[section] | fields
        return table

    return make


@pytest.mark.parametrize("family", TEXT)
def test_a_family_trains_grows_and_reloads(family, table_of, tmp_path):
    run, wanted = tmp_path / "run", loading.check(table_of(family), "test")
    made = launch.begin(wanted, run)
    before = {name: parameter.detach().clone() for name, parameter in made.state.model.bare.named_parameters()}
    last = made.run()
    parts = anatomy.family(family)
    assert len(made.state.model.layers) == getattr(made.state.model.bare.config, parts.config["depth"]) == 3
    assert not torch.equal(before[next(iter(before))], made.state.model.bare.state_dict()[next(iter(before))])

    auto = getattr(transformers, AUTO_CLASS[parts.task])
    loaded, message = auto.from_pretrained(last, output_loading_info=True)
    assert not message["missing_keys"] and not message["unexpected_keys"] and not message["mismatched_keys"]
    made.state.model.bare.eval()
    assert torch.allclose(logits(loaded.eval()), logits(made.state.model.bare), atol=1e-6)
    assert checkpoint.read(last).lineage.stack == ["a", "c", "b"]

    size = flops.measure(made.state.model.bare, parts)
    assert size.parameters(made.state.lineage.shapes()) == sum(parameter.numel() for parameter in loaded.parameters())
    assert size == made.plan.size, "counted at two layers and at three"


@pytest.mark.parametrize("family", TEXT)
def test_a_plan_on_paper_counts_what_a_built_model_has(family, table_of):
    """On paper, without a tokenizer: the same parameters as the model that is then built."""
    from pli_train.data.tokenization import train_bpe

    wanted = loading.check(table_of(family), "test")
    message = plan.plan(wanted)
    tokenizer = train_bpe(["some words"] * 3, 300)
    vocabulary = len(tokenizer)
    made, parts = build.build(wanted.model, tokenizer, BLOCK, seed=0)
    assert made.config.vocab_size == vocabulary
    depth, skeleton, _ = build.skeleton(wanted.model, vocabulary, BLOCK)
    assert depth == 2 and flops.measure(skeleton, parts) == flops.measure(made, parts)
    assert [len(stage.lineage.stack) for stage in message.stages] == [2, 3]


@pytest.mark.parametrize("family", TEXT)
def test_blocks_as_long_as_the_positions_and_no_longer(family, table_of):
    """RoBERTa loses the positions up to its padding token's id; what fits trains, what does not is said at once."""
    lost = 1 if family in ("roberta", "xlm-roberta", "camembert") else 0
    wanted = loading.check(table_of(family), "test").model
    with pytest.raises(BadInput, match=f"{POSITIONS - lost + 1} tokens exceed"):
        build.model_config(wanted, VOCABULARY, POSITIONS - lost + 1)
    fits = build.model_config(wanted, VOCABULARY, POSITIONS - lost)
    made = getattr(transformers, build.AUTO_CLASS[anatomy.family(family).task]).from_config(fits).eval()
    assert logits(made, count=1, length=POSITIONS - lost).shape[1] == POSITIONS - lost


def grow(made, **event):
    parts = anatomy.family(made.config.model_type)
    lineage = Lineage.begin(len(stack_of(made, parts)), heads=4)
    Insert(at=0, **event).grow(made, parts, lineage, seed=1)
    return stack_of(made, parts)


TYPED = [family for family in TEXT if anatomy.family(family).layer_type]
SLIDING = {"layer_types": ["full_attention", "sliding_attention"]}
SLIDING_OF = {name: SLIDING | {"use_sliding_window": True, "sliding_window": 4} for name in ("qwen2", "qwen3")}


@pytest.mark.parametrize("family", TYPED)
@pytest.mark.parametrize(
    ("donor", "types"),
    [("below", "full full sliding"), ("above", "full sliding sliding")],
)
def test_a_newborn_has_its_donors_type(family, donor, types, tmp_path):
    made = tiny(family, **SLIDING_OF.get(family, SLIDING))
    grow(made, index=1, donor=donor)
    assert made.config.layer_types == [f"{name}_attention" for name in types.split()]
    made.save_pretrained(tmp_path)
    loaded = type(made).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), logits(made))


def test_a_type_that_is_not_carried_along_would_show():
    """The negative control of the test above: the window matters on its inputs."""
    made = tiny("qwen2", **SLIDING_OF["qwen2"])
    expected = logits(made)
    made.config.layer_types = ["full_attention", "full_attention"]
    assert not torch.allclose(logits(made), expected)


@pytest.mark.parametrize("family", TYPED)
def test_types_follow_the_depth_of_a_config(family):
    """Asked for other than its own depth, a config has as many types as layers, in the family's own pattern."""
    deep = build.model_config(
        schema.ModelConfig(family=family, config=TINY[family], initial_layers=5), VOCABULARY, BLOCK
    )
    padded_form = transformers.AutoConfig.for_model(family, **TINY[family] | {"num_hidden_layers": 5})
    assert deep.layer_types == padded_form.layer_types and len(deep.layer_types) == 5
    own = TINY[family] | SLIDING_OF.get(family, SLIDING)
    shallow = build.model_config(schema.ModelConfig(family=family, config=own, initial_layers=1), VOCABULARY, BLOCK)
    assert shallow.layer_types == ["full_attention"]


class TestTheBottomOfModernBert:
    """Its layer 0 has no norm before its attention."""

    @pytest.mark.parametrize("initializer", INITIALIZERS)
    def test_what_is_made_after_it_further_up_gets_a_fresh_norm(self, initializer, tmp_path):
        made = tiny("modernbert", norm_bias=True)
        donor = copy.deepcopy(made.model.layers[0].state_dict())
        newborn = grow(made, index=1, initializer=initializer)[1]
        state = newborn.state_dict()
        assert torch.equal(state.pop("attn_norm.weight"), torch.ones(32))
        assert torch.equal(state.pop("attn_norm.bias"), torch.zeros(32))
        assert state.keys() == donor.keys()
        assert initializer != "clone" or all(torch.equal(state[name], donor[name]) for name in donor)
        own = {parameter.data_ptr() for parameter in newborn.parameters()}
        assert len(own) == len(list(newborn.parameters()))
        made.save_pretrained(tmp_path)
        assert torch.equal(logits(type(made).from_pretrained(tmp_path).eval()), logits(made))

    def test_moments_copied_from_it_leave_the_fresh_norm_without(self, table_of, tmp_path):
        more = {"growth": {"schedule": [{"at": 2, "index": 1, "optimizer_state": "copy"}]}}
        launch.begin(loading.check(table_of("modernbert", **more), "test"), tmp_path / "run").run()

    def test_a_copy_of_another_layer_keeps_its_norm(self):
        made = tiny("modernbert")
        layers = grow(made, index=2, donor="b")
        assert torch.equal(layers[2].attn_norm.weight, layers[1].attn_norm.weight)

    def test_nothing_goes_below_it(self):
        made = tiny("modernbert")
        with pytest.raises(BadInput, match="index 0 is reserved in a modernbert; use 1 or higher"):
            grow(made, index=0)
        assert len(made.model.layers) == 2 == made.config.num_hidden_layers

    def test_a_schedule_that_would_is_refused_before_training(self, table_of):
        table = table_of("modernbert", growth={"schedule": "1@1 2@0"})
        with pytest.raises(BadInput, match=r"event 2 \(2@0\): index 0 is reserved"):
            loading.check(table, "test")
        loading.check(table_of("bert", growth={"schedule": "1@1 2@0"}), "test")


GROWN = {"heads": {"to": 6}, "ffn": {"to": 64}, "insert": {"index": 1, "initializer": "identity"}}


@pytest.mark.parametrize("operator", GROWN)
@pytest.mark.parametrize("family", [name for name in TINY if "head_dim" in anatomy.family(name).config])
def test_more_heads_than_the_width_divides_by_still_reload(family, operator, tmp_path):
    """Six heads of eight in a width of 32: Llama's config refuses that number, so the next it takes is written."""
    from pli_train.growth.schedule import read
    from pli_train.models import padding

    made, parts = tiny(family), anatomy.family(family)
    (event,) = read([{"operator": operator, "at": 0, **GROWN[operator]}])
    event.grow(made, parts, Lineage.begin(2, heads=4, units=48), seed=0)
    expected = logits(made)
    made.save_pretrained(tmp_path, state_dict=padding.padded(made, parts))
    loaded = type(made).from_pretrained(tmp_path).eval()
    assert torch.allclose(logits(loaded), expected, atol=1e-5)
    if operator == "heads":
        assert parts.sizes(loaded.config)["head"] == (8 if family == "llama" else 6)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("opt", "do_layer_norm_before", False),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("bert", "add_cross_attention", True),
    ],
)
def test_a_config_that_the_table_does_not_hold_for_is_refused(family, field, value):
    wanted = schema.ModelConfig(family=family, config={field: value})
    with pytest.raises(BadInput, match=rf"model\.config\.{field}: {value} is not supported"):
        build.model_config(wanted, VOCABULARY, BLOCK)


@pytest.mark.parametrize(
    ("family", "fields", "line"),
    [
        ("llama", {"num_attention_heads": 5}, "model.config: The hidden size .* is not a multiple"),
        ("qwen2", {"layer_types": ["full_attention"]}, r"model.config: `num_hidden_layers` \(2\) must be equal"),
        ("modernbert", {"hidden_size": "wide"}, "model.config: .*hidden_size|model.config: .*wide"),
    ],
)
def test_a_config_that_the_family_refuses_is_one_line(family, fields, line):
    wanted = schema.ModelConfig(family=family, config=TINY[family] | fields)
    with pytest.raises(BadInput, match=line) as caught:
        build.model_config(wanted, VOCABULARY, BLOCK)
    assert len(caught.value.mistakes) == 1 and "\n" not in caught.value.mistakes[0]


def test_a_model_from_older_names_is_kept_under_todays(tmp_path):
    """Transformers writes a model back under the names it was loaded from; a table has today's names."""
    from safetensors.torch import load_file, save_file

    tiny("vit").save_pretrained(tmp_path / "old")
    weights = tmp_path / "old" / run_folder.WEIGHTS
    renamed = {name.replace("vit.layers", "vit.encoder.layer"): t for name, t in load_file(weights).items()}
    save_file(renamed, weights, metadata={"format": "pt"})
    parts = anatomy.family("vit")
    wanted = schema.ModelConfig(name_or_path=str(tmp_path / "old"), weights="pretrained")
    made, _ = build.build(wanted, None, 17, seed=0)  # 16 patches and one token for the class
    assert torch.equal(logits(made.eval()), logits(tiny("vit")))
    adam, lineage = optimizer.build(made, schema.OptimConfig()), Lineage.begin(2, heads=4)
    name = run_folder.CheckpointName(0)
    kept = checkpoint.write(tmp_path, name, made, parts, adam, lineage, transformers.TrainerState())
    assert {position[2] for name in load_file(kept / run_folder.WEIGHTS) if (position := parts.locate(name))} == set(
        parts.tensors
    )

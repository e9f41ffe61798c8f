import pytest

from pli_train.config import loading
from pli_train.core.errors import BadInput
from pli_train.growth.initial_shape import InitialShape
from pli_train.optim.config import OptimConfig


def mistakes(overrides, preset="tiny"):
    with pytest.raises(BadInput) as caught:
        loading.load(preset, overrides)
    return caught.value.mistakes


@pytest.mark.parametrize("preset", loading.presets())
def test_every_preset_is_valid_and_says_what_it_is(preset):
    assert loading.load(preset).name == preset
    assert loading.presets()[preset]


def test_overrides_reach_their_keys_with_their_types():
    loaded = loading.load("tiny", ["optim.lr=3e-4", "data.source=some/folder", "train.steps=7", "growth.schedule="])
    assert (loaded.optim.lr, loaded.data.source, loaded.train.steps) == (3e-4, "some/folder", 7)
    assert loaded.growth.events(InitialShape(1)) == []


def test_an_override_without_a_value_resets_the_key():
    loaded = loading.load("tiny", ["train.steps=", "train.epochs=2", "optim.lr=", "optim.lr_end=", "data.subset="])
    assert (loaded.train.steps, loaded.train.epochs, loaded.data.subset) == (None, 2, None)
    assert loaded.optim.lr == OptimConfig().lr != loading.load("tiny").optim.lr
    same = loading.load("tiny-gpt2", ["model.name_or_path=", "model.config.n_inner="])
    assert same.model == loading.load("tiny-gpt2").model
    assert "optim.learning_rate: unknown key; did you mean 'optim.lr'?" in mistakes(["optim.learning_rate="])[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=3", "optim.learning_rate: unknown key; did you mean 'optim.lr'?"),
        ("train.per_device_train_batch_size=3", "did you mean 'train.batch_size'?"),
        ("train.btch_size=3", "did you mean 'train.batch_size'?"),
        ("lr=3", "lr: unknown key; did you mean 'optim.lr'?"),
        ("optm.lr=3", "optm: unknown key; did you mean 'optim'?"),
        ("optim.lr=fast", "optim.lr: input should be a valid number, unable to parse string as a number, got 'fast'"),
        ("train.steps=1.5", "train.steps: "),
        ("train.steps=0", "train.steps: input should be greater than or equal to 1, got 0"),
        ("train.epochs=2", "give exactly one of `steps` and `epochs`"),
        ("optim.lr_end=1", "`lr_end` is above `lr`"),
        ("model.family=gtp2", "unknown family 'gtp2'; did you mean 'gpt2'?"),
        ("model.weights=pretrained", "needs `name_or_path`"),
        (
            "growth.schedule=0.1@5",
            "event 1 (0.1@5): index 5 is outside the stack, which has 3 layers at that step (a b c): use 0 to 3",
        ),
        ("growth.schedule=0.2@1 0.1@1", "event 2 (0.1@1): is earlier than the event listed before it"),
        ("growth.schedule=1.0@1", "a fraction of training must be at least 0 and less than 1"),
        ("growth.schedule=1512@1", "step 1512 is outside training, which has 1512 steps"),
        ("growth.schedule=soon", "'soon' is not WHEN@INDEX"),
        ("growth.initializer=clne", "unknown initializer 'clne'; did you mean 'clone'?"),
        ('growth.schedule=[{at=0.5, index=0, donor="q"}]', "the donor 'q' is not in the stack at that step (a b c)"),
        ("growth.schedule=[{at=0.5, idx=0}]", "idx: unknown key; did you mean 'index'?"),
        ("name=a/b", "name: "),
        ("optim.lr.x=3", "'lr' is a value, not a section"),
        ("optim.lr", "not KEY=VALUE"),
    ],
)
def test_a_mistake_gets_one_line_that_names_the_key(override, message):
    lines = mistakes([override])
    assert any(message in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_all_mistakes_are_reported_at_once():
    lines = mistakes(["optim.lr=fast", "train.batchsize=3", "data.fraction=2"])
    assert len(lines) == 3
    lines = mistakes(["growth.schedule=0.1@5 0.2@9"])
    assert len(lines) == 2


def test_a_file_extends_a_preset_or_its_neighbor(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "tiny"\n[optim]\nlr = 0.5\n')
    (tmp_path / "yours.toml").write_text('extends = "mine.toml"\n[optim]\nlr_end = 0.25\n')
    loaded = loading.load(str(tmp_path / "yours.toml"))
    assert (loaded.name, loaded.optim.lr, loaded.optim.lr_end) == ("yours", 0.5, 0.25)
    assert loaded.train == loading.load("tiny").train


def test_another_family_does_not_inherit_the_first_ones_config():
    assert "n_embd" not in loading.load("tiny-bert").model.config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "not TOML"),
        ('extends = "self.toml"', "extends itself"),
        ('extends = "tny"', "no preset 'tny'; did you mean 'tiny'?"),
        ("extends = 3", "expected the name of a preset or file"),
        ("", "model: is missing"),
    ],
)
def test_a_bad_file_gets_one_line(tmp_path, text, message):
    (tmp_path / "self.toml").write_text(text)
    with pytest.raises(BadInput) as caught:
        loading.load(str(tmp_path / "self.toml"))
    assert message in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(BadInput, match=r"nowhere\.toml: cannot be read"):
        loading.load("nowhere.toml")


def test_a_resolved_config_reads_back_as_itself():
    for preset in loading.presets():
        loaded = loading.load(preset)
        assert loading.check(loaded.model_dump(), "run.json") == loaded


def test_a_byte_order_mark_is_passed_over_and_other_encodings_are_reported(tmp_path):
    text = 'extends = "tiny"\ndescription = "näher"\n'
    (tmp_path / "mark.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert loading.load(str(tmp_path / "mark.toml")).description == "näher"
    (tmp_path / "wide.toml").write_bytes(text.encode("utf-16"))
    with pytest.raises(BadInput, match=r"wide\.toml: cannot be read as UTF-8 text"):
        loading.load(str(tmp_path / "wide.toml"))

"""Images go the same road as text: blocks by the step, one objective, one trainer."""

import numpy as np
import pytest
import torch
import transformers

from pli_analysis import api
from pli_analysis.runs.opening import open_run
from pli_train.config import loading
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.data.blocks import Blocks
from pli_train.data.objective import Objective, loss_sum
from pli_train.data.sources import digits
from pli_train.training import launch, trainer
from tests.families import TINY, tiny
from tests.interrupted import StopAt

STEPS, BATCH, TOKENS = 60, 32, 17


def table(**sections):
    whole = {
        "name": "vit",
        "model": {"family": "vit", "config": TINY["vit"], "initial_layers": 1},
        "data": {"source": "digits", "test_share": 0.2},
        "train": {"steps": STEPS, "block_size": TOKENS, "batch_size": BATCH, "eval_every": 20, "eval_blocks": 64},
        "optim": {"lr": 1e-2, "warmup_ratio": 0.1},
        "growth": {"schedule": "20@1 40@0"},
    }
    return {key: value | sections.get(key, {}) if isinstance(value, dict) else value for key, value in whole.items()}


@pytest.fixture(scope="module")
def images():
    return digits.load(loading.check(table(), "test").data)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision") / "run"
    launch.begin(loading.check(table(), "test"), folder).run()
    return folder


def test_the_split_shares_out_every_image_once_and_always_alike(images):
    from sklearn.datasets import load_digits

    both = np.concatenate([images.train, images.eval])
    assert len(images.eval) == round(0.2 * 1797) and len(both) == 1797
    found = sorted((row["pixels"].tobytes(), int(row["label"])) for row in both)
    original = load_digits()
    pixels = (original.images[:, None].astype(np.float32) - 8) / 8
    assert found == sorted((image.tobytes(), int(label)) for image, label in zip(pixels, original.target, strict=True))
    again = digits.load(loading.check(table(), "test").data)
    assert np.array_equal(again.train, images.train) and again.fingerprint == images.fingerprint
    other = digits.load(loading.check(table(data={"fraction": 0.5}), "test").data)
    assert len(other.train) + len(other.eval) == 898 and other.fingerprint != images.fingerprint


def test_an_epoch_shows_every_image_once_with_its_own_label(images):
    blocks = Blocks(images.train, TOKENS, seed=3)
    epoch = np.concatenate([blocks.at_step(step, 1) for step in range(blocks.count)])
    assert sorted(row.tobytes() for row in epoch) == sorted(row.tobytes() for row in images.train)
    assert np.array_equal(blocks.at_step(7, 5), Blocks(images.train, TOKENS, seed=3).at_step(7, 5))
    assert not np.array_equal(blocks.at_step(7, 5), Blocks(images.train, TOKENS, seed=4).at_step(7, 5))


def test_the_loss_equals_that_of_transformers(images):
    model = tiny("vit")
    batch = Objective("image-classification", None, 0.15).batch(images.eval[:20], seed=0)
    assert batch.targets == 20
    with torch.no_grad():
        theirs = model(pixel_values=batch.inputs, labels=batch.labels).loss
        assert loss_sum(model, batch) / batch.targets == pytest.approx(float(theirs), rel=1e-5)


def test_a_vit_grows_learns_and_reloads(run):
    from pli_analysis.scalars.reading import read

    scalars = read(run).values
    evals = {step: value for step, (_, value) in scalars[run_folder.EVAL_LOSS].items()}
    assert evals[STEPS] < evals[0] - 0.3
    assert scalars[run_folder.TOKENS][STEPS][1] == STEPS * BATCH * TOKENS
    auto = transformers.AutoModelForImageClassification
    loaded, message = auto.from_pretrained(run / f"checkpoint-{STEPS}", output_loading_info=True)
    assert not message["missing_keys"] and not message["unexpected_keys"]
    assert loaded.config.num_hidden_layers == 3
    assert not (run / run_folder.TOKENIZER).exists()


def test_its_heads_have_a_drift(run):
    found = api.drift(open_run(run), "head")
    assert set(found["part"]) == {f"{layer}.h{head}" for layer in "abc" for head in range(4)}


def test_a_stopped_run_resumes_to_the_same_weights(run, tmp_path):
    with pytest.raises(trainer.Interrupted):
        launch.begin(loading.check(table(), "test"), tmp_path / "run", callbacks=[StopAt(31)]).run()
    last = launch.resume(loading.check(table(), "test"), tmp_path / "run").run()
    assert (last / run_folder.WEIGHTS).read_bytes() == (run / last.name / run_folder.WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"train": {"block_size": 64}}, r"train\.block_size: expected 17, the tokens of an image .*, got 64"),
        (
            {"model": {"config": TINY["vit"] | {"num_labels": 2}}},
            r"model\.config\.num_labels: these images need 10, got 2",
        ),
        (
            {"data": {"source": "python"}},
            r"'python' holds text \(only digits holds images\), and a vit cannot learn from it",
        ),
        ({"model": {"family": "bert", "config": {}}}, "'digits' holds images, and a bert cannot learn from it"),
        (
            {"growth": {"schedule": [{"operator": "context", "at": 0, "to": 1}]}},
            "images cannot be cut into shorter blocks",
        ),
    ],
)
def test_what_does_not_fit_images_is_one_line(images, sections, line, tmp_path):
    with pytest.raises(BadInput, match=line):
        launch.begin(loading.check(table(**sections), "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()

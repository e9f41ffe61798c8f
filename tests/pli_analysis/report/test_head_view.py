"""The view of single heads: what a page holds, decoded, against the attention that transformers returns."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pli_analysis.inference import eval_tokens
from pli_analysis.metrics import head_weights as metric
from pli_analysis.metrics.head_weights import Heads, HeadWeights, head_weights
from pli_analysis.report import head_view, page
from pli_analysis.report.parts import Report, Section
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.training import launch
from tests.commands import call, refused
from tests.in_browser import until, violations

BLOCK, EARLY, LAST = 2, 6, 12
CLOSE = 0.004
"""Largest error of a weight on the page ÷ largest weight of its row."""
# Read from a copy: Chromium prints advice if the pixels of a canvas that is drawn on are read twice.
ALPHA = """(() => {
    const drawn = document.querySelector(".head canvas"), copy = document.createElement("canvas");
    [copy.width, copy.height] = [drawn.width, drawn.height];
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(drawn, 0, 0);
    return context.getImageData(3, 20, 1, 1).data[3];
})()"""
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "\n", "\t", "‮", '"&amp;']


def report_of(found):
    view = head_view.view(found)
    return Report("run", "lead", [Section("attention", "Attention", view=view, method=head_view.METHOD)])


def data_of(text):
    """The data of the view in a page."""
    [data] = re.findall(r'class="heads".*?<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def decoded(data, checkpoint=0):
    """Name of each head → its weights, by the rule that the page states."""
    size, weights = len(data["tokens"]), {}
    for head in data["checkpoints"][checkpoint]["heads"]:
        levels = np.zeros((size, size))
        where = np.tril_indices(size) if data["causal"] else np.indices((size, size)).reshape(2, -1)
        levels[tuple(where)] = np.frombuffer(base64.b64decode(head["levels"]), dtype=np.uint8)
        largest = np.frombuffer(base64.b64decode(head["largest"]), dtype="<f4").astype(float)
        weights[head["name"]] = largest[:, None] * (levels / 255) ** 2
    return weights


def eager(run, step, tokens):
    """The attention of each layer to a block, as transformers returns it."""
    auto = AutoModelForMaskedLM if run.checkpoints[-1].anatomy.task == "masked-lm" else AutoModelForCausalLM
    model = auto.from_pretrained(run.at(step).path, attn_implementation="eager").eval()
    with torch.no_grad():
        return [layer[0].double().numpy() for layer in model(input_ids=tokens, output_attentions=True).attentions]


def is_close(found, expected):
    return (np.abs(found - expected) <= CLOSE * expected.max(axis=1, keepdims=True)).all()


@pytest.fixture(scope="module")
def grown(config_of, tmp_path_factory):
    """A Llama with shared keys and values, of which one of two layers gained heads."""
    events = [{"operator": "heads", "at": 2, "to": 4, "layers": ["a"]}]
    wanted = {"train.steps": 3, "model.initial_layers": 2, "model.initial_heads": 2, "growth.schedule": events}
    folder = tmp_path_factory.mktemp("grown") / "llama"
    launch.begin(config_of("llama", wanted), folder).run()
    return open_run([folder])


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def run(request, runs):
    return request.getfixturevalue("grown") if request.param == "llama" else open_run([runs[request.param]])


def test_weights_on_the_page_are_those_of_transformers(run):
    step = run.checkpoints[-1].step
    data = data_of(page.html(report_of(head_weights(run, block=BLOCK))))
    found, tokens = decoded(data), eval_tokens.sample_of(run, None).tokens[[BLOCK - 1]]
    expected, heads = eager(run, step, tokens), run.at(step).heads
    assert list(found) == [f"{id}.h{head}" for id, n in zip(run.lineage.stack, heads, strict=True) for head in range(n)]
    for name, weights in found.items():
        id, _, head = name.partition(".h")
        assert is_close(weights, expected[run.lineage.stack.index(id)][int(head)]), name
        assert weights.sum(axis=1) == pytest.approx(1, abs=0.01)
    assert data["causal"] == (run.at(step).anatomy.task == "causal-lm")


def test_heads_that_pad_a_layer_are_no_heads(grown):
    assert grown.checkpoints[-1].heads == [4, 2]
    [heads] = head_weights(grown).checkpoints
    assert list(heads.weights) == ["a.h0", "a.h1", "a.h2", "a.h3", "b.h0", "b.h1"]
    assert heads.donors == {"a.h2": "a.h0", "a.h3": "a.h1"}


def test_two_checkpoints_have_their_own_weights_and_heads(runs):
    run = open_run([runs["gpt2"]])
    data = data_of(page.html(report_of(head_weights(run, steps=(None, 3)))))
    tokens = eval_tokens.sample_of(run, None).tokens[:1]
    assert [each["step"] for each in data["checkpoints"]] == [LAST, 3]
    for number, step in enumerate((LAST, 3)):
        stack, found = run.at(step).lineage.stack, decoded(data, number)
        expected = eager(run, step, tokens)
        assert {name.partition(".")[0] for name in found} == set(stack)
        assert all(is_close(w, expected[stack.index(name[0])][int(name[3:])]) for name, w in found.items())
    assert not is_close(decoded(data, 0)["a.h0"], decoded(data, 1)["a.h0"]), "they are the same"


@pytest.mark.parametrize("concentration", [0.01, 0.3, 100.0])
def test_512_tokens_differ_from_equal_attention(concentration):
    """A linear byte would be 0 for a weight of 1/512."""
    weights = np.random.default_rng(0).dirichlet(np.full(512, concentration), size=512)
    found = HeadWeights(["token"] * 512, 1, 1, [Heads(1, {"a.h0": weights}, {}, 1)])
    stored = decoded(head_view.view(found).data)["a.h0"]
    assert is_close(stored, weights) and stored.sum(axis=1) == pytest.approx(1, abs=0.02)


def planted(tokens, layers, heads, is_causal, checkpoints=1):
    """Random attention."""
    generator, size = np.random.default_rng(0), len(tokens)
    weights = generator.random((layers * heads, size, size), dtype=np.float32)
    weights = np.tril(weights) if is_causal else weights
    weights /= weights.sum(axis=2, keepdims=True)
    names = [f"{'abcdef'[layer]}.h{head}" for layer in range(layers) for head in range(heads)]
    each = Heads(1, dict(zip(names, weights, strict=True)), {"b.h0": "a.h0"}, layers * heads)
    return HeadWeights(tokens, 1, 1, [each] * checkpoints)


def test_a_page_of_6_layers_4_heads_and_128_tokens_at_two_checkpoints_is_below_8_mb():
    assert len(page.html(report_of(planted(["token"] * 128, 6, 4, False, checkpoints=2)))) < 8e6


def test_heads_that_do_not_fit_are_left_out_layer_by_layer(runs, monkeypatch):
    run = open_run([runs["gpt2"]])
    monkeypatch.setattr(metric, "MOST_WEIGHTS", 6 * 32 * 33 // 2)
    found = head_weights(run)
    stack = run.lineage.stack
    assert set(found.checkpoints[0].weights) == {*(f"{id}.h0" for id in stack), f"{stack[0]}.h1"}
    assert "6 of 10 heads, step 12. The other heads are not on this page: choose with --heads." in page.html(
        report_of(found)
    )
    assert len(head_weights(run, steps=(None, 3)).checkpoints[0].weights) == 3
    assert list(head_weights(run, names=["b.h1", "a"]).checkpoints[0].weights) == sorted(
        ["a.h0", "a.h1", "b.h1"], key=lambda name: stack.index(name[0])
    )
    with pytest.raises(BadInput, match="names 8 heads, and a page has room for 6 of 32 tokens; name fewer"):
        head_weights(run, names=stack[:4])


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"block": 99}, "--block 99: the sample has 8 blocks; name one of 1 to 8"),
        ({"blocks": 1, "block": 2}, "--block 2: the sample has 1 block; name one of 1 to 1"),
        ({"names": ["a.h9"]}, "--heads a.h9: is no layer and no head"),
        ({"steps": (None, 99)}, "has no checkpoint of step 99"),
    ],
)
def test_block_heads_and_steps_must_be_there(runs, wanted, line):
    with pytest.raises(BadInput, match=line):
        head_weights(open_run([runs["gpt2"]]), **wanted)


def test_options_of_the_page_need_it(runs, tmp_path):
    run, html = runs["gpt2"], ["--html", tmp_path / "page.html"]
    refused(call("pli-analyze", "attention", run, "--beside", 3), "--beside: applies only to --html FILE: give both")
    refused(call("pli-analyze", "attention", run, *html, "--heads", " ,"), "--heads: names no head; give names such as")
    assert not (tmp_path / "page.html").exists()


def test_the_command_writes_the_page(runs, tmp_path):
    options = ["--blocks", 2, "--block", 2, "--beside", 3, "--heads", "b,a.h1", "--html", tmp_path / "page.html"]
    done = call("pli-analyze", "attention", runs["gpt2"], *options)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.html").read_text()
    assert "Block 2 of 2 (32 tokens), 3 of 10 heads, steps 12 and 3." in text
    assert set(decoded(data_of(text))) == {"a.h1", "b.h0", "b.h1"}


def test_without_a_tokenizer_tokens_have_their_ids(mine):
    for file in (mine / "tokenizer").iterdir():
        file.unlink()
    ids = eval_tokens.sample_of(open_run([mine]), None).tokens[0].tolist()
    assert head_weights(open_run([mine])).tokens == [f"#{id} " for id in ids]


def test_tokens_cannot_leave_the_data():
    text = page.html(report_of(planted(HOSTILE, 2, 2, True)))
    assert data_of(text)["tokens"] == HOSTILE
    assert "<img" not in text and "alert(1)</script>" not in text


# --- in the browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(runs, tmp_path_factory):
    """A page of two checkpoints, and what is on it."""
    path = tmp_path_factory.mktemp("heads") / "page.html"
    done = call("pli-analyze", "attention", runs["gpt2"], "--blocks", 2, "--beside", 3, "--html", path)
    assert done.returncode == 0, done.stderr
    return path, data_of(path.read_text())


def control(tab, name):
    return tab.locator(".picks").get_by_label(name, exact=True)


def percentages(panel):
    """Place of a token → the weight that the panel states."""
    found = re.findall(r"\((\d+)\) ([\d.]+)\s%", panel.locator(".most").inner_text())
    return {int(place) - 1: float(weight) / 100 for place, weight in found}


def agree(stated, row):
    """Whether the five tokens stated are those with the largest weights, with these weights."""
    most = sorted(row, reverse=True)[:5]
    given = [weight for _, weight in sorted(stated.items(), key=lambda pair: -pair[1])]
    return (
        len(stated) == 5
        and given == pytest.approx(most, rel=0.06, abs=0.005)
        and all(row[place] == pytest.approx(weight, rel=0.06, abs=0.005) for place, weight in stated.items())
    )


@pytest.mark.browser
def test_a_head_is_picked_by_keyboard_and_its_weights_are_read(opened, shown):
    path, data = shown
    tab, outputs, asked = opened(path)
    left, right = tab.locator(".head").all()
    control(tab, "Layer").focus()
    tab.keyboard.press("End")
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowDown")
    last = data["checkpoints"][0]["heads"][-1]["name"]
    assert left.locator("h4").inner_text().startswith(f"Head {last}, step 12")
    control(tab, "Token").focus()
    tab.keyboard.press("End")
    assert agree(percentages(left), decoded(data)[last][31])
    tab.keyboard.press("ArrowLeft")
    assert tab.locator(".token").inner_text().startswith("31 of 32: ")
    assert agree(percentages(left), decoded(data)[last][30])
    control(tab, "Compare with").select_option("head/1/a.h1")
    assert right.locator("h4").inner_text() == "Head a.h1, step 3"
    assert agree(percentages(right), decoded(data, 1)["a.h1"][30])
    assert outputs == [] and asked == [path.as_uri()]


@pytest.mark.browser
def test_the_right_head_follows_the_left_one(opened, shown):
    tab, outputs, _ = opened(shown[0])
    right, donors = tab.locator(".head").nth(1), shown[1]["checkpoints"][0]["donors"]
    control(tab, "Compare with").select_option("donor")
    for name in donors:
        control(tab, "Layer").select_option(name[0])
        control(tab, "Head").select_option(name)
        assert right.locator("h4").inner_text() == f"Head {donors[name]}, step 12: donor of {name}"
    control(tab, "Layer").select_option("a")
    assert "has no donor" in right.locator("h4").inner_text() and not right.locator(".matrix").is_visible()
    control(tab, "Compare with").select_option("step")
    assert right.locator("h4").inner_text() == "Head a.h1, step 3"
    control(tab, "Checkpoint").select_option("1")
    assert right.locator("h4").inner_text().startswith("Head a.h1, step 12")
    control(tab, "Compare with").select_option("none")
    assert not right.is_visible()
    assert outputs == []


@pytest.mark.browser
def test_the_pointer_finds_tokens_in_the_matrix_and_in_the_text(opened, shown):
    path, data = shown
    tab, outputs, _ = opened(path)
    left, token = tab.locator(".head").first, tab.locator(".token")
    name = control(tab, "Head").input_value()
    box = left.locator("canvas").bounding_box()
    left.locator("canvas").hover(position={"x": 3.5 * box["width"] / 32, "y": 20.5 * box["height"] / 32})
    assert token.inner_text().startswith("21 of 32: ")
    under = float(re.findall(r"To .*\(4\): ([\d.]+)\s%", left.locator(".most").inner_text())[0]) / 100
    assert under == pytest.approx(decoded(data)[name][20][3], rel=0.06, abs=0.005)
    pixel = ALPHA
    row = decoded(data)[name][20]
    assert tab.evaluate(pixel) == pytest.approx(255 * np.sqrt(row[3] / row.max()), abs=1)
    control(tab, "Colors").select_option("all")
    assert tab.evaluate(pixel) == pytest.approx(255 * np.sqrt(row[3]), abs=1)
    left.locator(".words span").nth(9).click()
    tab.locator("h1").hover()
    assert token.inner_text().startswith("10 of 32: ")
    assert left.locator(".words .query").count() == 1
    assert outputs == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light"), (390, "light"), (1440, "dark")])
def test_everyone_can_use_the_view(opened, shown, width, scheme):
    tab, outputs, asked = opened(shown[0], width, scheme)
    assert outputs == [] and asked == [shown[0].as_uri()]
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "the page scrolls sideways"
    first, second = (panel.bounding_box() for panel in tab.locator(".head").all())
    assert (first["y"] == second["y"]) == (width == 1440)
    assert tab.locator(".head canvas").first.bounding_box()["width"] > 250
    assert violations(tab) == []
    color = "document.querySelector('.words .query').previousSibling.style.backgroundColor"
    before = tab.evaluate(color)
    tab.locator("#theme").press("Enter")
    until(tab, f"{color} !== {json.dumps(before)}")
    assert violations(tab) == [] and outputs == []


@pytest.mark.browser
def test_hostile_tokens_stay_text(opened, tmp_path):
    path = tmp_path / "page.html"
    page.write(report_of(planted(HOSTILE, 2, 2, True)), path)
    tab, outputs, asked = opened(path)
    assert outputs == [] and asked == [path.as_uri()]
    assert tab.locator("img").count() == 0 and tab.locator(".words").first.locator("span").count() == len(HOSTILE)
    assert tab.locator(".words span").first.text_content() == HOSTILE[0]

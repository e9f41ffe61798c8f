"""What `pli-train config` prints: a config that can be run, the keys with their meanings, and a schema for editors."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from pli_train.config import keys, loading
from pli_train.config.schema import RunConfig
from pli_train.section import keys as all_keys
from tests.commands import call, refused

ROOT = Path(__file__).parents[3]
LISTED = list(keys.keys(RunConfig))


@pytest.mark.parametrize("preset", loading.presets())
def test_a_printed_config_is_the_same_config(preset, tmp_path):
    config = loading.load(preset)
    (tmp_path / "printed.toml").write_text(keys.to_toml(config), encoding="utf-8")
    assert loading.load(str(tmp_path / "printed.toml")) == config


def test_every_key_has_a_type_and_a_meaning_and_its_default_is_that_of_a_config():
    sections = {"model", "tokenizer", "data", "train", "optim", "growth", "growth.swapping", "checkpoint", "tracking"}
    assert {row["key"] for row in LISTED} == set(all_keys(RunConfig)) - sections
    assert all(row["meaning"] and row["type"] for row in LISTED)
    config = RunConfig(model={"family": "gpt2"}, train={"steps": 1}).model_dump(mode="json")
    for row in LISTED:
        value = config
        for name in row["key"].split("."):
            value = value[name]
        if row["default"] is None:
            assert value in (None, "gpt2", 1), row["key"]
        elif "…" not in row["default"]:
            assert tomllib.loads(f"value = {row['default']}")["value"] == value, row["key"]


def test_the_page_of_the_documentation_has_all_keys():
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page.endswith(call("pli-train", "config", "--keys", "-f", "md").stdout)


def test_the_schema_accepts_all_presets_and_refuses_mistakes(tmp_path):
    schema = json.loads(call("pli-train", "config", "--schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    for preset in loading.presets():
        jsonschema.validate(tomllib.loads((loading.PRESETS / f"{preset}.toml").read_text(encoding="utf-8")), schema)
    for wrong in ({"optim": {"learning_rate": 1}}, {"train": {"steps": "many"}}, {"optim": {"schedule": "sine"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_options_that_print_different_things_cannot_be_combined():
    refused(call("pli-train", "config", "--keys", "--schema"), "--keys and --schema: cannot be combined")

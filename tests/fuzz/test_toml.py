"""Broken configs: random changes to the text of a preset."""

import random

from pli_train.config import loading
from pli_train.config.schema import RunConfig
from pli_train.core.errors import BadInput
from pli_train.section import keys

KEYS = keys(RunConfig)


def test_a_broken_toml_loads_or_is_a_line_a_mistake(tmp_path, fuzz_cases):
    path, chance = tmp_path / "mine.toml", random.Random(0)
    good = (loading.PRESETS / "tiny.toml").read_bytes() + b"\n[growth.swapping]\nprobability = 0.5\n"
    words = [*KEYS, "true", "-1", "1e999", "nan", "[[", "]]", '"""', "{}", "=", "0x7fffffffffffffffffff", "\0"]
    loaded, cases = 0, max(1000, fuzz_cases)
    for _ in range(cases):
        bad, at = bytearray(good), chance.randrange(len(good))
        what = chance.randrange(4)
        if what == 0:
            bad[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            del bad[at : at + chance.randrange(1, 80)]
        elif what == 2:
            bad[at:at] = chance.choice(words).encode()
        else:
            bad[at : at + 8] = chance.randbytes(chance.randrange(1, 40))
        path.write_bytes(bytes(bad))
        try:
            loading.load(str(path))
            loaded += 1
        except BadInput as error:
            assert all(mistake.strip() and "\n" not in mistake for mistake in error.mistakes), error.mistakes
    assert 0 < loaded < cases

"""Files changed at random: JSON bent, bytes torn, safetensors given another header."""

import copy
import json
import struct

HOSTILE = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "..", "../x", "/etc/passwd", "a\0b", "x" * 5000, "gpt2", "bert", "a", "b", "a.h0", "builtins.exec"),
    *([], {}, [[]], [None], [1, 2], ["a", "a"], {"": ""}, {"a": {}}, {"auto_map": {"AutoModel": "x.Y"}}),
)
KEYS = ("auto_map", "_attn_implementation", "quantization_config", "num_labels", "dtype", "to_dict", "__class__")
KEYS += ("trust_remote_code", "base_model_tp_plan", "../x", "n_layer", "vocab_size", "step", "stack", "heads")


def nodes(document):
    """Every (container, key) of a JSON document."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from nodes(document[key])


def bent(document, chance):
    """A JSON document with one thing in it changed."""
    document = copy.deepcopy(document)
    places = list(nodes(document))
    if not places:
        return chance.choice(HOSTILE)
    box, key = chance.choice(places)
    what = chance.randrange(5)
    if what == 0:
        del box[key]
    elif what == 1 and isinstance(box, dict):
        box[chance.choice(KEYS)] = chance.choice(HOSTILE)
    elif what == 2:
        other, from_ = chance.choice(places)
        box[key] = (
            copy.deepcopy(other[from_]) if from_ in (other if isinstance(other, dict) else range(len(other))) else 0
        )
    elif what == 3 and isinstance(box[key], int | float):
        box[key] = box[key] * chance.choice((-1, 2, 10, 10**6, 10**12)) + chance.choice((-1, 0, 1))
    else:
        box[key] = chance.choice(HOSTILE)
    return document


def torn(data, chance):
    """Bytes with something torn, flipped or thrown in."""
    at, end = sorted((chance.randrange(len(data) + 1), min(len(data), chance.randrange(len(data) + 1))))
    what = chance.randrange(7)
    if what == 0:
        return data[:at]
    if what == 1:
        flipped = bytearray(data)
        for _ in range(chance.randrange(1, 9)):
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    if what == 2:
        return data[:at] + data[end:]
    if what == 3:
        return data[:at] + chance.randbytes(chance.randrange(1, 64)) + data[at:]
    if what == 4:
        return data[:at] + data[at:end][:4096] * 2 + data[end:]
    if what == 5:
        return chance.choice((b"[", b'{"a":', b'{"files":{"a":')) * chance.choice((10, 1000, 200_000))
    return chance.choice(
        (b"", b"null", b"[]", b"{}", b"\xff\xfe", b"\0" * 64, b"1e999999", b"9" * 10_000, b'"\\ud800"')
    )


def bent_header(data, chance):
    """A safetensors file with another header, or another length of it."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    what = chance.randrange(3)
    if what == 0:
        size = chance.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", size) + data[8:]
    if what == 1:
        header = torn(header, chance)
    else:
        header = json.dumps(bent(json.loads(header), chance)).encode()
    return struct.pack("<Q", len(header)) + header + rest


def mutated(path, data, chance):
    if path.suffix == ".safetensors":
        return bent_header(data, chance) if chance.random() < 0.7 else torn(data, chance)
    return json.dumps(bent(json.loads(data), chance)).encode() if chance.random() < 0.7 else torn(data, chance)

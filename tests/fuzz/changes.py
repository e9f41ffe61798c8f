"""Random changes of files: of JSON values, of bytes, and of safetensors headers."""

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
WRAPPERS = ("module", "_orig_mod", "model", "base_model.model", "_fsdp_wrapped_module", "net", "", "model.model", "a b")
WRAPPERS += (".gamma", ".weight_g", ".LayerNorm.beta", ".lora_A.default.weight", ".qweight", ".weight")
TYPES = (("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("BF16", 2), ("F16", 2), ("F64", 8), ("I8", 1), ("U32", 4))
TYPES += (("C64", 8), ("BOOL", 1), ("F4", 1), ("F8_E4M3FNUZ", 1), ("", 4), ("F32", 4))
ODD = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f")
"""NaN, infinity, minus infinity, and the largest float32."""


def nodes(document):
    """Yield every (container, key) of a JSON document."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from nodes(document[key])


def bent(document, chance):
    """Return a JSON document with one random change."""
    document = copy.deepcopy(document)
    locations = list(nodes(document))
    if not locations:
        return chance.choice(HOSTILE)
    box, key = chance.choice(locations)
    what = chance.randrange(5)
    if what == 0:
        del box[key]
    elif what == 1 and isinstance(box, dict):
        box[chance.choice(KEYS)] = chance.choice(HOSTILE)
    elif what == 2:
        other, from_ = chance.choice(locations)
        box[key] = (
            copy.deepcopy(other[from_]) if from_ in (other if isinstance(other, dict) else range(len(other))) else 0
        )
    elif what == 3 and isinstance(box[key], int | float):
        box[key] = box[key] * chance.choice((-1, 2, 10, 10**6, 10**12)) + chance.choice((-1, 0, 1))
    else:
        box[key] = chance.choice(HOSTILE)
    return document


def torn(data, chance):
    """Return bytes with some removed, flipped, inserted or repeated at random."""
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
    """Return a safetensors file with a changed header or header length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    what = chance.randrange(5)
    if what == 0:
        size = chance.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", size) + data[8:]
    if what == 1:
        header = torn(header, chance)
    elif what == 2:
        header = json.dumps(renamed(json.loads(header), chance)).encode()
    elif what == 3:
        header = json.dumps(retyped(json.loads(header), chance)).encode()
    else:
        header = json.dumps(bent(json.loads(header), chance)).encode()
    return struct.pack("<Q", len(header)) + header + rest


def renamed(header, chance):
    """Rename all or some tensors as wrapped models do, with real or similar prefixes and suffixes."""
    wrapper, all_of_them = chance.choice(WRAPPERS), chance.random() < 0.5

    def name(plain):
        if plain == "__metadata__" or not (all_of_them or chance.random() < 0.2):
            return plain
        if wrapper.startswith("."):
            return f"{plain.rpartition('.')[0]}{wrapper}"
        at = chance.choice((0, plain.find(".") + 1))
        return f"{plain[:at]}{wrapper}.{plain[at:]}"

    return {name(plain): entry for plain, entry in header.items()}


def retyped(header, chance):
    """Change the dtype of a tensor, and usually its shape to fit its bytes."""
    name = chance.choice([name for name in header if name != "__metadata__"])
    entry, (type, size) = header[name], chance.choice(TYPES)
    shape = entry.get("shape", [])
    if shape and (shape[-1] * 4) % size == 0 and chance.random() < 0.9:
        shape = [*shape[:-1], shape[-1] * 4 // size]
    return header | {name: entry | {"dtype": type, "shape": shape}}


def not_finite(data, chance):
    """Replace one number of the weights by NaN, an infinity or the largest float32."""
    at = len(data) - 4 * chance.randrange(1, max(len(data) // 8, 2))
    return data[:at] + chance.choice(ODD) + data[at + 4 :]


def mutated(path, data, chance):
    """Return the content of a file with a random change that suits its format."""
    if path.suffix == ".safetensors":
        if chance.random() < 0.1:
            return not_finite(data, chance)
        return bent_header(data, chance) if chance.random() < 0.7 else torn(data, chance)
    return json.dumps(bent(json.loads(data), chance)).encode() if chance.random() < 0.7 else torn(data, chance)

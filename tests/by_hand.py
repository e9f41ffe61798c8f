"""Gradient norms by hand, head by head."""

SUMS = ("total", "layer")


def slow_heads(model, parts, stack, dim=8):
    """Norms of heads and groups in float64, cut by `owners_by_hand`: no table, no einops, no vector."""
    squares = {}
    for name, parameter in model.named_parameters():
        position = parts.locate(name)
        if position is None or parameter.grad is None:
            continue
        layer = stack[position[1]]
        for owner, value in owners_by_hand(parts.model_type, position[2], parameter.grad.double(), dim):
            key = f"{layer}.{owner}"
            squares[key] = squares.get(key, 0.0) + value.square().sum().item()
    return {key: square**0.5 for key, square in squares.items()}


def owners_by_hand(family, name, grad, dim):
    """(owner, elements) for the tensors of attention: `h0`… and, where keys and values are shared, `g0`….

    By index arithmetic on the layout that each family's own code has; `dim` is the width of a head.
    """
    grouped = family in ("llama", "mistral", "qwen2", "qwen3")
    fused = {"attn.c_attn": 1, "attn.Wqkv": 0}
    module, _, leaf = name.rpartition(".")
    out = ("attn.c_proj", "attn.Wo", "attention.dense", "attention.out_lin", "attention.output.dense")
    out += ("self_attn.out_proj", "self_attn.o_proj", "attention.o_proj")
    if module in fused:  # Q, K and V one after the other; GPT-2's Conv1D has them along its columns
        for third in grad.chunk(3, dim=-1 if leaf == "bias" else fused[module]):
            along = third if leaf == "bias" or fused[module] == 0 else third.T
            yield from ((f"h{n}", along[n * dim : (n + 1) * dim]) for n in range(len(along) // dim))
    elif module == "attention.query_key_value":  # GPT-NeoX: Q, K and V of a head together
        yield from ((f"h{n}", grad[n * 3 * dim : (n + 1) * 3 * dim]) for n in range(len(grad) // (3 * dim)))
    elif module in out:
        if leaf == "weight":
            columns = grad if family == "gpt2" else grad.T
            yield from ((f"h{n}", columns[n * dim : (n + 1) * dim]) for n in range(len(columns) // dim))
    elif module.startswith(("attention.", "self_attn.")) and "norm" not in module.lower():
        shared = grouped and module.endswith(("k_proj", "v_proj"))
        yield from ((f"{'g' if shared else 'h'}{n}", grad[n * dim : (n + 1) * dim]) for n in range(len(grad) // dim))

"""The tokens that models are compared on: the held-out blocks a run keeps beside its checkpoints, or a text.

Labels are as in training: the next token, or the masked ones, with the same masks at every checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis.live import last_line
from pli_train import run_folder
from pli_train.errors import BadInput, panics_as_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from pli_analysis.run import Run

IGNORED = -100
"""The label of a position that is not predicted."""
SEED = 0
"""Of the masks: the same at every checkpoint."""


def batch_of(run: Run, text: Path | None, blocks: int) -> tuple[Tensor, Tensor]:
    """Tokens to compare a run's models on, and what they are to predict.

    Args:
        text: a file in UTF-8, cut into blocks of the length that the run trained on; None for the held-out blocks that
            the run keeps.
        blocks: how many at most, the first ones.

    Returns:
        Tokens and labels, both (blocks, block_size) int64; −100 is the label of what is not predicted. Under masked-lm
        the masks are drawn with one seed, in BERT's proportions.

    Raises:
        BadInput: when text, blocks or tokenizer cannot be read, or the text has not one block.
    """
    import torch

    tokens = _kept(run)[:blocks] if text is None else _cut(run, text)[:blocks]
    if run.checkpoints[-1].anatomy.task == "masked-lm":
        tokenizer = _tokenizer(run)
        return _masked(tokens, tokenizer, _mask_of(run, tokenizer), _trained_with(run, "mlm_probability", float))
    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = tokens[:, 1:]
    return tokens, labels


def has_probe(run: Run) -> bool:
    """Whether a run keeps the blocks it is evaluated on."""
    return (run.path / run_folder.PROBE).is_file()


def _kept(run: Run) -> Tensor:
    """The held-out blocks that the run keeps, all of them."""
    import torch

    from pli_analysis.run import open_weights

    path = run.path / run_folder.PROBE
    if not path.is_file():
        raise BadInput(f"{run.path}: keeps no held-out blocks ({run_folder.PROBE}): give a text with --text FILE")
    size = run.checkpoints[-1].config.get("vocab_size")
    with open_weights(path) as file:
        found = file.get_tensor("tokens") if list(file.keys()) == ["tokens"] else None
    if found is None or found.dtype != "int32" or found.ndim != 2 or not found.size:
        raise BadInput(f"{path}: holds no blocks of tokens")
    if not isinstance(size, int) or not 0 <= found.min() <= found.max() < size:
        raise BadInput(f"{path}: has tokens that the model does not know")
    return torch.from_numpy(found.astype("int64"))


def _cut(run: Run, text: Path) -> Tensor:
    """A text in blocks as the run trained on."""
    import torch

    length = _trained_with(run, "block_size", int)
    try:
        written = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{text}: not readable as text ({error})") from None
    tokenizer = _tokenizer(run)
    try:
        with panics_as_errors():
            ids = torch.tensor(tokenizer.encode(written, add_special_tokens=False).ids)
    except Exception as error:
        raise BadInput(f"{run.tokenizer}: cannot read {text} ({last_line(error)})") from None
    count = len(ids) // length
    if not count:
        raise BadInput(f"{text}: has {len(ids)} tokens, and a block of this run takes {length}")
    return ids[: count * length].reshape(count, length)


def _trained_with(run: Run, key: str, kind: type[int] | type[float]) -> Any:
    """A value of the run's `train` section."""
    value = run.training.get(key)
    if not isinstance(value, kind) or value <= 0:
        raise BadInput(f"{run.path}: its {run_folder.RUN} does not say what train.{key} was")
    return value


def spread(tokens: Tensor, most: int) -> Tensor:
    """Which tokens to keep so that there are at most so many: the same positions of every block, evenly spread.

    Returns:
        A bool of the shape of `tokens`, (blocks, block_size).
    """
    import torch

    blocks, length = tokens.shape
    count = max(1, min(length, most // blocks))
    kept = torch.zeros(tokens.shape, dtype=torch.bool)
    # The middles of `count` equal stretches: never the first token alone, which sees nothing before it.
    kept[:, ((torch.arange(count) + 0.5) * length / count).long()] = True
    return kept


def _masked(tokens: Tensor, tokenizer: Tokenizer, mask: int, share: float) -> tuple[Tensor, Tensor]:
    """Devlin et al. 2018: of the chosen positions 80 % become the mask, 10 % a random token, 10 % stay."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    chosen = torch.rand(tokens.shape, generator=generator) < share
    fate = torch.rand(tokens.shape, generator=generator)
    others = torch.randint(tokenizer.get_vocab_size(), tokens.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask, tokens)
    inputs = torch.where(chosen & (fate >= 0.9), others, inputs)
    return inputs, torch.where(chosen, tokens, IGNORED)


def _tokenizer(run: Run) -> Tokenizer:
    from tokenizers import Tokenizer

    path = run.tokenizer / "tokenizer.json"
    written = run_folder.read_text(path)
    try:
        with panics_as_errors():
            return Tokenizer.from_str(written)
    except Exception as error:  # the library's own kind of error is a bare Exception
        raise BadInput(f"{path}: no tokenizer ({last_line(error)})") from None


def _mask_of(run: Run, tokenizer: Tokenizer) -> int:
    path = run.tokenizer / "tokenizer_config.json"
    token: Any = run_folder.read_json(path).get("mask_token")
    token = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if found is None:
        raise BadInput(f"{path}: names no mask token")
    return found

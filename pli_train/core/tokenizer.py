"""Load tokenizers safely, in training, evaluation and analysis.

A tokenizer's files may set truncation, padding and a post-processor. They are not applied here: texts are neither
truncated nor padded, and no special tokens are added. Code that joins documents adds one end token to each.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput, PliError, first_line, panics_as_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pli_train.core.texts.reading import Segment

JSON, SETTINGS = "tokenizer.json", "tokenizer_config.json"
SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
"""Vocabularies of the sentencepiece library."""
VOCABULARIES = (JSON, "vocab.txt", "vocab.json", *SENTENCEPIECE)
"""Files that identify a tokenizer: a folder needs one of them."""
BESIDE = (SETTINGS, "special_tokens_map.json", "added_tokens.json", "merges.txt", "config.json")
"""Further files of a tokenizer."""
BATCH = 256
"""Maximum number of texts tokenized together."""
MOST = 2**22
"""Maximum number of characters tokenized together, unless one text is longer."""
LARGEST = 2**28
"""Maximum size of a tokenizer's file in bytes."""
USUAL = {
    "eos_token": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"),
    "sep_token": ("[SEP]",),
    "mask_token": ("[MASK]", "<mask>", "<|mask|>"),
    "pad_token": ("[PAD]", "<pad>", "<|pad|>"),
}
"""Usual names of special tokens, for a tokenizer.json without a file that names them."""


def load(name_or_path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder, a tokenizer.json, or a name on the Hugging Face hub.

    Raises:
        BadInput: if the folder or file is not a tokenizer.
        PliError: if the hub cannot be reached or has no such tokenizer.
    """
    from transformers import AutoTokenizer

    path = Path(name_or_path).expanduser()
    if path.exists():
        return local(path)
    try:
        with panics_as_errors():
            return _without_settings(AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False))
    except Exception as error:  # tokenizers raises Exception itself, and transformers any class
        raise PliError(
            f"'{name_or_path}' is no local tokenizer and could not be loaded from the hub ({first_line(error)})"
        ) from None


def local(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local folder or tokenizer.json. Raises BadInput if it is not a tokenizer."""
    from transformers import AutoTokenizer

    with _staging_folder(path) as (folder, files):
        names = [name for name in files if name in VOCABULARIES]
        where = path if path.is_file() else path / names[0]
        if set(names) <= set(SENTENCEPIECE) and not has_sentencepiece():
            raise BadInput(
                f"{where}: reading it needs the sentencepiece library: pip install sentencepiece protobuf; or convert "
                f"it to {JSON} where that is installed (AutoTokenizer.from_pretrained, then save_pretrained)"
            )
        try:
            with panics_as_errors():
                tokenizer = _without_settings(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        except Exception as error:  # as above
            raise BadInput(f"{where}: not a tokenizer ({first_line(error)})") from None
        tokenizer.name_or_path = str(path)  # not the temporary folder
    if SETTINGS not in files:
        _name_special_tokens(tokenizer)
    return tokenizer


def files_of(path: Path) -> list[Path]:
    """Return the files of a tokenizer; empty if a folder has none. A tokenizer.json represents its folder."""
    if path.is_file() and path.name != JSON:
        return [path]
    folder = path.parent if path.is_file() else path
    files = [folder / name for name in (*VOCABULARIES, *BESIDE) if (folder / name).is_file()]
    return files if any(file.name in VOCABULARIES for file in files) else []


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, without truncation, padding or special tokens."""
    encoding = tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)
    return encoding["input_ids"]


def ids_of(tokenizer: PreTrainedTokenizerBase, segments: Iterable[Segment]) -> Iterator[tuple[list[int], bool]]:
    """Yield the token ids of each segment in order, and whether it is the last one of its document."""
    for batch in _batches(segments):
        for segment, ids in zip(batch, encode(tokenizer, [segment.text for segment in batch]), strict=True):
            yield ids, segment.last


def _batches(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    length = 0
    for segment in segments:
        if batch and (len(batch) == BATCH or length + len(segment.text) > MOST):
            yield batch
            batch, length = [], 0
        batch.append(segment)
        length += len(segment.text)
    if batch:
        yield batch


def size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the vocabulary size that a model needs: the largest id plus one, as a vocabulary may have gaps."""
    return max(len(tokenizer), *(id + 1 for id in tokenizer.get_vocab().values()))


def end_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token that ends a document; None if the tokenizer has none."""
    end: Any = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return end


def masking_rule(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, list[int]]:
    """Return the mask token, the vocabulary size and the special tokens, as `core.masking.masked` takes them."""
    mask: Any = tokenizer.mask_token_id
    return mask, size(tokenizer), sorted(tokenizer.all_special_ids)


# --- loading --------------------------------------------------------------------------------------------------------


@contextmanager
def _staging_folder(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Copy a tokenizer's files into a temporary folder without settings; yield the folder and the names."""
    originals = files_of(path)
    if not originals:
        raise BadInput(f"{path}: holds no tokenizer, none of {', '.join(VOCABULARIES)}")
    with tempfile.TemporaryDirectory(prefix="pli-tokenizer-") as staged:
        names = []
        for file in originals:
            name = JSON if path.is_file() and file == path else file.name
            names.append(name)
            try:
                if file.stat().st_size > LARGEST:
                    raise BadInput(f"{file}: has more than {LARGEST} bytes, too many for a tokenizer")
                shutil.copyfile(file, Path(staged) / name)
            except OSError as error:
                raise BadInput(f"{file}: cannot be read ({error.strerror})") from None
        if JSON in names:
            _remove_settings(Path(staged) / JSON, path if path.is_file() else path / JSON)
        elif SETTINGS not in names and "config.json" not in names:
            (Path(staged) / SETTINGS).write_text(json.dumps(_default_settings(Path(staged))))
        yield staged, names


def _remove_settings(file: Path, original: Path) -> None:
    """Remove truncation and padding from a tokenizer.json; transformers would add a token for padding."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{original}: not readable as JSON ({error})") from None
    if isinstance(document, dict) and (document.get("truncation") or document.get("padding")):
        file.write_text(json.dumps(document | {"truncation": None, "padding": None}), encoding="utf-8")


def _default_settings(folder: Path) -> dict[str, Any]:
    """Return settings for a vocabulary without a settings file, by the names of its files."""
    words = folder / "vocab.txt"
    if words.is_file():
        tokens = words.read_text(encoding="utf-8", errors="replace").splitlines()
        is_cased = any(token != token.lower() for token in tokens if not token.startswith("["))
        return {"tokenizer_class": "BertTokenizer", "do_lower_case": not is_cased}
    if (folder / "vocab.json").is_file():
        is_roberta = '"<mask>"' in (folder / "vocab.json").read_text(encoding="utf-8", errors="replace")
        return {"tokenizer_class": "RobertaTokenizer" if is_roberta else "GPT2Tokenizer"}
    return {"tokenizer_class": "T5Tokenizer" if (folder / "spiece.model").is_file() else "LlamaTokenizer"}


def _without_settings(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.no_truncation()
        backend.no_padding()
    return tokenizer


def _name_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    known = tokenizer.get_vocab()
    for role, words in USUAL.items():
        if getattr(tokenizer, role, None) is None and (word := next((w for w in words if w in known), None)):
            setattr(tokenizer, role, word)


def has_sentencepiece() -> bool:
    """Whether the package sentencepiece is installed."""
    from importlib.util import find_spec

    return find_spec("sentencepiece") is not None

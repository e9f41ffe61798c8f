"""Load tokenizers safely, the same way in training, evaluation and analysis.

A tokenizer's files may keep a truncation, a padding and a post-processor, which serve other uses: nothing is cut,
filled up or put around a text here. Documents are closed by one end token, by whoever joins them.
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
"""Files each of which makes a folder a tokenizer's."""
BESIDE = (SETTINGS, "special_tokens_map.json", "added_tokens.json", "merges.txt", "config.json")
"""Files that say more of one."""
BATCH = 256
"""Texts that are tokenized together, at most."""
MOST = 2**22
"""Characters that are, unless one text alone has more."""
LARGEST = 2**28
"""Bytes of such a file, at most."""
USUAL = {
    "eos_token": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"),
    "sep_token": ("[SEP]",),
    "mask_token": ("[MASK]", "<mask>", "<|mask|>"),
    "pad_token": ("[PAD]", "<pad>", "<|pad|>"),
}
"""What special tokens are called where a tokenizer.json comes without the file that names them."""


def load(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, a tokenizer.json, or a name on the hub.

    Raises:
        BadInput: when a folder or file here is none.
        PliError: when the hub cannot be reached, or has none.
    """
    from transformers import AutoTokenizer

    path = Path(name_or_path).expanduser()
    if path.exists():
        return local(path)
    try:
        with panics_as_errors():
            return _without_settings(AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False))
    except Exception as error:  # the tokenizers library raises that very class, and transformers what comes
        raise PliError(
            f"'{name_or_path}' is no tokenizer's folder or file here and could not be loaded from the hub "
            f"({first_line(error)})"
        ) from None


def local(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder on this machine, or of a tokenizer.json. Raises BadInput when it is none."""
    from transformers import AutoTokenizer

    with _staged(path) as (folder, files):
        names = [name for name in files if name in VOCABULARIES]
        where = path if path.is_file() else path / names[0]
        if set(names) <= set(SENTENCEPIECE) and not _has_sentencepiece():
            raise BadInput(
                f"{where}: reading it needs the sentencepiece library: pip install sentencepiece protobuf; or make a "
                f"{JSON} of it where that is installed (AutoTokenizer.from_pretrained, then save_pretrained)"
            )
        try:
            with panics_as_errors():
                found = _without_settings(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        except Exception as error:  # as above
            raise BadInput(f"{where}: no tokenizer ({first_line(error)})") from None
        found.name_or_path = str(path)  # not the place that is gone by now
    if SETTINGS not in files:
        _name_special_tokens(found)
    return found


def files_of(path: Path) -> list[Path]:
    """The files that make a tokenizer; none when a folder has none. A tokenizer.json stands for its folder."""
    if path.is_file() and path.name != JSON:
        return [path]
    folder = path.parent if path.is_file() else path
    found = [folder / name for name in (*VOCABULARIES, *BESIDE) if (folder / name).is_file()]
    return found if any(file.name in VOCABULARIES for file in found) else []


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text as it stands: nothing cut, filled up or put around it."""
    found = tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)
    return found["input_ids"]


def ids_of(tokenizer: PreTrainedTokenizerBase, segments: Iterable[Segment]) -> Iterator[tuple[list[int], bool]]:
    """The ids of each piece of documents in order, and whether it ends one."""
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
    """How many ids a model has to know: one more than the greatest, as a vocabulary may have gaps."""
    return max(len(tokenizer), *(id + 1 for id in tokenizer.get_vocab().values()))


def end_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that closes a document; None where none is named."""
    end: Any = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return end


def masking_rule(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, list[int]]:
    """For `core.masking.masked`: the mask token, how many tokens there are, and those that are never chosen."""
    mask: Any = tokenizer.mask_token_id
    return mask, size(tokenizer), sorted(tokenizer.all_special_ids)


# --- loading --------------------------------------------------------------------------------------------------------


@contextmanager
def _staged(path: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder of its own with a tokenizer's files as we want them, and their names."""
    found = files_of(path)
    if not found:
        raise BadInput(f"{path}: holds no tokenizer, none of {', '.join(VOCABULARIES)}")
    with tempfile.TemporaryDirectory(prefix="pli-tokenizer-") as position:
        names = []
        for file in found:
            name = JSON if path.is_file() and file == path else file.name
            names.append(name)
            try:
                if file.stat().st_size > LARGEST:
                    raise BadInput(f"{file}: has more than {LARGEST} bytes, too many for a tokenizer")
                shutil.copyfile(file, Path(position) / name)
            except OSError as error:
                raise BadInput(f"{file}: cannot be read ({error.strerror})") from None
        if JSON in names:
            _without_kept(Path(position) / JSON, path if path.is_file() else path / JSON)
        elif SETTINGS not in names and "config.json" not in names:
            (Path(position) / SETTINGS).write_text(json.dumps(_guessed(Path(position))))
        yield position, names


def _without_kept(file: Path, message: Path) -> None:
    """Take truncation and padding out of a tokenizer.json: for a padding transformers would even add a token."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{message}: not readable as JSON ({error})") from None
    if isinstance(document, dict) and (document.get("truncation") or document.get("padding")):
        file.write_text(json.dumps(document | {"truncation": None, "padding": None}), encoding="utf-8")


def _guessed(folder: Path) -> dict[str, Any]:
    """Settings for a vocabulary that comes without any: BERT's `vocab.txt`, or `vocab.json` with `merges.txt`."""
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


def _has_sentencepiece() -> bool:
    from importlib.util import find_spec

    return find_spec("sentencepiece") is not None

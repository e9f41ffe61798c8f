"""Export a run's last model as a Hugging Face folder with a model card.

A checkpoint's weights already have the format of transformers, so they are copied unchanged and compared with the
checkpoint's hashes. All text from users, configs and corpora is escaped in the card.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.core import anatomy, output
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Event, Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.safe_model import AUTO_CLASS

if TYPE_CHECKING:
    from collections.abc import Callable

CARD = "README.md"
DEFAULT = "export"
"""Default folder of an export within the run's folder."""

STATE = {run_folder.MANIFEST, run_folder.OPTIMIZER, run_folder.TRAINER_STATE}
"""Files of a checkpoint that are only needed to resume training."""

PIPELINES = {"causal-lm": "text-generation", "masked-lm": "fill-mask", "image-classification": "image-classification"}
COUNTS = {
    "train_tokens": "training tokens",
    "eval_tokens": "held-out tokens",
    "vocabulary": "vocabulary",
    "train_images": "training images",
    "eval_images": "held-out images",
    "classes": "classes",
}
"""Keys of the corpus's size in a run's record → words in the card."""

SHOWN_ELSEWHERE = ("layer", "initializer", "donor", "index")
"""Facts of an event that have their own column or can be read from its stack."""


def export(
    run: Path,
    out: Path | None = None,
    checkpoint: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write one checkpoint of a run as a model folder, atomically.

    Args:
        run: folder of the run.
        out: the folder to make; by default `export` in the run's folder.
        checkpoint: name of the checkpoint; by default the last complete one that is not just before an event.
        say: function that is called with a line about the checkpoint and about skipped damaged ones.

    Returns:
        The new folder.

    Raises:
        BadInput: if the folder exists, or the run's checkpoint is missing or damaged.
        PliError: if the disk is full or fails.
    """
    run_folder.require_run(run)
    final = out or run / DEFAULT
    if final.exists() or final.is_symlink():
        raise BadInput(f"{final}: already exists; name another folder, or remove it first")
    source = run_folder.checkpoint_of(run, checkpoint, say)
    say(f"model: {source}")
    try:
        with output.folder(final) as partial:
            _copy(source, partial)
            for path in _tokenizer_files(run):
                shutil.copyfile(path, partial / path.name)
            (partial / CARD).write_text(card(run, source), encoding="utf-8")
    except OSError as error:
        raise output.refusal(final, error) from None
    return final


def _copy(source: Path, partial: Path) -> None:
    """Copy the model's files and the lineage. Raises BadInput if a file does not match its hash."""
    for name, entry in run_folder.read_json(source / run_folder.MANIFEST)["files"].items():
        if name in STATE:
            continue
        shutil.copyfile(source / name, partial / name)
        with (partial / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.get("sha256"):
                raise BadInput(f"{source}: its {name} has changed (its hash differs)")


def _tokenizer_files(run: Path) -> Iterator[Path]:
    folder = run / run_folder.TOKENIZER
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_file() and path.name != CARD)
    elif _reads_text(run_folder.read_json(run / run_folder.RUN)):
        raise BadInput(f"{run}: holds no {run_folder.TOKENIZER} folder")


def _reads_text(record: dict[str, Any]) -> bool:
    return "train_images" not in _table(record, "corpus")


# --- the card -------------------------------------------------------------------------------------------------------


def card(run: Path, checkpoint: Path) -> str:
    """Return the model card of a checkpoint, as Markdown with YAML front matter.

    Raises:
        BadInput: if the run's record, the config or the lineage cannot be read.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pli_train.commands", ""),
        finalize=_inserted,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("model_card.md").render(_content(run, checkpoint))


class _Safe(str):
    """Text that is already escaped or needs no escaping."""


def _inserted(value: Any) -> str:
    """Return the text for a value in the template's `{{ … }}`."""
    return value if isinstance(value, _Safe) else escape("" if value is None else str(value))


def escape(text: str) -> str:
    r"""Escape text for one line of Markdown, also inside a table.

    >>> print(escape("a|b <b>*c*\n# d"))
    a\|b \<b\>\*c\* \# d
    """
    line = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", " ".join(line.split()))


def _content(run: Path, checkpoint: Path) -> dict[str, Any]:
    """Return the values for the template, unescaped; the template escapes them."""
    record = run_folder.read_record(run)
    config = run_folder.read_json(checkpoint / run_folder.CONFIG)
    lineage = Lineage.read(checkpoint / run_folder.LINEAGE)
    model_type = str(config.get("model_type"))
    task = anatomy.family(model_type).task if model_type in anatomy.families() else None
    settings = _table(record, "config")
    return {
        "name": record.get("name") or run.name,
        "about": str(settings.get("description") or "").rstrip("."),
        "model_type": model_type,
        "auto_class": _Safe(AUTO_CLASS[task] if task else "AutoModel"),
        "text": _reads_text(record),
        "metadata": _Safe(_metadata(model_type, task)),
        "first": [id for id, layer in lineage.layers.items() if layer.birth.event is None],
        "events": [_event(event) for event in lineage.events],
        "layers": [_layer(index, id, lineage) for index, id in enumerate(lineage.stack)],
        "padded": _is_padded(config, lineage),
        "tables": {
            "Data": _data(record),
            "Figures": _figures(run_folder.read_json(checkpoint / run_folder.TRAINER_STATE)),
            "Hyper-parameters": {
                key: _without_folders(value)
                for key, value in run_folder.flatten(settings).items()
                if value is not None and value != ""
            },
            "Versions": _table(record, "versions"),
        },
    }


def _metadata(model_type: str, task: str | None) -> str:
    """Return the card's YAML front matter, which the hub uses for its listing."""
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINES.get(task or ""),
        tags=[model_type, "pli", "growth", "progressive-training"],
    )
    return metadata.to_yaml()


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key)
    return table if isinstance(table, dict) else {}


def _without_folders(value: Any) -> Any:
    """Shorten an absolute path to its last two parts, because cards are published and paths may be private."""
    is_path = isinstance(value, str) and Path(value).is_absolute()
    return "/".join(Path(value).parts[1:][-2:]) if is_path else value


def _event(event: Event) -> dict[str, Any]:
    facts = {key: value for key, value in event.facts.items() if value is not None}
    further = ", ".join(f"{key} {_words(value)}" for key, value in facts.items() if key not in SHOWN_ELSEWHERE)
    columns = {key: facts.get(key) for key in ("layer", "initializer", "donor")}
    numbers = {"number": event.number, "step": event.step, "operator": event.operator}
    return {**columns, **numbers, "further": further, "stack": " ".join(event.stack)}


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _layer(index: int, id: str, lineage: Lineage) -> dict[str, Any]:
    birth, (heads, units) = lineage.layers[id].birth, lineage.shape(id)
    origin = {"step": birth.step, "initializer": birth.initializer, "donor": birth.donor}
    return {"index": index, "id": id, **origin, "heads": heads or None, "units": units}


def _is_padded(config: dict[str, Any], lineage: Lineage) -> bool:
    """Return whether some layers are padded to more heads or FFN units than the lineage records."""
    shapes = lineage.shapes()
    if len(set(shapes)) > 1:
        return True
    model_type = str(config.get("model_type"))
    heads = anatomy.family(model_type).sizes(config)["head"] if model_type in anatomy.families() else 0
    return any(0 < own < heads for own, _ in shapes)


def _data(record: dict[str, Any]) -> dict[str, Any]:
    corpus, parent = _table(record, "corpus"), _table(record, "parent")
    begun = " ".join(str(_without_folders(part)) for part in (parent.get("path"), parent.get("checkpoint")) if part)
    rows = {
        "corpus": corpus.get("about"),
        "fingerprint": corpus.get("fingerprint"),
        **{COUNTS[what]: _number(corpus.get(what)) for what in COUNTS},
        "initial weights from": begun or None,
    }
    return {what: value for what, value in rows.items() if value is not None}


def _figures(state: dict[str, Any]) -> dict[str, Any]:
    history = state.get("log_history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    losses = [entry["eval_loss"] for entry in entries if "eval_loss" in entry]
    counters = _table(_table(state, "stateful_callbacks"), "pli_train")
    rows = {
        "held-out loss, nats per prediction": _number(losses[-1] if losses else None),
        "steps": _number(state.get("global_step")),
        "steps of the whole run": _number(state.get("max_steps")),
        "tokens seen": _number(counters.get("tokens")),
        "FLOPs": _number(float(counters["flops"]) if isinstance(counters.get("flops"), int) else None),
        "seconds of training": _number(counters.get("seconds")),
    }
    return {what: value for what, value in rows.items() if value is not None}


def _number(value: object) -> str | None:
    """Return a number formatted for people; None if the value is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

"""Train a tiny model with Hugging Face's Trainer, without callbacks of this project."""

import string

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

from tests import families
from tests.pli_train.integrations.test_hugging_face import data

STEPS, EVERY = 12, 4


def tokenizer():
    """Return a tokenizer with one token per character."""
    letters = ["[PAD]", "[BOS]", "[EOS]", "[MASK]", " ", "\n", *string.ascii_lowercase, *string.digits, *"()_.,:=\"'"]
    characters = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate(letters)}, unk_token="[MASK]"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="[PAD]", mask_token="[MASK]")


def train(folder, family="gpt2", model=None, **more):
    """Train `model`, or a new tiny one of the family; save every few steps and log to event files."""
    set_seed(0)
    settings = {"max_steps": STEPS, "save_steps": EVERY, "logging_steps": 2, "learning_rate": 1e-2} | more
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        report_to=settings.pop("report_to", "tensorboard"),
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    trained = model if model is not None else families.tiny(family)
    Trainer(trained, args, train_dataset=data(), processing_class=tokenizer()).train()
    return folder

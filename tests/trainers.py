"""Hugging Face's Trainer on tiny models: what it leaves behind without any of our callbacks, and one to add them to."""

import string

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

from tests import families

STEPS, EVERY = 12, 4


def tokenizer():
    """Return a tokenizer with one token per character."""
    letters = ["[PAD]", "[BOS]", "[EOS]", "[MASK]", " ", "\n", *string.ascii_lowercase, *string.digits, *"()_.,:=\"'"]
    characters = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate(letters)}, unk_token="[MASK]"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="[PAD]", mask_token="[MASK]")


def data(count=40):
    """Blocks of random tokens."""
    generator = torch.Generator().manual_seed(5)
    blocks = torch.randint(3, families.VOCABULARY, (count, 12), generator=generator)
    return [{"input_ids": block, "labels": block} for block in blocks]


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


def trainer_of(family, folder, growth=None, on_progress=None, model=None, **more):
    """A Trainer of ten steps that saves at each, two batches to a step."""
    set_seed(0)
    settings = {"max_steps": 10, "save_steps": 1, "learning_rate": 1e-2, "warmup_steps": 3, "data_seed": 7} | more
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    callbacks = [each for each in (growth, on_progress) if each is not None]
    return Trainer(model or families.tiny(family), args, train_dataset=data(), callbacks=callbacks)

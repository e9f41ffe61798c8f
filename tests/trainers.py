"""What Hugging Face's Trainer leaves behind, without any of our callbacks: a real training of a tiny model."""

import string

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

from tests import families
from tests.pli_train.integrations.test_hugging_face import data

STEPS, EVERY = 12, 4


def tokenizer():
    """One token a character."""
    letters = ["[PAD]", "[BOS]", "[EOS]", "[MASK]", " ", "\n", *string.ascii_lowercase, *string.digits, *"()_.,:=\"'"]
    made = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate(letters)}, unk_token="[MASK]"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", mask_token="[MASK]")


def train(folder, family="gpt2", model=None, **more):
    """Train, save every few steps, and log to event files; the model, or a new tiny one of the family."""
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
    made = model if model is not None else families.tiny(family)
    Trainer(made, args, train_dataset=data(), processing_class=tokenizer()).train()
    return folder

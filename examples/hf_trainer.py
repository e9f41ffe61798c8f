"""A Hugging Face Trainer script as people have it, with one line added: the model grows from 2 layers to 4.

    python examples/hf_trainer.py [--steps 150] [--output hf-run] [--resume]

A small GPT-2 learns the bytes of this interpreter's standard library: nothing is downloaded, and a laptop's CPU is
enough. A run that was stopped goes on with --resume.
"""

import argparse
import sysconfig
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, default_data_collator, set_seed

from pli_train.integrations import GrowthCallback

BLOCK = 64


def blocks(files: list[Path]) -> list[dict[str, torch.Tensor]]:
    """The files' bytes in blocks: a token is a byte."""
    text = b"\n".join(path.read_bytes() for path in files)
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return [{"input_ids": block, "labels": block} for block in tokens.split(BLOCK) if len(block) == BLOCK]


def main() -> None:
    """Train, and say what became of the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", default="hf-run")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of --output")
    arguments = parser.parse_args()

    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    training, evaluation = blocks(library[:60]), blocks(library[60:64])[:128]

    set_seed(0)
    config = GPT2Config(
        vocab_size=256, n_positions=BLOCK, n_embd=64, n_head=4, n_layer=2, bos_token_id=0, eos_token_id=0
    )
    args = TrainingArguments(
        output_dir=arguments.output,
        max_steps=arguments.steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        logging_steps=max(arguments.steps // 10, 1),
        save_steps=max(arguments.steps // 3, 1),
        report_to="none",
        use_cpu=True,
        seed=0,
    )
    growth = GrowthCallback("0.25@1 0.5@2", initializer="identity")  # the added line
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=args,
        train_dataset=training,
        eval_dataset=evaluation,
        data_collator=default_data_collator,
        callbacks=[growth],
    )
    trainer.train(resume_from_checkpoint=growth.prepared(trainer) if arguments.resume else None)

    print(f"layers, bottom to top: {growth.lineage}")
    for event in growth.lineage.events:
        print(f"  {event}")
    print(f"evaluation loss: {trainer.evaluate()['eval_loss']:.3f} nats a byte")


if __name__ == "__main__":
    main()

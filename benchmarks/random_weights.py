"""A checkpoint's architecture and tokenizer with random weights: what is its language worth?

    python benchmarks/random_weights.py CHECKPOINT OUT [--seed N]

OUT is a Hugging Face folder like CHECKPOINT whose weights transformers has drawn as before a training. A recipe that
trains on both tells what the pre-training adds (`language_worth.py`).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from corella_edge.atomic import new_folder
from corella_edge_export.llm.model import checkpoint_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write(options.checkpoint, options.out, options.seed)


def write(checkpoint: Path, out: Path, seed: int) -> None:
    """The folder `out`, complete or not at all. Raises InputError."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(checkpoint_config(checkpoint))
    with new_folder(out) as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        for file in checkpoint.glob("*token*"):
            shutil.copyfile(file, folder / file.name)


if __name__ == "__main__":
    main()

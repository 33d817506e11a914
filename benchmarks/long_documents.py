"""Peak memory of one training step of late interaction on long documents.

    python benchmarks/long_documents.py [--batch 32] [--tokens 8192] [--query-tokens 128]

A tiny BERT (1 layer, 32 numbers, projected to 128) is built and trained for one step of contrastive loss, in
mini-batches of one text, on synthetic texts: every query is scored with its positive, its negative and those of all
others. The step runs in a process of its own, whose largest resident size is printed beside its size before training,
and beside the size that one float32 tensor of all similarities of the batch would have.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _hardware import describe_hardware

WORDS = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("a", "en", "il", "om", "ut", "ar", "es")]


def make_trunk(folder: Path, tokens: int) -> None:
    """Write a random BERT that reads so many tokens."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.model_max_length = tokens
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=tokens, **sizes)).save_pretrained(folder)


def make_collection(folder: Path, options: argparse.Namespace) -> None:
    """Write training rows: a query, a positive and a negative each, as long as the limits."""
    draw = random.Random(0)

    def text(tokens: int) -> str:
        return " ".join(draw.choices(WORDS, k=tokens))

    folder.mkdir()
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(options.batch):
            row = {"query": text(options.query_tokens), "positive": text(options.tokens)}
            file.write(json.dumps({**row, "negative": text(options.tokens)}) + "\n")


def step(place: Path, options: argparse.Namespace) -> None:
    """Train one step in this process, and print its memory."""
    from hyperseek.training import Recipe, train

    recipe = Recipe.from_mapping(
        {
            "model": {
                "trunk": str(place / "trunk"),
                "family": "late",
                "late": {"dimension": 128},
                "query_length": options.query_tokens,
                "document_length": options.tokens,
            },
            "data": {"sources": {"long": {"source": f"columns:{place}/data/rows.jsonl"}}, "negatives": 1},
            "losses": {"contrastive": {"temperature": 1.0}},
            "train": {
                "trunk": "full",
                "max_steps": 1,
                "batch_size": options.batch,
                "mini_batch": 1,
                "save_every": None,
                "device": "cpu",
                "precision": "float32",
            },
            "output": {"report_to": []},
        }
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    train(recipe, output=place / "run")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"before": before / 2**20, "peak": after / 2**20, "seconds": time.perf_counter() - start}))


def main() -> None:
    """Print the table, or with `--place` train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--query-tokens", type=int, default=128)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.place:
        step(options.place, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_trunk(place / "trunk", options.tokens)
        make_collection(place / "data", options)
        command = [sys.executable, __file__, *sys.argv[1:], "--place", str(place)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    scores = options.batch * 2 * options.batch * options.query_tokens * options.tokens * 4 / 2**30
    print(f"{describe_hardware()}\n")
    print("| before, GiB | peak, GiB | one tensor of similarities, GiB | whole run, s |\n|---|---|---|---|")
    print(f"| {found['before']:.2f} | {found['peak']:.2f} | {scores:.1f} | {found['seconds']:.0f} |")


if __name__ == "__main__":
    main()

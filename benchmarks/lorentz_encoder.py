"""The fully hyperbolic encoder beside a BERT of as many layers, coordinates, heads and feed-forward units.

    python benchmarks/lorentz_encoder.py [--lengths 64 256] [--texts 16] [--repeats 7]

New weights, random tokens, no padding; a forward pass without gradients, and one with the gradients of all weights. The
systems take turns. Prints the ratio of the rounds' times, by its median.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from transformers import BertConfig, BertModel

from _hardware import describe_hardware, median_ratio, take_turns
from hyperseek.models import LorentzEncoder, LorentzEncoderConfig

WORDS = 1000


def make(system: Literal["bert", "lorentz_inner", "distance"], **sizes: Any) -> nn.Module:
    """Return a new encoder: BERT, or the hyperbolic one with that form of attention scores."""
    if system == "bert":
        return BertModel(BertConfig(vocab_size=WORDS, **sizes), add_pooling_layer=False)
    return LorentzEncoder(LorentzEncoderConfig(vocab_size=WORDS, attention_scores=system, **sizes))


def forward(model: nn.Module, tokens: torch.Tensor) -> None:
    with torch.inference_mode():
        model(input_ids=tokens)


def backward(model: nn.Module, tokens: torch.Tensor) -> None:
    model(input_ids=tokens).last_hidden_state.square().mean().backward()
    model.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    print(describe_hardware())
    described = f"{arguments.layers} layers, {arguments.size} coordinates, {arguments.texts} texts"
    print(f"\n{described}; as multiples of BERT's time\n")
    print("| tokens | pass | BERT, ms | `lorentz_inner` | `distance` |\n|---|---|---|---|---|")
    passes: dict[str, Callable[[nn.Module, torch.Tensor], None]] = {"forward": forward, "and back": backward}
    for length in arguments.lengths:
        sizes = {
            "hidden_size": arguments.size,
            "num_hidden_layers": arguments.layers,
            "num_attention_heads": arguments.heads,
            "intermediate_size": 4 * arguments.size,
            "max_position_embeddings": length,
        }
        models = {system: make(system, **sizes) for system in ("bert", "lorentz_inner", "distance")}
        tokens = torch.randint(5, WORDS, (arguments.texts, length))
        for name, run in passes.items():
            for model in models.values():
                model.train(name != "forward")
            times = take_turns({key: functools.partial(run, m, tokens) for key, m in models.items()}, arguments.repeats)
            cells = [f"{1000 * statistics.median(times['bert']):.0f}"]
            cells += [f"{median_ratio(times[key], times['bert']):.2f}" for key in ("lorentz_inner", "distance")]
            print(f"| {length} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

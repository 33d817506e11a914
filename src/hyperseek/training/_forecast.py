"""What a training run would take, without training: steps, memory and time, part by part.

Activations are not guessed from a formula of an architecture: a few short texts go through the model, forward and
backward, and what that takes is laid out over the lengths and batches of the recipe. A layer's memory is linear in the
texts `n`, and in their tokens `T` of degree two at most, so three probes say all: `a + n (b T + c T^2)`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from hyperseek.data.lengths import every_nth, token_lengths
from hyperseek.models.retriever import SIDES, Side
from hyperseek.training._recipe import Recipe
from hyperseek.training._routes import TrainedPart
from hyperseek.training._trainer import TrainedStack
from hyperseek.training._training_set import TrainingSet
from hyperseek.training.losses import Objective

_SAMPLE = 500  # texts whose tokens are counted
_PROBE_TOKENS = 64
_PAIRS = 1 << 20  # pairs of query token and document that MaxSim's backward pass holds at a time
_PAIR_BYTES = 40
_FLOAT = 4
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would take.

    Attributes:
        lengths: By side: `limit` of the model, `longest` and `mean` of a sample of the texts as the model reads them.
        steps: Optimiser steps; None where only time ends the run.
        parts: What is trained.
        memory: Bytes by part. Not all are needed at the same moment, so they add up to more than the `peak`.
        peak: Bytes at the worst moment of a step, of tensors; the program itself comes on top.
        seconds: Of a step, by part.
    """

    lengths: dict[Side, dict[str, float]]
    steps: int | None
    parts: Sequence[TrainedPart]
    memory: dict[str, int]
    peak: int
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Cost:
    """Memory of one pass, forward and backward, of `n` texts of `T` tokens: `a + n (b T + c T^2)` bytes."""

    a: float
    b: float
    c: float
    output: float  # bytes of what a route ends with, a token or a text
    forward: float  # seconds of a token
    both: float

    def bytes(self, texts: int, tokens: float) -> int:
        return round(self.a + texts * (self.b * tokens + self.c * tokens**2))


def forecast(
    recipe: Recipe,
    stack: TrainedStack,
    training_set: TrainingSet,
    objective: Objective,
    parts: Sequence[TrainedPart],
    *,
    queries: int,
    steps: int | None,
) -> Forecast:
    """Say what a run would take.

    Args:
        recipe: Says how much goes through the model at once.
        stack: The model, with what is to be trained switched on.
        training_set: Its texts say how long they are.
        objective: The losses.
        parts: What is trained, for the result.
        queries: Of the largest batch.
        steps: Of the run, for the result.

    Returns:
        The forecast.
    """
    retriever, config = stack.retriever, recipe.train
    coarse = objective.needs_coarse and any(example.coarse for example in training_set.examples)
    documents = queries * (1 + recipe.data.negatives + coarse) + recipe.data.extra_documents
    counts: dict[Side, int] = {"query": queries, "document": min(documents, len(training_set.documents))}
    lengths = {side: _lengths(stack, training_set, side) for side in SIDES}
    probes = {side: _probe(stack, _sample(training_set, side), side, lengths[side], config.precision) for side in SIDES}
    longest = {side: lengths[side]["longest"] for side in SIDES}
    part = {side: counts[side] if config.mini_batch is None else min(config.mini_batch, counts[side]) for side in SIDES}
    working = {side: _largest_part(probes[side], counts[side], part[side], lengths[side]) for side in SIDES}
    per_text = retriever.space.ragged
    outputs = {side: counts[side] * probes[side].output * (longest[side] if per_text else 1) for side in SIDES}
    embeddings = round(sum(outputs.values()))
    seekers = counts["query"] * (longest["query"] if per_text else 1)
    pairs = seekers * counts["document"]
    scores = round(2 * _FLOAT * pairs + (min(pairs, _PAIRS) * _PAIR_BYTES if per_text else _FLOAT * pairs))

    modules = nn.ModuleList([stack, objective])
    trained = sum(parameter.numel() for parameter in modules.parameters() if parameter.requires_grad)
    weights = _bytes([*modules.parameters(), *modules.buffers()])
    gradients = _bytes([parameter for parameter in modules.parameters() if parameter.requires_grad])
    optimiser = trained * 2 * (1 if config.optimizer == "adamw_8bit" else _FLOAT)
    cached = {side: part[side] < counts[side] for side in SIDES}
    kept = sum(working[side] for side in SIDES if not cached[side])
    again = max((working[side] for side in SIDES if cached[side]), default=0)
    # While scores are computed: vectors as the model leaves them and without padding, and the gradients of both. Then,
    # part by part, activations beside the gradient of all vectors.
    scoring = kept + 4 * embeddings + scores
    encoding = kept + again + embeddings
    memory = {
        "weights": weights,
        "weights at the start": gradients,
        "gradients": gradients,
        "optimiser": optimiser,
        "activations": kept + again,
        "cached embeddings": 4 * embeddings,
        "score blocks": scores,
    }
    seconds: dict[str, float] = {}
    for side, name in zip(SIDES, ("queries", "documents"), strict=True):
        tokens = counts[side] * lengths[side]["mean"]
        repeated = probes[side].forward if cached[side] else 0.0
        seconds[name] = tokens * (probes[side].both + repeated) * config.gradient_accumulation
    seconds["scores"] = _scoring_seconds(stack, training_set, counts, lengths) * config.gradient_accumulation
    seconds["optimiser"] = _optimiser_seconds(trained, retriever.device)
    return Forecast(
        lengths=lengths,
        steps=steps,
        parts=parts,
        memory=memory,
        peak=weights + 2 * gradients + optimiser + max(scoring, encoding),
        seconds=seconds,
    )


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Return how much more memory tensors have at the worst moment of some work than before it.

    Args:
        work: What is done.
        device: Where it allocates.

    Returns:
        Bytes, at least 0.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    # Else the profiler writes lines of its own to the terminal; it reads this when a process first uses it.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    results: Any = watched.profiler.kineto_results
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    present = highest = 0
    for _, change in changes:
        present += change
        highest = max(highest, present)
    return highest


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(each): each for each in tensors}.values())


def _sample(training_set: TrainingSet, side: Side) -> list[str]:
    return every_nth(training_set.queries if side == "query" else training_set.documents, _SAMPLE)


def _largest_part(cost: _Cost, count: int, size: int, lengths: Mapping[str, float]) -> int:
    """Return the bytes of the mini-batch that takes most: of rising length, the last of them need not be full."""
    others = (lengths["longest"] + lengths["mean"]) / 2
    return max(cost.bytes(count % size or size, lengths["longest"]), cost.bytes(size, others))


def _lengths(stack: TrainedStack, training_set: TrainingSet, side: Side) -> dict[str, float]:
    retriever = stack.retriever
    limit = retriever.max_length[side]
    expansion = getattr(retriever.route(side)[0], "query_expansion", None) if side == "query" else None
    most, least = limit or math.inf, 0 if expansion is None else expansion["length"]
    counted = [max(least, min(most, tokens)) for tokens in token_lengths(retriever, _sample(training_set, side), side)]
    return {"limit": most, "longest": max(counted), "mean": sum(counted) / len(counted)}


def _probe(
    stack: TrainedStack, texts: Sequence[str], side: Side, lengths: Mapping[str, float], precision: str
) -> _Cost:
    """Measure passes of few and short texts."""
    retriever, device = stack.retriever, stack.retriever.device
    start = stack.starts[side]
    long = " ".join(texts)

    def features(count: int, tokens: int) -> dict[str, Any]:
        found = retriever.preprocess([long] * count, side)
        width = found["input_ids"].shape[1] if "input_ids" in found else tokens
        cut = {
            name: value[:, : min(tokens, width)]
            if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == width
            else value
            for name, value in found.items()
        }
        with torch.no_grad():
            return retriever.forward(cut, side, stop=start) if start else cut

    def forward(given: dict[str, Any]) -> dict[str, Tensor]:
        dtype = _AUTOCAST.get(precision)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return stack._run(given, side)

    def both(given: dict[str, Any]) -> dict[str, Tensor]:
        found = forward(given)
        values = [value for value in found.values() if value.requires_grad]
        if values:
            torch.autograd.backward(values, [torch.ones_like(value) for value in values])
        return {name: value.detach() for name, value in found.items()}

    tokens = int(min(_PROBE_TOKENS, lengths["longest"]))
    half = max(1, tokens // 2)
    was = stack.training
    stack.train()
    try:
        # Once in advance, for gradients to be there.
        ended = both(features(2, tokens))
        peaks = {}
        for count, width in ((1, tokens), (3, tokens), (3, half)):
            given = features(count, width)
            peaks[count, width] = peak_bytes(lambda: both(given), device)  # noqa: B023
        timed = features(4, tokens)
        seconds = [min(_seconds(lambda: work(timed), device) for _ in range(2)) for work in (forward, both)]  # noqa: B023
    finally:
        stack.train(was)
        stack.zero_grad(set_to_none=True)
    each = (peaks[3, tokens] - peaks[1, tokens]) / 2
    shared = peaks[1, tokens] - each
    less = (peaks[3, half] - shared) / 3
    # each = b T + c T^2 at two lengths
    square = 0.0 if half == tokens else max(0.0, (each / tokens - less / half) / (tokens - half))
    linear = each / tokens - square * tokens
    floats = [value for value in ended.values() if value.is_floating_point()]
    width = sum(value.numel() for value in floats) * _FLOAT
    output = width / (2 * tokens) if any(value.ndim > 2 for value in floats) else width / 2
    return _Cost(shared, linear, square, output, *(took / (4 * tokens) for took in seconds))


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _scoring_seconds(
    stack: TrainedStack,
    training_set: TrainingSet,
    counts: Mapping[Side, int],
    lengths: Mapping[Side, Mapping[str, float]],
) -> float:
    """Score a few texts, and scale by pairs of texts and their tokens; a backward pass counts as two forward ones."""
    retriever = stack.retriever
    few = {side: _sample(training_set, side)[:8] for side in SIDES}
    with torch.no_grad():
        scorer = retriever.compile(few["query"])
        points = retriever.encode_documents(few["document"], dtype="float32").to(retriever.device)
        scorer.score(points)
        took = _seconds(lambda: scorer.score(points), retriever.device)
    scale = 1.0
    for side in SIDES:
        tokens = 1.0
        if retriever.space.ragged:
            counted = token_lengths(retriever, few[side], side)
            tokens = lengths[side]["mean"] / max(1.0, min(lengths[side]["limit"], sum(counted) / len(counted)))
        scale *= counts[side] / len(few[side]) * tokens
    return 3 * took * scale


def _optimiser_seconds(trained: int, device: torch.device) -> float:
    weight = nn.Parameter(torch.zeros(1 << 20, device=device))
    weight.grad = torch.zeros_like(weight)
    optimiser = torch.optim.AdamW([weight])
    optimiser.step()
    return min(_seconds(lambda: optimiser.step(), device) for _ in range(3)) * trained / weight.numel()

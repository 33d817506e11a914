"""Cross-device negatives: two processes learn what one with the whole batch does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hyperseek.scoring import LinearScorer, Space, VectorPoints
from hyperseek.training import ContrastiveConfig, Recipe, ScoredBatch, read_record, train
from hyperseek.training.losses import CoarseToFineConfig, CoarseToFineLoss, ContrastiveLoss
from programs import Programs

# Forks, so that the two processes share what they import.
_FORKED = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
from hyperseek.training import Recipe, train
from test_gather import LOSSES, batch_of, tensors, torch
children = []
for rank in (0, 1):
    child = os.fork()
    if child == 0:
        break
    children.append(child)
else:
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
"""

_PROCESS = """
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
results = []
for loss_of in LOSSES:
    queries, documents = (tensor.requires_grad_() for tensor in tensors())
    loss = loss_of(batch_of(queries, documents, half=rank))
    loss.backward()
    results.append([loss.detach(), queries.grad, documents.grad])
    for tensor in results[-1]:
        dist.all_reduce(tensor)
        tensor /= 2
torch.save(results, sys.argv[3] + str(rank))
dist.destroy_process_group()
"""

# Two queries for each process; document 2 is in both processes' batches, and 4 is also relevant to query 0.
NUMBERS = [[0, 1, 2], [2, 3, 4, 5]]
ITEMS = [[[0, 1], [1, 2]], [[1, 0], [2, 3]]]
KNOWN = [[[0, 4], [1, -1]], [[3, -1], [4, -1]]]
COARSE = [[2, -1], [0, 0]]
LOSSES = [
    ContrastiveLoss(ContrastiveConfig(temperature=0.7)),
    ContrastiveLoss(ContrastiveConfig(temperature=0.7, only_first_item=True)),
    CoarseToFineLoss(CoarseToFineConfig(temperature=0.7, alpha_segments=(0.4,), apart=0.5)),
]


def tensors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 5, generator=generator), torch.randn(6, 5, generator=generator)


def batch_of(queries: Tensor, documents: Tensor, half: int | None) -> ScoredBatch:
    """Return one process's batch, or the whole one."""
    if half is None:
        numbers = torch.arange(6)
        items = torch.tensor([[NUMBERS[r][place] for place in row] for r in (0, 1) for row in ITEMS[r]])
        known = torch.tensor(KNOWN[0] + KNOWN[1])
        coarse = torch.tensor([-1 if p < 0 else NUMBERS[r][p] for r in (0, 1) for p in COARSE[r]])
    else:
        queries = queries[2 * half : 2 * half + 2]
        numbers, items, known = torch.tensor(NUMBERS[half]), torch.tensor(ITEMS[half]), torch.tensor(KNOWN[half])
        coarse = torch.tensor(COARSE[half])
    return ScoredBatch(
        LinearScorer(Space("dot", 5), queries),
        VectorPoints(documents[numbers]),
        numbers,
        items,
        known,
        torch.full(items.shape, torch.nan),
        coarse=coarse,
    )


def run_two(programs: Programs, script: str, arguments: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a script in two processes, each of which knows its `rank`."""
    here = str(Path(__file__).parent)
    everything = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    process = programs.start(["-c", _FORKED + script, here, *arguments], env=everything)
    try:
        assert process.wait(200) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # each program has a group of its own


def check_losses(result: str) -> None:
    """Compare what two processes found with what one does."""
    for position, loss_of in enumerate(LOSSES):
        queries, documents = (tensor.requires_grad_() for tensor in tensors())
        loss = loss_of(batch_of(queries, documents, half=None))
        loss.backward()
        for rank in (0, 1):
            found = torch.load(f"{result}{rank}", weights_only=True)[position]
            for value, wanted in zip(found, (loss.detach(), queries.grad, documents.grad), strict=True):
                torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)


def test_one_process_gathers_nothing(make_batch: Callable[..., ScoredBatch]) -> None:
    batch = make_batch(torch.randn(2, 4))
    assert batch.across_devices() is batch


_TRAINING = """
train(Recipe.from_mapping(json.loads(sys.argv[-2])), output=sys.argv[-1])
"""


@pytest.mark.parametrize(
    ("trunk", "family"),
    [
        ("frozen", "lorentz"),
        pytest.param("frozen", "qnet", marks=pytest.mark.slow),
        pytest.param("full", "qnet", marks=pytest.mark.slow),
    ],
)
def test_losses_and_training_of_two_processes_equal_those_of_one(
    make_recipe: Callable[..., Recipe], dev: dict[str, Any], tmp_path: Path, trunk: str, family: str, programs: Programs
) -> None:
    # A trained curvature is read inside of the data-parallel model and outside of it.
    model = {"family": family, "lorentz": {"dimension": 6, "trainable_curvature": True}}
    losses = {"contrastive": {"temperature": 0.1, "learned_temperature": True}}

    def recipe(batch_size: int) -> Recipe:
        train_section = {**make_recipe().train.model_dump(), "trunk": trunk, "batch_size": batch_size, "seed": 7}
        return make_recipe(model=model, losses=losses, validation=dev, train=train_section)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    values = json.dumps(recipe(4).model_dump(mode="json"))
    result = str(tmp_path / "result")
    run_two(
        programs, _PROCESS + _TRAINING, [str(tmp_path / "store"), result, values, str(tmp_path / "two")], environment
    )
    check_losses(result)
    record = train(recipe(8), output=tmp_path / "one")
    theirs = read_record(tmp_path / "two")
    assert theirs is not None
    assert theirs.status == "finished"
    tolerance = 1e-6 if trunk == "frozen" else 0.2  # dropout draws differ
    for left, right in zip(theirs.validation, record.validation, strict=True):
        assert left.scores["mean"] == pytest.approx(right.scores["mean"], abs=tolerance)
    if trunk == "frozen":
        names = ("one", "two")
        one, two = (
            load_file(sorted((tmp_path / name / "checkpoints").glob("checkpoint-*"))[-1] / "trainable.safetensors")
            for name in names
        )
        assert "objective.losses.contrastive.log_temperature" in one
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_on_cards_of_a_task_each(
    make_recipe: Callable[..., Recipe], collection: Path, tmp_path: Path, programs: Programs
) -> None:
    source = {"source": f"{collection}:train"}
    recipe = make_recipe(
        model={"family": "card", "card": {"width": 8, "rank": 2}},
        data={"sources": {"one": source, "two": source}, "batches": "one_source", "slices": {"queries": 2, "least": 4}},
        losses={"contrastive": {"temperature": 0.1}, "wrong_card": {}, "card_contrast": {}},
        # Cards without examples, which leave a part of the head without a gradient.
        train={
            **make_recipe().train.model_dump(),
            "batch_size": 4,
            "cards": {"support": [2, 4], "without_examples": 0.5},
        },
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run_two(programs, _TRAINING, [json.dumps(recipe.model_dump(mode="json")), str(tmp_path / "two")], environment)
    record = read_record(tmp_path / "two")
    assert record is not None
    assert (record.status, record.steps, record.changed) == ("finished", 6, True)

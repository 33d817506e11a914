"""MaxSim beside the plain torch formula and sentence-transformers' own, forward and backward, by time and peak memory.

    python benchmarks/maxsim.py [--queries 32] [--query-tokens 32] [--documents 64] [--tokens 300] [--dimension 128]

All systems score the same random unit vectors, documents of between a third of `--tokens` and `--tokens`, ragged here
and padded with a mask there. Each runs in a process of its own: memory is the growth of its largest resident size, and
time the median of the repeats. All must give the same scores.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from _hardware import describe_hardware
from hyperseek.scoring import MaxSimScorer, Space, TokenPoints

SYSTEMS = ("ours", "plain", "sentence-transformers")


def draw(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Return `(Q, t, d)` queries, `(N, s, d)` padded documents and their `(N, s)` mask."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(options.queries, options.query_tokens, options.dimension, generator=generator)
    documents = torch.randn(options.documents, options.tokens, options.dimension, generator=generator)
    lengths = torch.randint(max(1, options.tokens // 3), options.tokens + 1, (options.documents,), generator=generator)
    lengths[0] = options.tokens
    mask = torch.arange(options.tokens) < lengths[:, None]
    return torch.nn.functional.normalize(queries, dim=2), torch.nn.functional.normalize(documents, dim=2), mask


def scoring(system: str, queries: Tensor, documents: Tensor, mask: Tensor) -> Callable[[], Tensor]:
    """Return a function that scores, given operands in the system's own form."""
    if system == "ours":
        scorer = MaxSimScorer(Space("tokens", queries.shape[2]), queries, torch.ones(queries.shape[:2]))
        points = TokenPoints.from_padded(documents, mask)
        return lambda: scorer.score(points)
    if system == "plain":

        def plain() -> Tensor:
            similar = torch.einsum("qtd,nsd->qnts", queries, documents)
            return similar.masked_fill(~mask[:, None], -torch.inf).amax(3).sum(2)

        return plain
    from sentence_transformers.util.similarity import maxsim

    everywhere = torch.ones(queries.shape[:2], dtype=torch.bool)
    return lambda: maxsim(queries, documents, a_mask=everywhere, b_mask=mask)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds, MiB, and the sum of all scores, of one system in this process."""
    queries, documents, mask = draw(options)
    if options.backward:
        queries.requires_grad_()
        documents.requires_grad_()
    score = scoring(options.system, queries, documents, mask)

    def run() -> float:
        total = score().sum()
        if options.backward:
            queries.grad = documents.grad = None
            total.backward(retain_graph=True)
        return float(total)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        total = run()
        seconds.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds), "mib": (after - before) / 1024, "sum": total}


def main() -> None:
    """Print the tables, or with `--system` measure one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("queries", 32), ("query-tokens", 32), ("documents", 64), ("tokens", 300)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--backward", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.system:
        print(json.dumps(measure(options)))
        return
    print(f"{describe_hardware()}\n\n| | forward, ms | MiB | with backward, ms | MiB |\n|---|---|---|---|---|")
    sums = []
    for system in SYSTEMS:
        cells = []
        for backward in ([], ["--backward"]):
            command = [sys.executable, __file__, *sys.argv[1:], "--system", system, *backward]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            cells += [f"{found['seconds'] * 1e3:.1f}", f"{found['mib']:.0f}"]
            sums.append(found["sum"])
        print(f"| {system} | {' | '.join(cells)} |", flush=True)
    if max(sums) - min(sums) > 1e-4 * abs(sums[0]):
        raise SystemExit(f"the systems do not agree: {sums}")


if __name__ == "__main__":
    main()

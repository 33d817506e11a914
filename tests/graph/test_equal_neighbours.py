"""Equally near neighbours stand by row, whatever the chunks, also where the last place is contested."""

from __future__ import annotations

import torch

from hyperseek.graph.building import nearest


def test_equals_are_taken_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    for metric in ("inner_product", "l2"):
        for degree in (1, 3, 8, 40):
            vectors = torch.randint(-1, 2, (30, 2), generator=generator).float()
            rows = torch.arange(30)
            closeness = vectors @ vectors.T if metric == "inner_product" else -torch.cdist(vectors, vectors)
            wanted = [
                sorted((row for row in range(30) if row != own), key=lambda row: (-float(closeness[own, row]), row))
                for own in range(30)
            ]
            for size in (7, 30):
                chunks = list(zip(rows.split(size), vectors.split(size), strict=True))
                found = nearest(vectors, rows, chunks, degree=degree, metric=metric)  # type: ignore[arg-type]
                for own, line in enumerate(found.tolist()):
                    best = wanted[own][:degree]
                    assert line == best + [-1] * (degree - len(best)), (metric, degree, size)

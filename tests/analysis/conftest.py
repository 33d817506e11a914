"""A tree of known shape as points of hyperbolic space, and indexes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperseek.index import Index
from hyperseek.scoring import Space
from hyperseek.types import Document

BRANCHES = 3
LEVELS = 4


@dataclass(frozen=True)
class Tree:
    """A complete ternary tree: `parents[row]` is a row, -1 for the root."""

    parents: list[int]
    depths: list[int]

    @property
    def edges(self) -> list[tuple[str, str]]:
        return [(f"n{row}", f"n{parent}") for row, parent in enumerate(self.parents) if parent >= 0]


@pytest.fixture(scope="session")
def tree() -> Tree:
    parents, depths = [-1], [0]
    for row in range((BRANCHES ** (LEVELS + 1) - 1) // (BRANCHES - 1) - 1):
        parents.append(row // BRANCHES)
        depths.append(depths[row // BRANCHES] + 1)
    return Tree(parents, depths)


def place(tree: Tree, dimension: int) -> torch.Tensor:
    """Hyperboloid points: the radius is 1.5 a level, the angle the middle of the subtree's sector of one plane."""
    rows = np.zeros((len(tree.parents), dimension + 1))
    low, width = np.zeros(len(tree.parents)), np.full(len(tree.parents), 2 * np.pi)
    seen = [0] * len(tree.parents)
    for row, parent in enumerate(tree.parents):
        if parent >= 0:
            width[row] = width[parent] / BRANCHES
            low[row] = low[parent] + seen[parent] * width[row]
            seen[parent] += 1
        radius, angle = 1.5 * tree.depths[row], low[row] + width[row] / 2
        rows[row, :3] = np.cosh(radius), np.sinh(radius) * np.cos(angle), np.sinh(radius) * np.sin(angle)
    return torch.from_numpy(rows)


def documents(tree: Tree) -> list[Document]:
    made = []
    for row, (parent, depth) in enumerate(zip(tree.parents, tree.depths, strict=True)):
        above = {} if parent < 0 else {"parent": f"n{parent}"}
        metadata = {**above, "level": depth, "kind": "node"}
        made.append(Document(f"n{row}", "word " * (row + 1), f"</script>node {row}", metadata))
    return made


@pytest.fixture(scope="session")
def lorentz_index(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> Index:
    path = tmp_path_factory.mktemp("analysis") / "tree"
    pairs = zip(documents(tree), place(tree, 2), strict=True)
    return Index.from_vectors(path, pairs, Space("lorentz", 2))


@pytest.fixture(scope="session")
def flat_indexes(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> dict[str, Index]:
    folder = tmp_path_factory.mktemp("analysis")
    made = {}
    for kind in ("euclidean", "dot", "cosine"):
        vectors = place(tree, 3)[:, 1:] + 0.1
        made[kind] = Index.from_vectors(folder / kind, zip(documents(tree), vectors, strict=True), Space(kind, 3))
    return made


@pytest.fixture
def edges_file(tmp_path: Path, tree: Tree) -> Path:
    path = tmp_path / "edges.tsv"
    lines = ["parent\trelation\tchild", *(f"{parent}\tabove\t{child}" for child, parent in tree.edges)]
    path.write_text("\n".join(lines) + "\n")
    return path

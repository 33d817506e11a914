"""Models with levels, trained on a hierarchy as `prepare hierarchy` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyperseek.data import HierarchyOptions, prepare_hierarchy
from hyperseek.models import load
from hyperseek.training import Recipe, train

KINDS = ("cat", "dog", "bird", "fish")


@pytest.fixture(scope="module")
def hierarchy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three levels: all, four kinds, and eight of each kind."""
    folder = tmp_path_factory.mktemp("hierarchy")
    edges = [(kind, "all") for kind in KINDS]
    edges += [(f"{kind} {number}", kind) for kind in KINDS for number in range(8)]
    (folder / "edges.tsv").write_text("".join(f"{child}\t{parent}\n" for child, parent in edges))
    prepare_hierarchy(folder / "edges.tsv", folder / "made", name="zoo", options=HierarchyOptions(negatives=3))
    return folder / "made"


def recipe(encoder: str, folder: Path, losses: dict[str, Any]) -> Recipe:
    model = {
        "trunk": encoder,
        "family": "levels",
        "pooling": "mean",
        "levels": {"d_hrm": 16, "num_segments": 3, "radius": "head"},
    }
    data = {"sources": {"zoo": {"source": str(folder / "train")}}, "negatives": 2, "hops": "balanced"}
    training = {"max_steps": 8, "batch_size": 8, "seed": 1, "device": "cpu", "cache": {"folder": str(folder / "cache")}}
    return Recipe.from_mapping({"model": model, "data": data, "losses": losses, "train": training}, source="here")


def test_a_hierarchy_is_trained_on_from_coarse_to_fine(tiny_encoder: str, hierarchy: Path, tmp_path: Path) -> None:
    losses = {
        "coarse_to_fine": {"levels": "documents_coarser", "apart": 1.0, "learned_temperature": True},
        "radius": {"general": "coarse"},
    }
    record = train(recipe(tiny_encoder, hierarchy, losses), output=tmp_path / "run")
    assert record.changed
    assert record.training_data["zoo"]["examples"] == 32
    assert load(tmp_path / "run", device="cpu").space.levels == 3


def test_coarse_positives_count_as_trained_on_where_a_loss_reads_them(
    tiny_encoder: str, hierarchy: Path, tmp_path: Path
) -> None:
    def seen(name: str, losses: dict[str, Any]) -> set[str]:
        train(recipe(tiny_encoder, hierarchy, losses), output=tmp_path / name)
        return set((tmp_path / name / "training_documents" / "zoo.txt").read_text().split("\n")) - {""}

    documents = seen("coarse", {"coarse_to_fine": {}})
    assert "all" in documents
    assert documents <= {"all", *KINDS}

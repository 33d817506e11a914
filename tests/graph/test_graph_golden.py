"""The recorded graph searches of the original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek.graph import GraphSearchConfig, graph_search

SETTINGS = ["a", "b", "c_noearly"]
COMPLETIONS = 1500


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "hypencoder" / "retrieval" / "golden.json").read_text())


@pytest.fixture(scope="module")
def row_of(recorded) -> dict[str, int]:
    return {document["id"]: row for row, document in enumerate(recorded["docs"])}


@pytest.fixture(scope="module")
def graph(tools, recorded, row_of):
    lists = recorded["neighbors_top10_l2"]
    return tools.graph_of([[row_of[other] for other in lists[document]] for document in row_of])


@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_the_recorded_runs(golden, recorded, row_of, graph, setting):
    folder = golden / "hypencoder" / recorded["model"]
    if not folder.is_dir():
        pytest.skip(f"the checkpoint {recorded['model']} of the recorded runs is not here")
    from hyperseek.models import import_hypencoder  # takes seconds, so not where it is skipped

    retriever = import_hypencoder(folder)
    points = retriever.encode_documents([document["text"] for document in recorded["docs"]], dtype="float32")
    scorer = retriever.compile([query["text"] for query in recorded["queries"]])
    run = recorded["graph_search"][setting]
    entries = [row_of[document] for document in run["entry_points"]]
    config = GraphSearchConfig(**run["params"])
    result = graph_search(scorer, points, graph, k=10, config=config, entry_points=entries)
    for query, rows, scores in zip(recorded["queries"], result.rows.tolist(), result.scores, strict=True):
        expected = run["results"][query["id"]]
        assert rows == [row_of[document] for document, _ in expected]
        torch.testing.assert_close(scores, torch.tensor([score for _, score in expected]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_recorded_runs_are_possible(tools, recorded, row_of, graph, setting):
    """Without the checkpoint: only the best 20 scores of a query are recorded, and the way depends on the others.

    Whatever they were, some completion of the recorded scores must lead to exactly the recorded results.
    """
    run = recorded["graph_search"][setting]
    entries = [row_of[document] for document in run["entry_points"]]
    generator = torch.Generator().manual_seed(1)
    for query, best in recorded["exhaustive_top20"].items():
        expected = run["results"][query]
        worst = min(score for _, score in best)
        rows = torch.tensor([row_of[document] for document, _ in expected])
        for _ in range(COMPLETIONS // 100):  # until one does
            table = worst - 1e-3 - 4 * torch.rand(100, len(row_of), generator=generator)
            for document, score in [*best, *expected]:
                table[:, row_of[document]] = score
            found = graph_search(
                tools.TableScorer(table),
                tools.row_points(len(row_of)),
                graph,
                k=10,
                config=GraphSearchConfig(**run["params"]),
                entry_points=entries,
            )
            if (found.rows == rows).all(dim=1).any():
                break
        else:
            pytest.fail(f"no completion of {query}'s scores leads to the recorded results")


def test_entry_points_are_drawn_as_recorded(recorded, row_of):
    from hyperseek.graph._search import draw_entry_points

    for run in recorded["graph_search"].values():
        config = GraphSearchConfig(num_entry_points=run["params"]["num_entry_points"])
        drawn = draw_entry_points(len(row_of), config).tolist()
        assert drawn == [row_of[document] for document in run["entry_points"]]

"""Measures of hierarchies against slow ones on random graphs: ties, several parents, nodes without ancestors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hyperseek import HyperseekError
from hyperseek._ancestors import Hierarchy, hop_range
from hyperseek._fingerprint import fingerprint_json
from hyperseek.data.hierarchy import NEGATIVES, NegativeSampler
from hyperseek.evaluation import (
    Protocol,
    Ranking,
    ancestor_hops,
    ancestor_qrels,
    classify_pairs,
    compare,
    evaluate_by_hops,
    measure_hierarchy,
    node_scorer,
    rank_nodes,
)
from hyperseek.evaluation._hierarchy_measures import (
    AncestorPairs,
    EntityPairs,
    best_threshold,
    entity_pairs,
    radius_order,
    read_entity_pairs,
)
from hyperseek.evaluation._hierarchy_report import _candidates
from hyperseek.index import Index
from hyperseek.scoring import Space
from hyperseek.types import Document


def random_hierarchy(nodes: int = 40, seed: int = 0) -> Hierarchy:
    """Most nodes have several parents, some none."""
    generator = np.random.default_rng(seed)
    return Hierarchy.from_edges(
        (f"n{child}", f"n{parent}")
        for child in range(1, nodes)
        for parent in generator.choice(child, size=min(child, int(generator.integers(0, 3))), replace=False)
    )


def chain(length: int) -> Hierarchy:
    return Hierarchy.from_edges((f"n{place + 1}", f"n{place}") for place in range(length))


def index_of(path: Path, names: list[str], points: torch.Tensor, space: Space) -> Index:
    return Index.from_vectors(path, zip((Document(name, name) for name in names), points, strict=True), space)


def test_hops_of_nodes_and_of_texts_about_them() -> None:
    hierarchy = Hierarchy.from_edges([("d", "b"), ("d", "c"), ("b", "a"), ("c", "a"), ("a", "root"), ("e", "root")])
    as_node = ancestor_hops(hierarchy, {"d": {"b": 1, "a": 1, "root": 1, "e": 1, "c": 0}, "root": {"a": 1}})
    assert as_node == {"d": {"b": 1, "a": 2, "root": 3}}  # e is not above d, c is not relevant
    text = ancestor_hops(hierarchy, {"q": {"b": 3, "c": 2, "a": 1, "root": 1, "unknown": 1}, "p": {"root": 1}})
    assert text == {"q": {"b": 1, "c": 1, "a": 2, "root": 3}, "p": {"root": 1}}
    with pytest.raises(HyperseekError, match="do its ids name the documents"):
        ancestor_hops(hierarchy, {"q": {"unknown": 1}})


def test_qrels_of_nodes_grade_by_hops() -> None:
    hierarchy = chain(12)
    qrels = ancestor_qrels(hierarchy, ["n12", "n1", "n0"], [f"n{place}" for place in range(12)])
    assert qrels == {"n12": {f"n{12 - hops}": max(1, 8 - hops) for hops in range(1, 13)}, "n1": {"n0": 7}}


@pytest.mark.parametrize("seed", range(3))
def test_recall_by_hops_against_a_slow_one(seed: int) -> None:
    hierarchy = random_hierarchy(seed=seed)
    names = hierarchy.nodes
    qrels = ancestor_qrels(hierarchy, names, names)
    generator = np.random.default_rng(seed)
    run = {query: dict(zip(names, generator.integers(0, 5, len(names)).astype(float), strict=True)) for query in qrels}
    run.pop(next(iter(qrels)))  # a query without results
    ranking = Ranking("random", run, Protocol(qrels=fingerprint_json(qrels), k=len(names)))
    found = evaluate_by_hops(ranking, qrels, ancestor_hops(hierarchy, qrels), measures="R@10 RR@10")
    expected: dict[str, dict[str, dict[str, float]]] = {}
    for query in qrels:
        ordered = sorted(run.get(query, {}), key=lambda name: (-run[query][name], names.index(name)))
        above = hierarchy.ancestors(query)
        for part in {hop_range(hops) for hops in above.values()}:
            own = {name for name, hops in above.items() if hop_range(hops) == part}
            rows = expected.setdefault(part, {"R@10": {}, "RR@10": {}, "R@A": {}})
            rows["R@10"][query] = len(own & set(ordered[:10])) / len(own)
            rows["R@A"][query] = len(own & set(ordered[: len(above)])) / len(own)
            rows["RR@10"][query] = next((1 / rank for rank, name in enumerate(ordered[:10], 1) if name in own), 0.0)
    assert {part: each.per_query for part, each in found.items()} == {
        part: {name: pytest.approx(values) for name, values in rows.items()} for part, rows in expected.items()
    }
    assert found["1"].aggregate["R@A"] == pytest.approx(np.mean(list(expected["1"]["R@A"].values())))
    other = found["1"].model_copy(update={"name": "other"})
    assert compare([found["1"], other]).measures == ("R@10", "RR@10", "R@A")


def slow_f1(scores: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    chosen = scores >= threshold
    return 2 * (chosen & labels).sum() / (chosen.sum() + labels.sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_best_there_is(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, labels = generator.integers(0, 9, 60) / 3.0, generator.random(60) < 0.2
    best, threshold = best_threshold(scores, labels)
    assert best == pytest.approx(max(slow_f1(scores, labels, each) for each in scores))
    assert slow_f1(scores, labels, threshold) == pytest.approx(best)
    near = np.array([1.0, np.nextafter(1.0, 0)])
    assert best_threshold(near, np.array([True, False])) == (1, 1)


def random_pairs(seed: int, *, pairs: int = 200) -> EntityPairs:
    """Ancestors are a little nearer and farther in, so that a weight between the least and the greatest is best."""
    generator = np.random.default_rng(seed)
    labels = generator.random(pairs) < 0.3
    distances = generator.normal(3, 1, pairs) - 1.0 * labels
    radii = np.stack([generator.normal(2, 1, pairs), generator.normal(2, 1, pairs) - 1.0 * labels], axis=1)
    return EntityPairs(distances, radii, labels, np.sort(generator.integers(0, 20, pairs)))


def test_weight_and_threshold_come_from_validation_alone() -> None:
    validation, test = random_pairs(0), random_pairs(1)
    weights = (0.0, 0.25, 0.5, 4.0)
    best = {weight: best_threshold(validation.scores(weight), validation.labels) for weight in weights}
    chosen = max(weights, key=lambda weight: (best[weight][0], -weight))
    assert chosen not in (0.0, 4.0)
    found = classify_pairs(validation, test, weights=weights, resamples=200)
    assert (found.weight, found.validation_f1) == (chosen, best[chosen][0])
    scores = -(test.distances + chosen * test.outward)
    predicted = scores >= found.threshold
    assert found.precision == pytest.approx((predicted & test.labels).sum() / predicted.sum())
    assert found.recall == pytest.approx((predicted & test.labels).sum() / test.labels.sum())
    assert found.f1 == pytest.approx(slow_f1(scores, test.labels, found.threshold))
    assert found.f1_interval[0] < found.f1 < found.f1_interval[1]
    # Whatever the test pairs are, the choice is the same.
    turned = EntityPairs(test.distances, np.zeros((200, 2)), ~test.labels, test.groups)
    other = classify_pairs(validation, turned, weights=weights, resamples=20)
    assert (other.weight, other.threshold) == (found.weight, found.threshold)


def test_a_weight_of_0_is_a_weight() -> None:
    validation, test = random_pairs(0), random_pairs(1)
    found = classify_pairs(validation, test, weights=0, resamples=20)
    assert found.weight == 0
    assert found.threshold == best_threshold(-validation.distances, validation.labels)[1]
    assert found.f1 != classify_pairs(validation, test, resamples=20).f1


def test_bad_pairs_and_weights_are_said() -> None:
    pairs = random_pairs(0)
    for weights in (-1, [], [0.5, float("nan")]):
        with pytest.raises(HyperseekError, match="weights of radii"):
            classify_pairs(pairs, pairs, weights=weights)
    with pytest.raises(HyperseekError, match="0 of these 3 are ancestors"):
        EntityPairs(np.ones(3), np.ones((3, 2)), np.zeros(3, bool), np.zeros(3, int))
    with pytest.raises(HyperseekError, match="finite"):
        EntityPairs(np.array([1, np.inf]), np.ones((2, 2)), np.array([True, False]), np.zeros(2, int))


@pytest.mark.parametrize("seed", range(3))
def test_order_of_radii_against_slow_ones(seed: int) -> None:
    hierarchy = random_hierarchy(seed=seed)
    names = [name for name in hierarchy.nodes if name != "n3"]  # a node that is no document
    radii = np.random.default_rng(seed).integers(1, 6, len(names)).astype(float)
    found = radius_order(AncestorPairs(hierarchy, [*names, "no node"]), radii, resamples=100)
    assert found is not None
    depths = [hierarchy.depths[name] for name in names]
    assert found.spearman == pytest.approx(spearmanr(depths, radii).statistic)
    assert found.spearman_interval[0] <= found.spearman <= found.spearman_interval[1]
    radius = dict(zip(names, radii, strict=True))
    right: dict[str, list[float]] = {}
    for name in names:
        for ancestor, hops in hierarchy.ancestors(name).items():
            if ancestor in radius:
                value = 0.5 if radius[ancestor] == radius[name] else float(radius[ancestor] < radius[name])
                right.setdefault(hop_range(hops), []).append(value)
    assert {part: (share.pairs, share.share) for part, share in found.by_hops.items()} == {
        part: (len(values), pytest.approx(np.mean(values))) for part, values in right.items()
    }
    everything = [value for values in right.values() for value in values]
    assert (found.ordered.pairs, found.ordered.share) == (len(everything), pytest.approx(np.mean(everything)))
    low, high = found.ordered.interval
    assert low < found.ordered.share < high


def test_radii_that_differ_by_rounding_alone_have_no_order() -> None:
    pairs = AncestorPairs(chain(9), [f"n{place}" for place in range(10)])
    assert radius_order(pairs, 2 + 1e-7 * np.arange(10.0), resamples=10) is None
    near = radius_order(pairs, np.array([1.0, 1 + 1e-8, *range(2, 10)]), resamples=10)
    assert near is not None
    assert near.ordered.share == pytest.approx(1 - 0.5 / 45)


def test_candidates_are_ancestors_and_others(tmp_path: Path) -> None:
    hierarchy = random_hierarchy(60)
    nodes = AncestorPairs(hierarchy, hierarchy.nodes)
    sampler = NegativeSampler(hierarchy, seed=0)
    for name in [name for name in nodes.names if hierarchy.ancestors(name)]:
        above = hierarchy.ancestors(name)
        for kind in NEGATIVES:
            found = _candidates(hierarchy, nodes, name, 2, kind, sampler)
            assert {other for other, label in found.items() if label} == set(above)
            others = [other for other, label in found.items() if not label]
            assert len(others) == min(2 * len(above), len(nodes.names) - len(above) - 1)
            assert name not in found
            siblings = {child for parent in hierarchy.parents[name] for child in hierarchy.children[parent]}
            siblings -= {name, *above}
            if kind == "hard":
                assert set(others) <= siblings or siblings <= set(others)


@pytest.fixture(scope="module")
def tree() -> Hierarchy:
    """A tree of 4 levels, with 3 children each."""
    return Hierarchy.from_edges((f"n{row}", f"n{(row - 1) // 3}") for row in range(1, 121))


def level_tangents(tree: Hierarchy, levels: int, *, seed: int = 0) -> torch.Tensor:
    """Points of levels, the farther out the deeper: at level 1 nodes lie in directions of their own, at the last one
    in nearly those of their parents, so that siblings are nearest there."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    steps = {name: torch.randn(16, generator=generator) for name in tree.nodes}
    for row in range(121):
        name = f"n{row}"
        line = [*reversed(tree.path(name)), name]
        own = []
        for level in range(1, levels + 1):
            last = 0.05 if level == levels > 1 else 1.0
            shares = [1.0] * (len(line) - 1) + [last] if level > 1 else [0.3] * (len(line) - 1) + [1.0]
            way = sum(share * steps[each] for share, each in zip(shares, line, strict=True))
            radius = level * (0.4 + 0.25 * tree.depths[name])
            own.append(radius * way / way.norm())
        rows.append(torch.cat(own))
    return torch.stack(rows)


def test_a_tree_in_a_space_of_levels(tmp_path: Path, tree: Hierarchy) -> None:
    names = [f"n{row}" for row in range(121)]
    space = Space("levels", 16, levels=3)
    index = index_of(tmp_path / "index", names, level_tangents(tree, 3), space)
    report = measure_hierarchy(index, tree, sample=80, resamples=100)
    assert (report.documents, report.nodes, report.sampled) == (121, 121, 80)
    assert [order.level for order in report.radii] == [1, 2, 3]
    assert all(order.spearman == pytest.approx(1) for order in report.radii)
    assert all(order.ordered.share == 1 for order in report.radii)
    assert {(one.level, one.document_level, one.negatives) for one in report.pairs} == {
        (m, n, kind) for m, n in [(3, 3), (2, 2), (1, 1), (3, 1), (3, 2)] for kind in ("random", "hard")
    }
    assert all(one.scores.f1 > 0.3 for one in report.pairs if one.level == one.document_level)
    assert report.broad is not None
    assert report.broad.difference is not None
    assert report.broad.levels[0].share > report.broad.levels[-1].share
    assert report.broad.p_value is not None
    assert report.broad.p_value < 0.02
    again = measure_hierarchy(index, tree, sample=80, resamples=100)
    assert again == report
    shown = report._repr_html_()
    assert shown.count("<table>") == 3
    assert "121 of 121 documents are nodes; 80 sampled, seed 0" in shown
    assert f"level 1 minus level 3: {report.broad.difference:+.3f} (" in shown
    assert f"{report.pairs[0].scores.f1:.3f} (" in shown
    frame = report.to_pandas()
    [share] = frame[(frame.part == "broad") & (frame.level == 1)].value
    assert share == report.broad.levels[0].share
    assert len(frame[frame.measure == "f1"]) == len(report.pairs)


def test_distances_and_radii_of_pairs_are_those_of_their_levels(tree: Hierarchy) -> None:
    space = Space("levels", 16, levels=3, radius_squared=2.0)
    tangents = level_tangents(tree, 3).double()
    points = space.canonical(tangents)
    pairs = entity_pairs(space, points, [(40, [13, 4, 90], [True, True, False]), (7, [2, 99], [True, False])], (3, 1))
    ball = Space("poincare", 16, radius_squared=2.0)
    parts = tangents.reshape(-1, 3, 16)
    norms = 2 * parts.norm(dim=-1)
    expected = []
    for child, other in [(40, 13), (40, 4), (40, 90), (7, 2), (7, 99)]:
        both = [
            ball.canonical(2**0.5 * torch.tanh(part.norm() / 2**0.5) * part / part.norm())[None]
            for part in (parts[child, 2], parts[other, 0])
        ]
        expected.append(float(ball.distances(*both)))
    np.testing.assert_allclose(pairs.distances, expected, rtol=1e-6)
    outward = [norms[other, 0] - norms[child, 2] for child, other in [(40, 13), (40, 4), (40, 90), (7, 2), (7, 99)]]
    np.testing.assert_allclose(pairs.outward, outward, rtol=1e-6)
    assert pairs.groups.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("kind", ["lorentz", "euclidean", "dot", "cosine"])
def test_spaces_without_levels_have_the_same_measures(tmp_path: Path, tree: Hierarchy, kind: str) -> None:
    names = [f"n{row}" for row in range(121)]
    points = level_tangents(tree, 1)
    if kind == "lorentz":
        points = torch.cat([(1 + points.square().sum(1, True)).sqrt(), points], dim=1)
    index = index_of(tmp_path / "index", names, points, Space(kind, 16))
    report = measure_hierarchy(index, tree, sample=60, resamples=50)
    if kind == "cosine":
        assert report.radii == ()
        assert report.left_out == {"radii": "all vectors have norm 1"}
        assert all(one.scores.weight == 0 for one in report.pairs)
    else:
        assert report.radii[0].spearman == pytest.approx(1)
        assert report.radii[0].ordered.share == 1
    assert {(one.level, one.document_level) for one in report.pairs} == {(1, 1)}
    assert report.broad is not None
    assert (len(report.broad.levels), report.broad.p_value) == (1, None)
    qrels = ancestor_qrels(tree, ["n100", "n50"], index.ids)
    ranking = rank_nodes(index, node_scorer(index, list(qrels)), qrels, k=20)
    assert all(query not in found for query, found in ranking.run.items())
    assert ranking.evaluate(qrels, measures="R@20").aggregate["R@20"] > 0


def test_shares_of_ancestors_and_leaves_against_a_slow_count(tmp_path: Path, tree: Hierarchy) -> None:
    names = [f"n{row}" for row in range(121)]
    points = torch.randint(0, 3, (121, 4), generator=torch.Generator().manual_seed(0)).float()  # many ties
    index = index_of(tmp_path / "index", names, points, Space("euclidean", 4))
    report = measure_hierarchy(index, tree, sample=200, resamples=50)
    assert report.sampled == 120
    assert report.broad is not None
    shares: dict[str, list[float]] = {}
    rows = dict(zip(names, points, strict=True))
    for name in names[1:]:
        below = [other for other in tree.descendants(name) if other not in tree.children]
        leaves = below or [other for other in tree.children[tree.parents[name][0]] if other != name]
        apart = {other: (rows[name] - rows[other]).norm().item() for other in names}
        for a in tree.ancestors(name):
            # Of the 27 leaves below the nodes of depth 1, 20 are drawn.
            shares.setdefault(a, []).append(
                np.mean([(apart[a] < apart[b]) + 0.5 * (apart[a] == apart[b]) for b in leaves])
            )
    expected = np.mean([np.mean(found) for found in shares.values()])
    assert report.broad.levels[0].share == pytest.approx(expected, abs=1 / 40 * 3 / 39)
    assert (report.broad.nodes, report.broad.ancestors) == (120, 40)


def test_radii_at_random_have_no_order(tree: Hierarchy) -> None:
    """The root is above all nodes, and its luck must not look like an order."""
    pairs = AncestorPairs(tree, [f"n{row}" for row in range(121)])
    within = 0
    for seed in range(60):
        order = radius_order(pairs, np.random.default_rng(seed).random(121), resamples=200)
        assert order is not None
        within += order.ordered.interval[0] <= 0.5 <= order.ordered.interval[1]
    assert within >= 50  # with nodes drawn instead it is 26


def test_points_at_random_are_no_broader_at_level_1(tmp_path: Path, tree: Hierarchy) -> None:
    names = [f"n{row}" for row in range(121)]
    points = torch.randn(121, 24, generator=torch.Generator().manual_seed(0))
    index = index_of(tmp_path / "index", names, points, Space("levels", 8, levels=3))
    report = measure_hierarchy(index, tree, sample=120, negatives=1, resamples=500, weights=0)
    assert report.broad is not None
    assert report.broad.p_value is not None
    assert report.broad.p_value > 0.05


def test_what_cannot_be_measured_is_said(tmp_path: Path, tree: Hierarchy) -> None:
    names = [f"n{row}" for row in range(121)]
    index = index_of(tmp_path / "index", names, torch.ones(121, 4), Space("euclidean", 4))
    with pytest.raises(HyperseekError, match="no document has an ancestor among the documents"):
        measure_hierarchy(index, Hierarchy.from_edges([("x", "y")]))
    with pytest.raises(HyperseekError, match="sample must be at least 2"):
        measure_hierarchy(index, tree, sample=1)
    alone = measure_hierarchy(index, Hierarchy.from_edges([("n1", "n0")]), resamples=20)
    assert set(alone.left_out) == {"radii", "pairs", "broad"}
    with pytest.raises(HyperseekError, match="1 of 2 nodes are no documents"):
        node_scorer(index, ["n1", "x"])
    options: Any = {"level": 1}
    with pytest.raises(HyperseekError, match="level"):
        node_scorer(index, ["n1"], options)


def test_pairs_of_files_in_the_form_of_hit(tmp_path: Path, tree: Hierarchy) -> None:
    names = [f"n{row}" for row in range(121)]
    index = index_of(tmp_path / "index", names, level_tangents(tree, 1), Space("euclidean", 16))
    folder = tmp_path / "mixed_hop-random"
    folder.mkdir()
    lines = {
        "validation": [("n40", "n13", "n99"), ("n40", "n13", "n7")],
        "test": [("n50", "n16", "n3"), ("n50", "n5", "n8")],
    }
    for split, triples in lines.items():
        rows = [json.dumps(dict(zip(("child", "parent", "negative"), triple, strict=True))) for triple in triples]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    assert read_entity_pairs(folder)[0] == {"n40": {"n13": True, "n99": False, "n7": False}}
    report = measure_hierarchy(index, tree, sample=10, resamples=20, pairs_folder=folder)
    [found] = report.pairs
    assert (found.negatives, found.scores.pairs, found.scores.ancestors) == ("mixed_hop-random", 4, 2)
    (folder / "test.jsonl").write_text('{"child": "n1"}')
    with pytest.raises(HyperseekError, match="a pair has the ids child, parent and negative"):
        read_entity_pairs(folder)

"""Every way to search an index beside the ten-line oracle: all spaces, engines, changes, filters and exclusions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.engines import ChartRecord
from hyperseek.engines.structure import parse_structure
from hyperseek.graph import GraphSearchConfig
from hyperseek.index import Index
from hyperseek.plan import Engine, Exhaustive, Graph, Plan, Rescore, Surrogate
from hyperseek.scoring import FunctionScorer, LinearScorer, MaxSimScorer, Points, Scorer, Space
from hyperseek.types import Document, Hit

SPACES = {
    "dot": Space("dot", 3),
    "cosine": Space("cosine", 3),
    "euclidean": Space("euclidean", 3),
    "lorentz": Space("lorentz", 2, radius_squared=2.0),
    "poincare": Space("poincare", 2),
    "tokens": Space("tokens", 3),
}
# Small whole numbers make these spaces' scores exact, so that the order of equal ones is decided.
EXACT = {"dot", "euclidean", "tokens"}
ENGINES: dict[str, dict[str, Any]] = {
    "scan": {},
    "hnsw": {"m": 4, "ef_construction": 20},
    "ivf": {"lists": 3, "effort": 3},
    "lance": {},
    "qdrant": {},
}
MANY = 1000  # more than any index here has

Vector = Any  # three numbers, or a list of as many for each token


@dataclass
class Case:
    """An index, and the dictionary that it should equal: by id the vector and the number by which is filtered."""

    index: Index
    space: Space
    documents: dict[str, tuple[Vector, int]] = field(default_factory=dict)

    def put(self, name: str, vector: Vector, number: int) -> Document:
        self.documents.pop(name, None)  # what is replaced moves to the end
        self.documents[name] = (vector, number)
        return Document(name, "", metadata={"n": number})


def wide(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def similarity(space: Space, query: Vector, vector: Vector) -> float:
    """Compare a query with a document by the textbook's formula."""
    if space.kind == "tokens":
        return float((wide(query) @ wide(vector).T).amax(1).sum()) if vector else -1e9
    q, x = wide(query), wide(vector)
    if space.kind == "dot":
        return float(q @ x)
    if space.kind == "cosine":
        return float(q @ x / (q.norm() * x.norm()).clamp_min(1e-30))
    if space.kind == "euclidean":
        return -float((q - x).norm())
    if space.kind == "poincare":
        ratio = 1 + 2 * (q - x).square().sum() / (1 - q @ q) / (1 - x @ x)
        return -float(torch.acosh(ratio))
    product = q[1:] @ x[1:] - (q[1:].square().sum() + 2).sqrt() * (x[1:].square().sum() + 2).sqrt()
    return -float(2**0.5 * torch.acosh((-product / 2).clamp_min(1)))


def oracle(
    case: Case, score: Callable[[Vector], float], allowed: Callable[[int], bool], excluded: str | None
) -> list[tuple[str, float]]:
    """Score everything, sort everything; equal scores in the order in which documents came."""
    scores = [
        (name, score(vector))
        for name, (vector, number) in case.documents.items()
        if allowed(number) and name != excluded
    ]
    return sorted(scores, key=lambda pair: -pair[1])


def check(hits: Sequence[Hit], truth: list[tuple[str, float]], k: int, *, exact: bool, tolerance: float) -> None:
    wanted = dict(truth)
    assert len(hits) == min(k, len(truth))
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert len({hit.id for hit in hits}) == len(hits)
    order = {name: row for row, (name, _) in enumerate(truth)}
    for hit, (name, score) in zip(hits, truth, strict=False):
        assert hit.score == pytest.approx(score, abs=tolerance, rel=tolerance)
        assert hit.score == pytest.approx(wanted[hit.id], abs=tolerance, rel=tolerance)
        if exact:
            assert hit.id == name, order
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


# What is drawn.


def points(space: Space) -> st.SearchStrategy[Vector]:
    """Coordinates on a coarse grid: equal scores are frequent."""
    if space.kind == "poincare":
        return st.lists(st.sampled_from([-0.5, -0.25, 0.0, 0.25, 0.5]), min_size=2, max_size=2)
    if space.kind == "lorentz":
        spaces = st.lists(st.integers(-2, 2).map(float), min_size=2, max_size=2)
        return spaces.map(lambda x: [(sum(c * c for c in x) + 2) ** 0.5, *x])
    vectors = st.lists(st.integers(-2, 2).map(float), min_size=3, max_size=3)
    return st.lists(vectors, min_size=0, max_size=4) if space.kind == "tokens" else vectors


def asked(space: Space) -> st.SearchStrategy[list[Vector]]:
    if space.kind == "tokens":
        return st.lists(points(Space("dot", 3)), min_size=1, max_size=3).flatmap(
            lambda query: st.lists(st.just(query), min_size=1, max_size=2)
        )
    return st.lists(points(space), min_size=1, max_size=3)


def drawn(space: Space, seed: int, count: int) -> list[Vector]:
    """Return the same points at every call."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Any:
        return torch.randint(-2, 3, shape, generator=generator).double()

    if space.kind == "poincare":
        return (numbers(count, 2) / 4).tolist()
    if space.kind == "lorentz":
        flat = numbers(count, 2)
        return torch.cat([(flat.square().sum(1, keepdim=True) + 2).sqrt(), flat], dim=1).tolist()
    if space.kind == "tokens":
        lengths = torch.randint(0, 5, (count,), generator=generator).tolist()
        return [numbers(length, 3).tolist() for length in lengths]
    return numbers(count, 3).tolist()


def arrays(space: Space, vectors: list[Vector]) -> list[Tensor]:
    return (
        [torch.tensor(vector, dtype=torch.float32).reshape(-1, 3) for vector in vectors]
        if (space.kind == "tokens")
        else [torch.tensor(vector) for vector in vectors]
    )


def compiled(space: Space, queries: list[Vector]) -> Scorer:
    tensor = torch.tensor(queries, dtype=torch.float32)
    if space.kind == "tokens":
        return MaxSimScorer(space, tensor, torch.ones(tensor.shape[:2]))
    return LinearScorer(space, space.canonical(tensor))


# What is searched. Engines are built somewhere between the first documents and the last.


def begin(folder: Path, space: Space, storage: Any, count: int) -> Case:
    case, vectors = Case(None, space), drawn(space, 1, count)  # type: ignore[arg-type]
    documents = [case.put(f"d{number}", vector, number) for number, vector in enumerate(vectors)]
    items = zip(documents, arrays(space, vectors), strict=True)
    case.index = Index.from_vectors(folder / "index", items, space, storage=storage)
    return case


def build_engines(case: Case) -> None:
    for kind, values in ENGINES.items():
        kept = values if len(case.index) >= 3 else {key: value for key, value in values.items() if key != "lists"}
        config = parse_structure({"kind": kind, **kept})
        encoding = {"repetitions": 3, "bits": 1, "projected": 2} if case.space.kind == "tokens" else {}
        linear = ChartRecord(name="balanced" if config.graph else "inner_product", parameters=encoding)
        case.index.build_engine(config, name=kind, charts=[linear] if encoding else None)
        if case.space.kind == "euclidean":  # where engines are built on the vectors, which suits no surrogate
            case.index.build_engine(config, name=f"{kind}-linear", charts=[linear])
    case.index.build_graph(degree=3)


def add(case: Case, names: Sequence[str], seed: int, *, replace: bool = False) -> None:
    vectors = drawn(case.space, seed, len(names))
    pairs = list(zip(names, vectors, strict=True))
    documents = [case.put(name, vector, seed + number) for number, (name, vector) in enumerate(pairs)]
    case.index.add(documents, vectors=arrays(case.space, vectors), replace=replace)


def delete(case: Case, names: Sequence[str]) -> None:
    assert case.index.delete(names) == len(names)
    for name in names:
        del case.documents[name]


def changed(folder: Path, space: Space, storage: Any) -> Case:
    """Added, replaced and deleted after the engines were built."""
    case = begin(folder, space, storage, 24)
    build_engines(case)
    delete(case, ["d0", "d7", "d8", "d23"])
    add(case, [f"n{number}" for number in range(8)], 30)
    add(case, ["d3", "n2", "new"], 10, replace=True)
    delete(case, ["n5", "d4"])
    return case


def emptied(folder: Path, space: Space, storage: Any) -> Case:
    """Everything was deleted after the engines were built."""
    case = begin(folder, space, storage, 9)
    build_engines(case)
    delete(case, list(case.documents))
    return case


def late(folder: Path, space: Space, storage: Any) -> Case:
    """The engines were built when there was nothing."""
    case = begin(folder, space, storage, 0)
    build_engines(case)
    add(case, [f"n{number}" for number in range(6)], 30)
    return case


CASES = {
    **{f"{kind}-changed": (kind, changed, "float32") for kind in SPACES},
    **{f"{kind}-float16": (kind, changed, "float16") for kind in SPACES},
    **{f"{kind}-emptied": (kind, emptied, "float32") for kind in ("dot", "lorentz", "tokens")},
    **{f"{kind}-late": (kind, late, "float32") for kind in ("dot", "lorentz", "tokens")},
}

WALK = GraphSearchConfig(num_entry_points=MANY)
WAYS: dict[str, dict[str, Any]] = {
    "exact": {"engine": "exact"},
    "auto": {},
    **{f"by-name-{kind}": {"engine": kind} for kind in ENGINES},
    **{kind: {"plan": Engine(n=MANY, name=kind, effort=MANY) >> Rescore()} for kind in ENGINES if kind != "scan"},
    "surrogate-newest": {"plan": Surrogate(n=MANY, landmarks=5, refits=1) >> Rescore()},
    "graph": {"plan": Plan(stages=(Graph(walk=WALK),))},
    "graph-best-first": {"plan": Graph(n=MANY, walk=WALK.model_copy(update={"strategy": "best_first"})) >> Rescore()},
    "union": {"plan": (Engine(n=MANY, name="ivf") | Exhaustive(n=2)) >> Rescore()},
}


def surrogates(space: Space) -> dict[str, dict[str, Any]]:
    names = [f"{kind}-linear" if space.kind == "euclidean" else kind for kind in ENGINES]
    return {f"surrogate-{name}": {"plan": Surrogate(n=MANY, engine=name, effort=MANY) >> Rescore()} for name in names}


CONDITIONS: list[tuple[str | None, Callable[[int], bool]]] = [
    (None, lambda n: True),
    ("n >= 12", lambda n: n >= 12),
    ("n IN (3, 9, 31)", lambda n: n in (3, 9, 31)),
    ("n < 0", lambda n: False),
]


# Numbers of half precision are read in one way for all spaces; the fast suite has one space of each kind of scores.
SLOW = {"cosine-float16", "euclidean-float16", "poincare-float16"}


@pytest.mark.parametrize(
    "which", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_every_way_equals_the_oracle(which: str, tmp_path: Path) -> None:
    kind, make, storage = CASES[which]
    space = SPACES[kind]
    case = make(tmp_path, space, storage)
    assert case.index.ids == list(case.documents)
    exact = kind in EXACT
    tolerance = 1e-5 if exact else 5e-3 if storage == "float16" else 2e-4

    @settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
    @given(
        asked(space),
        st.sampled_from([1, 2, 7, 20, 60]),
        st.sampled_from(CONDITIONS),
        st.sampled_from(["d1", "n1", None]),
    )
    def equal(queries: list[Vector], k: int, condition: Any, excluded: str | None) -> None:
        scorer = compiled(space, queries)
        where, allowed = condition
        truths = [oracle(case, lambda x, q=query: similarity(space, q, x), allowed, excluded) for query in queries]
        for way, options in (WAYS | surrogates(space)).items():
            found = case.index.search(scorer, k=k, where=where, exclude=[excluded] * len(queries), **options)
            for hits, truth in zip(found, truths, strict=True):
                try:
                    check(hits, truth, k, exact=exact, tolerance=tolerance)
                except AssertionError as error:
                    raise AssertionError(f"{way}: {error}") from error

    equal()


def bent(queries: dict[str, Tensor], documents: Points) -> Tensor:
    products = queries["vector"] @ documents.vectors.T
    return products * (products - 3)


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    queries=asked(SPACES["dot"]),
    k=st.sampled_from([1, 5, 60]),
    condition=st.sampled_from(CONDITIONS),
    excluded=st.sampled_from(["d1", None]),
)
def test_scorers_that_are_not_linear_equal_the_oracle(
    changed_dot: Case, queries: list[Vector], k: int, condition: Any, excluded: str | None
) -> None:
    where, allowed = condition
    scorer = FunctionScorer(changed_dot.space, bent, {"vector": torch.tensor(queries)})

    def score(query: Vector, vector: Vector) -> float:
        product = similarity(changed_dot.space, query, vector)
        return product * (product - 3)

    truths = [oracle(changed_dot, lambda x, q=query: score(q, x), allowed, excluded) for query in queries]
    linear = {*ENGINES, "union"}  # ways that such scorers have not
    for way, options in (WAYS | surrogates(changed_dot.space)).items():
        if way not in linear:
            found = changed_dot.index.search(scorer, k=k, where=where, exclude=[excluded] * len(queries), **options)
            for hits, truth in zip(found, truths, strict=True):
                check(hits, truth, k, exact=True, tolerance=1e-5)


@pytest.fixture(scope="module")
def changed_dot(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return changed(tmp_path_factory.mktemp("nonlinear"), SPACES["dot"], "float32")


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["add", "replace", "delete", "compact", "engine"]),
        st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True),
        st.integers(0, 99),
    ),
    max_size=7,
)


@settings(deadline=None, max_examples=5, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES, query=points(SPACES["dot"]), k=st.sampled_from([1, 4, 30]))
@pytest.mark.parametrize("engine", ENGINES)
def test_any_changes_around_an_engine(
    tmp_path_factory: pytest.TempPathFactory, engine: str, changes: Any, query: Vector, k: int
) -> None:
    space = SPACES["dot"]
    case = begin(tmp_path_factory.mktemp("changes"), space, "float32", 5)
    case.index.build_engine(engine)
    for change, numbers, seed in changes:
        names = [f"d{number}" for number in numbers]
        if change == "add":
            add(case, [name for name in names if name not in case.documents], seed)
        elif change == "replace":
            add(case, names, seed, replace=True)
        elif change == "delete":
            delete(case, [name for name in names if name in case.documents])
        elif change == "compact":
            case.index.compact()
        else:
            case.index.build_engine(engine)
    reopened = Index.open(case.index.path)
    truth = oracle(case, lambda x: similarity(space, query, x), lambda n: True, None)
    for index in (case.index, reopened):
        assert index.ids == list(case.documents)
        [hits] = index.search(compiled(space, [query]), k=k, engine=engine)
        check(hits, truth, k, exact=True, tolerance=1e-5)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_vectors_that_are_no_points_are_refused_with_the_id(tmp_path: Path, kind: str, value: float) -> None:
    space, vectors = SPACES[kind], drawn(SPACES[kind], 1, 3)
    bad = torch.tensor(vectors[0] or [[0.0] * 3])
    bad.view(-1)[-1] = value
    documents = [Document(name, "") for name in ("a", "b", "bad")]
    items = list(zip(documents, [*arrays(space, vectors[1:]), bad], strict=True))
    with pytest.raises(HyperseekError, match="'bad' has infinite or undefined numbers"):
        Index.from_vectors(tmp_path / "refused", items, space)
    index = Index.from_vectors(tmp_path / "index", items[:2], space)
    index.build_engine("flat")
    for replace in (False, True):
        with pytest.raises(HyperseekError, match="'bad' has infinite or undefined numbers"):
            index.add(documents[2:], vectors=[bad], replace=replace)
    assert Index.open(index.path).ids == index.ids == ["a", "b"]


@pytest.mark.parametrize("value", [1e5, -7e4])
def test_numbers_beyond_half_precision_are_refused_with_the_id(tmp_path: Path, value: float) -> None:
    items = [(Document("fits", ""), [1.0, 2.0, 3.0]), (Document("bad", ""), [1.0, value, 3.0])]
    with pytest.raises(HyperseekError, match=r"'bad' reaches .* which float16 cannot hold"):
        Index.from_vectors(tmp_path / "index", items, SPACES["dot"], storage="float16")


@pytest.mark.parametrize("engine", ["exact", *ENGINES])
def test_queries_that_are_no_points_are_refused(changed_dot: Case, engine: str) -> None:
    queries = torch.ones(3, 3)
    queries[1, 2] = float("nan")
    with pytest.raises(HyperseekError, match="query 1"):
        changed_dot.index.search(LinearScorer(changed_dot.space, queries), engine=engine)

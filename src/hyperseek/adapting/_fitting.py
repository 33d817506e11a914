"""Heads of queries, fitted on the stored vectors of an index: no document is encoded.

A map sends a query vector q to q M + b. Every fit starts from the identity and is held there, as few pairs know little.
Shapes: `n` queries, `N` documents of the index, `d` dimensions, `r` rank.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from sentence_transformers.base.modules import Dense as LinearMap
from torch import Tensor

from hyperseek._long_work import progress
from hyperseek.errors import InputError
from hyperseek.models import Blends, ModelConfig, Retriever, build, join_routes
from hyperseek.models.families.dense import without_cards
from hyperseek.models.modules import run_modules
from hyperseek.scoring import Points, Scorer, Space, point_scorer, vectors_of

_TEMPERATURE = 0.05
# Documents that a step compares with, besides those of its own queries: drawn ones did better than mined ones on
# MedQuAD, and both together better than either (docs/LOG.md).
_DRAWN = 2048


@dataclass(frozen=True)
class Material:
    """What heads are fitted on and measured with.

    Attributes:
        model: Compiles the queries; that of the index, or another one with the same document side.
        space: Of the index.
        documents: Its `N` points, in memory.
        texts: Of the `n` queries.
        queries: `(n, d)` vectors of the queries, as the model compiles them.
        grades: For each query the grades of its judged documents, by row.
    """

    model: Retriever
    space: Space
    documents: Points
    texts: Sequence[str]
    queries: Tensor
    grades: Sequence[dict[int, float]]

    def __len__(self) -> int:
        return len(self.texts)

    def relevant(self, row: int) -> list[int]:
        """Return the rows of the documents that are relevant to a query, best first."""
        graded = self.grades[row]
        return sorted((document for document, grade in graded.items() if grade > 0), key=lambda one: -graded[one])

    def scorer(self, queries: Tensor) -> Scorer:
        """Return the scorer of query vectors."""
        return point_scorer(self.space, self.space.canonical(queries) if self.space.unit_norm else queries)


class Head(Protocol):
    """A fitted head."""

    def scorer(self, material: Material, rows: Sequence[int], share: float) -> Scorer:
        """Compile queries of the material, with a share of what was learned, in [0, 1]."""

    def model(self, material: Material, share: float) -> Retriever:
        """Return a model with this head."""


@dataclass(frozen=True)
class Map:
    """Query vectors are sent to q M + b.

    Attributes:
        matrix: `(d, d)`, M.
        shift: `(d,)`, b.
    """

    matrix: Tensor
    shift: Tensor

    @classmethod
    def identity(cls, dimension: int) -> Self:
        """Return the map that changes nothing."""
        return cls(torch.eye(dimension), torch.zeros(dimension))

    def partly(self, share: float) -> Map:
        """Return the map between the identity, at 0, and this one, at 1."""
        return Map(torch.lerp(torch.eye(len(self.shift)), self.matrix, share), share * self.shift)

    def __call__(self, queries: Tensor) -> Tensor:
        return queries @ self.matrix + self.shift

    def then(self, other: Map) -> Map:
        """Return this map followed by another one."""
        return Map(self.matrix @ other.matrix, self.shift @ other.matrix + other.shift)

    def scorer(self, material: Material, rows: Sequence[int], share: float) -> Scorer:
        """See `Head`."""
        return material.scorer(self.partly(share)(material.queries[list(rows)]))

    def model(self, material: Material, share: float) -> Retriever:
        """Return the model with a linear module after its query route; any tool of sentence-transformers reads it."""
        mapped, size = self.partly(share), len(self.shift)
        linear = LinearMap(
            size,
            size,
            bias=bool(mapped.shift.any()),
            activation_function=None,
            init_weight=mapped.matrix.T.contiguous(),
            init_bias=mapped.shift.clone() if mapped.shift.any() else None,
        )
        linear.requires_grad_(False)
        model = material.model
        # The map takes the place of a head that compiles cards, whose own map it includes.
        return join_routes([*without_cards(model), linear], model.route("document"), model)


def ridge(queries: Tensor, targets: Tensor, *, weights: Tensor, strength: float) -> Map:
    """Fit the map that sends queries to their documents, and stays near the identity.

    It minimises the weighted sum of |q M - t|² + strength |M - I|², in closed form.

    Args:
        queries: `(n, d)`.
        targets: `(n, d)`: the mean of each query's relevant documents, of the query's own norm.
        weights: `(n,)` of the queries.
        strength: How many queries of norm 1 in every direction the identity stands for.

    Returns:
        The map.
    """
    eye = torch.eye(queries.shape[1], dtype=torch.float64)
    wide, weighted = queries.double(), (weights[:, None] * queries).double()
    matrix = torch.linalg.solve(weighted.T @ wide + strength * eye, weighted.T @ targets.double() + strength * eye)
    return Map(matrix.float(), torch.zeros(queries.shape[1]))


def targets_of(material: Material, rows: Sequence[int]) -> Tensor:
    """Return what queries would have to be: `(n, d)` means of their relevant documents, of the queries' norms."""
    vectors = vectors_of(material.documents)
    means = torch.stack([vectors[material.relevant(row)].float().mean(dim=0) for row in rows])
    lengths = torch.linalg.vector_norm(material.queries[list(rows)], dim=1, keepdim=True)
    targets: Tensor = lengths * torch.nn.functional.normalize(means, dim=1)
    return targets


@dataclass(frozen=True)
class Steps:
    """How a head is trained.

    Attributes:
        steps: How many.
        batch: Queries of each.
        rate: Learning rate, which rises for a twentieth of the steps and then falls to 0.
        hard: Hard negatives of each query: drawn from the documents that the frozen index ranks first.
        seed: Of all draws.
    """

    steps: int = 300
    batch: int = 256
    rate: float = 1e-3
    hard: int = 4
    seed: int = 0


def train(material: Material, rows: Sequence[int], head: Trained, how: Steps) -> None:
    """Fit a head contrastively: InfoNCE over own documents, those of the batch, drawn ones and hard negatives.

    Args:
        material: The queries and documents.
        rows: Of the queries to fit on.
        head: Its parameters are changed.
        how: How long, and by which steps.
    """
    generator = torch.Generator().manual_seed(how.seed)
    relevant = [material.relevant(row) for row in rows]
    judged = [set(material.grades[row]) for row in rows]
    hard = _hard_negatives(material, rows, judged) if how.hard else None
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=how.rate, weight_decay=0.0)
    warm = max(1, how.steps // 20)
    with progress("fitting", how.steps, unit="steps") as bar:
        for step in range(how.steps):
            optimiser.param_groups[0]["lr"] = how.rate * min((step + 1) / warm, 1.0) * (1 - step / how.steps)
            places = torch.randperm(len(rows), generator=generator)[: how.batch]
            own = [relevant[place] for place in places.tolist()]
            positives = torch.tensor([one[int(torch.randint(len(one), (), generator=generator))] for one in own])
            others = [torch.randint(len(material.documents), (_DRAWN,), generator=generator)]
            if hard is not None:
                drawn = torch.randint(hard.shape[1], (len(places), how.hard), generator=generator)
                others.append(hard[places].gather(1, drawn).flatten())
            documents, found = torch.unique(torch.cat([positives, *others]), return_inverse=True)
            scores = head.scores([rows[place] for place in places.tolist()], material.documents[documents])
            columns = {document: column for column, document in enumerate(documents.tolist())}
            known = [
                (line, columns[one])
                for line, place in enumerate(places.tolist())
                for one in judged[place] & columns.keys()
            ]
            ignored = torch.zeros_like(scores, dtype=torch.bool)
            ignored[tuple(torch.tensor(known).T)] = True
            wanted = found[: len(places)]
            ignored[torch.arange(len(places)), wanted] = False
            logits = (scores / _TEMPERATURE).masked_fill(ignored, -torch.inf)
            loss = torch.nn.functional.cross_entropy(logits, wanted)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            bar.advance(1)


def _hard_negatives(material: Material, rows: Sequence[int], judged: Sequence[set[int]], n: int = 50) -> Tensor:
    """Return for each query `n` rows of the documents that the index ranks first, without those that are judged."""
    n = min(n, len(material.documents))
    best = best_rows(material.scorer(material.queries[list(rows)]), material.documents, n)
    for line, own in zip(best, judged, strict=True):
        kept = [row for row in line.tolist() if row not in own] or [int(line[-1])]
        line.copy_(torch.tensor([kept[place % len(kept)] for place in range(n)]))
    return best


def best_rows(scorer: Scorer, documents: Points, n: int, *, queries_at_once: int = 256) -> Tensor:
    """Return the `(Q, n)` rows of each query's best documents, best first, equal scores by row."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(scorer), queries_at_once):
            scores = scorer[start : start + queries_at_once].score(documents)
            best = scores.topk(min(n, scores.shape[1]), dim=1)
            order = best.indices.sort(dim=1)
            ranked = best.values.gather(1, order.indices).sort(dim=1, descending=True, stable=True).indices
            found.append(order.values.gather(1, ranked))
    return torch.cat(found)


class Trained(Protocol):
    """A head while it is trained."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained."""

    def scores(self, rows: Sequence[int], documents: Points) -> Tensor:
        """Return `(n, N)` scores of queries and documents; differentiable."""


class LowRank:
    """A map I + A B of rank `r`, or I + D of full rank, while it is trained; exactly the identity at first.

    Args:
        material: The queries.
        rank: r; None for full rank.
        seed: Of the first factor.
    """

    def __init__(self, material: Material, *, rank: int | None, seed: int = 0) -> None:
        size = material.queries.shape[1]
        generator = torch.Generator().manual_seed(seed)
        self._material = material
        self._down = (
            None if rank is None else torch.nn.Parameter(torch.randn(size, rank, generator=generator) / size**0.5)
        )
        self._up = torch.nn.Parameter(torch.zeros(size if rank is None else rank, size))

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the factors."""
        return [self._up] if self._down is None else [self._down, self._up]

    def map(self) -> Map:
        """Return the map as it is now."""
        learned = self._up if self._down is None else self._down @ self._up
        return Map(torch.eye(learned.shape[1]) + learned, torch.zeros(learned.shape[1]))

    def scores(self, rows: Sequence[int], documents: Points) -> Tensor:
        """See `Trained`."""
        queries = self._material.queries[list(rows)]
        return self._material.scorer(self.map()(queries)).score(documents)


class Tuned:
    """A model whose query route is trained from some module on; the modules before are run once.

    Args:
        model: Starts as good as the frozen one; its document side is the frozen one's.
        material: The queries.
        start: The first module that is trained or reads what is.
    """

    def __init__(self, model: Retriever, material: Material, *, start: int) -> None:
        self._model, self._material, self._start = model, material, start
        self._frozen: dict[int, dict[str, Tensor]] = {}

    @classmethod
    def q_net(cls, material: Material, *, depth: int, seed: int) -> Self:
        """Return a q-net (Hypencoder) behind the model of the index, which it starts as good as."""
        source = str(material.model.source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(ModelConfig.from_mapping({"trunk": source, "family": "qnet", "qnet": {"depth": depth}}))
        last = len(model.route("query")) - 1
        for module in model.route("query")[:last]:
            module.requires_grad_(False)
        return cls(model, material, start=last)

    @classmethod
    def adapters(cls, material: Material, *, rank: int, seed: int) -> Self:
        """Return the model with low-rank adapters on the linear maps of its query encoder (LoRA)."""
        own = copy.deepcopy(torch.nn.ModuleList(material.model.route("query"))).requires_grad_(False)
        first = own[0]
        generator = torch.Generator().manual_seed(seed)
        for parent, name, module in _children(first):
            if isinstance(module, torch.nn.Linear):
                setattr(parent, name, _Adapter(module, rank, generator))
        if not any(isinstance(module, _Adapter) for module in first.modules()):
            raise InputError(f"a {type(first).__name__} has no linear maps for adapters; choose other kinds")
        model = join_routes(list(own), material.model.route("document"), material.model)
        return cls(model, material, start=0)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters of the modules from `start` on that have gradients."""
        modules = self._model.route("query")[self._start :]
        return [one for module in modules for one in module.parameters() if one.requires_grad]

    def _compiled(self, rows: Sequence[int]) -> Scorer:
        route = self._model.route("query")
        if not self._start:
            features = self._model.preprocess([self._material.texts[row] for row in rows], "query")
        else:
            features = self._features(rows)
        return self._model.scorer(run_modules(route[self._start :], features, "query")).to("cpu")

    def _features(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return what the frozen modules make of queries, padded to the longest of them."""
        for start in range(0, len(missing := [row for row in rows if row not in self._frozen]), 64):
            part = missing[start : start + 64]
            features = self._model.preprocess([self._material.texts[row] for row in part], "query")
            with torch.no_grad():
                made = self._model.forward(features, "query", stop=self._start)
            for place, row in enumerate(part):
                length = int(made["attention_mask"][place].sum())
                self._frozen[row] = {
                    "token_embeddings": made["token_embeddings"][place, :length].clone(),
                    "attention_mask": made["attention_mask"][place, :length].clone(),
                    "sentence_embedding": made["sentence_embedding"][place].clone(),
                }
        own = [self._frozen[row] for row in rows]
        padded = {
            name: torch.nn.utils.rnn.pad_sequence([one[name] for one in own], batch_first=True)
            for name in ("token_embeddings", "attention_mask")
        }
        return {**padded, "sentence_embedding": torch.stack([one["sentence_embedding"] for one in own])}

    def scores(self, rows: Sequence[int], documents: Points) -> Tensor:
        """See `Trained`."""
        return self._compiled(rows).score(documents)

    def scorer(self, material: Material, rows: Sequence[int], share: float) -> Scorer:
        """See `Head`; rows of `material`, which may be other queries than those it was trained on."""
        seen = Tuned(self._blended(share), material, start=self._start)
        with torch.no_grad():
            parts = [seen._compiled(rows[start : start + 64]) for start in range(0, len(rows), 64)]
        return type(parts[0]).concatenate(parts)

    def _blended(self, share: float) -> Retriever:
        """Return the model with a share of what was learned."""
        model = copy.deepcopy(self._model)
        for module in model.route("query")[self._start :]:
            blend = module.blending() if isinstance(module, Blends) else None
            if blend is not None:
                blend(share)
            for part in module.modules():
                if isinstance(part, _Adapter):
                    part.share *= share
        return model

    def model(self, material: Material, share: float) -> Retriever:
        """Return the model, with adapters merged into the weights."""
        model = self._blended(share)
        for parent, name, module in _children(model.model):
            if isinstance(module, _Adapter):
                setattr(parent, name, module.merged())
        model.model.requires_grad_(False)
        return model


class _Adapter(torch.nn.Module):
    """A linear map W x + b that becomes (W + share · 2 B A) x + b, with B zero at first.

    Args:
        linear: The map.
        rank: Of B A.
        generator: Draws A.
    """

    def __init__(self, linear: torch.nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        self.share = 1.0
        self.down = torch.nn.Parameter(
            torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
        )
        self.up = torch.nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, states: Tensor) -> Tensor:
        output: Tensor = self.linear(states) + 2 * self.share * (states @ self.down.T) @ self.up.T
        return output

    @torch.no_grad()
    def merged(self) -> torch.nn.Linear:
        """Return the one linear map that it is."""
        self.linear.weight += 2 * self.share * self.up @ self.down
        return self.linear


def _children(root: torch.nn.Module) -> list[tuple[torch.nn.Module, str, torch.nn.Module]]:
    return [(parent, name, child) for parent in root.modules() for name, child in parent.named_children()]

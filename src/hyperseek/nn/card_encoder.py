"""From the vectors of a card's texts to the numbers of its head.

A card is a description, a set of example queries and a set of example documents. Each text is a vector of the frozen
encoder. The vectors are whitened, so that cards, which lie close together, come apart; each set becomes one vector; and
a small network generates numbers. All maps before its last layer are linear without a constant, or odd, because a
constant part would pull cards together again: behind Hydra's random projection their mean cosine is 0.97, from 0.46.

Shapes: `d` numbers of a text's vector, `n` texts of a set, `w` the width of a card's vector, `P` numbers of a head.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

EncoderName: TypeAlias = Literal["attention", "statistics", "description", "text"]

_PROBES = 4  # learned questions that a set is pooled by
_SPREAD = 16  # directions whose covariance statistics have
_DECAY = 10.0  # of a new head's confidence: one third at a distance of 0.11
_DECAY_RATE = 30.0  # optimisers like Adam move a number by the learning rate at a time, and this one must go far
_HYDRA_WIDTH, _HYDRA_HIDDEN = 256, 512


@dataclass(frozen=True)
class CardFeatures:
    """The vectors of a card's texts, of the frozen encoder.

    Attributes:
        description: `(d,)`: what the card says, or all of its text for the encoder `text`.
        queries: `(n, d)`, one for each example query; may be empty.
        documents: `(n, d)`, one for each example document; may be empty.
    """

    description: Tensor
    queries: Tensor
    documents: Tensor

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> CardFeatures:
        """Return the same on a device, in another number format."""
        return CardFeatures(*(part.to(device, dtype) for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Description, queries and documents."""
        return self.description, self.queries, self.documents

    @property
    def means(self) -> list[Tensor]:
        """`(d,)` each: description, mean query, mean document; zeros for an empty set."""
        return [self.description, *(_mean(part) for part in (self.queries, self.documents))]


class Whitening(nn.Module):
    """Centres vectors and evens out their spread, as fitted to some; the identity before.

    With few vectors the covariance is not known: it is shrunk towards a multiple of the identity by `d / (d + n)`, so
    that a handful of vectors are little more than centred.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("matrix", torch.eye(dimension))

    def fit(self, vectors: Tensor) -> None:
        """Fit to `(n, d)` vectors; fewer than two change nothing."""
        count, dimension = vectors.shape
        if count < 2:
            return
        given = vectors.to(self.mean.device, torch.float64)
        mean = given.mean(dim=0)
        covariance = torch.cov((given - mean).T, correction=0)
        level = covariance.diagonal().mean()
        if not level > 0:
            return
        share = dimension / (dimension + count)
        shrunk = (1 - share) * covariance + share * level * torch.eye(dimension).to(covariance)
        values, vectors = torch.linalg.eigh(shrunk / level)
        self.mean.copy_(mean)
        self.matrix.copy_(vectors @ torch.diag(values.rsqrt()) @ vectors.T)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return whitened vectors, of the same shape."""
        return (vectors - self.mean) @ self.matrix


class SetPooling(nn.Module):
    """One vector of a set, `(outputs,)`, by attention or by statistics; zeros for an empty set."""

    def __init__(self, dimension: int, kind: EncoderName) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.probes = nn.Linear(dimension, _PROBES, bias=False)
            self.outputs = dimension * _PROBES
        else:
            self.directions = nn.Linear(dimension, _SPREAD, bias=False)
            self.outputs = dimension + _SPREAD * (_SPREAD + 1) // 2

    def forward(self, vectors: Tensor) -> Tensor:
        """Pool `(n, d)` vectors of norm `sqrt(d)` or so."""
        if not len(vectors):
            return vectors.new_zeros(self.outputs)
        if self.kind == "attention":
            weights: Tensor = self.probes(vectors).softmax(dim=0)
            return (weights.T @ vectors).flatten()
        mean = vectors.mean(dim=0)
        seen = self.directions(vectors - mean)
        covariance = seen.T @ seen / len(vectors)
        covariance = covariance - covariance.diagonal().mean() * torch.eye(_SPREAD).to(seen)  # which all sets have
        rows, columns = torch.triu_indices(_SPREAD, _SPREAD)
        return torch.cat([mean, covariance[rows, columns]])


class Confidence(nn.Module):
    """Confidence in a card: `exp(-decay * distance)`, of its distance to the nearest task of the training.

    One number is learned, so that it cannot know by heart which cards are strange.
    """

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, distance: Tensor) -> Tensor:
        """Return the confidence at a 0-dim distance, 0-dim, from 0 to 1."""
        decay = _DECAY * (_DECAY_RATE * self.level).exp()
        return (-decay * distance).exp()


class CardEncoder(nn.Module):
    """A card's vector `(w,)` and its confidence, of the vectors of its texts.

    Args:
        dimension: Numbers of a text's vector.
        width: Numbers of a card's vector.
        kind: `attention` and `statistics` read every text of a card; `description` and `text` its first vector alone.
        gate: Whether confidence is learned; otherwise it is 1.
    """

    def __init__(self, dimension: int, width: int, kind: EncoderName, *, gate: bool) -> None:
        super().__init__()
        self.dimension = dimension
        pools = [SetPooling(dimension, kind) for _ in range(2)] if kind in ("attention", "statistics") else []
        self.pools = nn.ModuleList(pools)
        read = dimension + sum(pool.outputs + 1 for pool in pools)
        self.project = nn.Linear(read, width, bias=False)
        self.hidden = nn.Linear(width, width, bias=False)
        self.confidence = Confidence() if gate else None

    def vector(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the card's vector `(w,)`, of root mean square 1.

        Args:
            parts: Whitened vectors: description `(d,)`, queries `(n, d)`, documents `(n, d)`.

        Returns:
            The vector.
        """
        description, *sets = (_even(part) for part in parts)
        pooled = [description]
        for pool, part in zip(self.pools, sets[: len(self.pools)], strict=True):
            # Whether there are examples, no larger than that: what all cards have in common pulls them together.
            there = part.new_full((1,), float(len(part) > 0))
            pooled += [_even(pool(part)), there]
        return _even(self.project(torch.cat(pooled)))

    def forward(self, parts: Sequence[Tensor], distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a card.

        Args:
            parts: As for `vector`.
            distance: 0-dim, to the nearest task of the training; 0 where none is known.

        Returns:
            The card's vector `(w,)`, the last hidden state of its generator `(w,)`, and its confidence, 0-dim.
        """
        vector = self.vector(parts)
        state = torch.tanh(self.hidden(vector))
        return vector, state, vector.new_ones(()) if self.confidence is None else self.confidence(distance)


class CardCompiler(nn.Module):
    """Generates the numbers of a head, and the card's confidence.

    `numbers = start + scale (U h + R (h - h'))`, where `h` is the hidden state, `U` the last layer, which starts at 0,
    and `R` a fixed matrix of signs that repeats the hidden state; `h'` is that of the encoder as it was initialised. A
    new head is therefore exactly its start, and yet the encoder has a gradient. The confidence scales what the head
    changes, so it has one as soon as that is something.

    Args:
        dimension: Numbers of a text's vector.
        start: `(P,)`: the numbers of an unchanged head.
        width: Numbers of a card's vector.
        kind: The card encoder.
        gate: Whether confidence is learned.
        whiten: Whether vectors are whitened, once `fit` has seen some.
        seed: Of the initial weights.
    """

    start: Tensor

    def __init__(
        self,
        dimension: int,
        start: Tensor,
        *,
        width: int,
        kind: EncoderName,
        gate: bool,
        whiten: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.width = width
        self.scale = 1 / math.sqrt(dimension)
        self.whitening = nn.ModuleList(Whitening(dimension) for _ in range(3 if whiten else 0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = CardEncoder(dimension, width, kind, gate=gate)
        self.initial = _frozen(self.encoder)
        self.last = nn.Linear(width, len(start))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("start", start)

    def fit(self, cards: Sequence[CardFeatures]) -> None:
        """Fit the whitening to the cards of the training, at least one."""
        dimension = len(cards[0].description)
        for place, whitening in enumerate(self._whitening()):
            whitening.fit(torch.cat([card.parts[place].reshape(-1, dimension) for card in cards]))

    def _whitening(self) -> list[Whitening]:
        return [part for part in self.whitening if isinstance(part, Whitening)]

    def whitened(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return whitened description, queries and documents; or their means."""
        if not len(self.whitening):
            return list(parts)
        whitened = []
        for whitening, part in zip(self.whitening, parts, strict=True):
            whitened.append(whitening(part) if part.any() else part)
        return whitened

    def vector(self, features: CardFeatures) -> Tensor:
        """Return a card's vector `(w,)`."""
        vector: Tensor = self.encoder.vector(self.whitened(features.parts))
        return vector

    def forward(self, features: CardFeatures, distance: Tensor, *, confidence_alone: bool = False) -> Tensor:
        """Generate.

        Args:
            features: Of a card.
            distance: 0-dim, to the nearest task of the training.
            confidence_alone: Whether the confidence alone has a gradient.

        Returns:
            `(P + 1,)`: the numbers, and the confidence, from 0 to 1.
        """
        parts = self.whitened(features.parts)
        _, state, gate = self.encoder(parts, distance)
        with torch.no_grad():
            _, first, _ = self.initial(parts, distance)
        own = self.last(state) + repeated(state - first, len(self.start))
        if confidence_alone:
            own = own.detach()
        return torch.cat([self.start + self.scale * own, gate[None]])


class HydraCompiler(nn.Module):
    """Hydra's projection of a card's vector, and its generator, whose last layer starts at 0.

    Args:
        dimension: Numbers of a text's vector.
        count: Numbers of a head, `P`.
        width: Numbers of a card's vector.
        hidden: Width of the generator.
        seed: Of the initial weights.
    """

    def __init__(
        self, dimension: int, count: int, *, width: int = _HYDRA_WIDTH, hidden: int = _HYDRA_HIDDEN, seed: int = 0
    ) -> None:
        super().__init__()
        self.width = width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Sequential(
                nn.Linear(dimension, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)
            )
            last = nn.Linear(hidden, count)
            self.param_gen = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), last
            )
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def fit(self, cards: Sequence[CardFeatures]) -> None:
        """Do nothing: Hydra does not whiten."""

    def whitened(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return the vectors themselves."""
        return list(parts)

    def vector(self, features: CardFeatures) -> Tensor:
        """Return a card's vector `(w,)`."""
        vector: Tensor = self.projection(features.description)
        return vector

    def forward(self, features: CardFeatures, distance: Tensor, *, confidence_alone: bool = False) -> Tensor:
        """Generate `(P + 1,)` numbers; the confidence is 1."""
        numbers = self.param_gen(self.vector(features))
        if confidence_alone:
            numbers = numbers.detach()
        return torch.cat([numbers, numbers.new_ones(1)])


def repeated(state: Tensor, count: int) -> Tensor:
    """Repeat hidden states to a number of outputs, with signs that change from one repetition to the next.

    Args:
        state: `(..., w)`.
        count: Outputs.

    Returns:
        `(..., count)`.
    """
    width = state.shape[-1]
    places = torch.arange(count, device=state.device)
    # Bits of the number of the repetition and of the place in it, so that no two repetitions are alike for long.
    signs = 1 - 2 * (((places // width) * (places % width + 1) // 2) % 2)
    return state[..., places % width] * signs


def distances(one: Sequence[Tensor] | Tensor, others: Tensor) -> Tensor:
    """Return how far a card is from others, `1 - cosine` on average over what both have.

    Args:
        one: Its description, mean query and mean document, `(d,)` each, not whitened, since unlike cards would all be
            equally far then; zeros for what is missing.
        others: `(n, 3, d)`, the same of others.

    Returns:
        `(n,)`, from 0 to 2.
    """
    mine = torch.stack(list(one)).to(others)
    there = others.any(dim=-1) & mine.any(dim=-1)
    cosines = nn.functional.cosine_similarity(others, mine, dim=-1)
    return 1 - (cosines * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)


def _mean(vectors: Tensor) -> Tensor:
    return vectors.mean(dim=0) if len(vectors) else vectors.new_zeros(vectors.shape[-1])


def _even(vectors: Tensor) -> Tensor:
    """Return vectors of root mean square 1; zeros stay."""
    return nn.functional.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1])


def _frozen(module: nn.Module) -> nn.Module:
    """Return a copy whose parameters are buffers: saved with the model, and never trained."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            del part._parameters[name]
            part.register_buffer(name, parameter.detach())
    return copied


class CardQNet(nn.Module):
    """A q-net for each query, generated from the query and the card together; its score starts at exactly 0.

    Its last matrix has a gradient at once; the others, which a matrix of zeros follows, from the second step on.

    Args:
        dimension: Numbers of a vector.
        width: Numbers of a card's vector.
        sizes: `[d, hidden, ..., 1]`.
        seed: Of the initial weights.
    """

    def __init__(self, dimension: int, width: int, sizes: Sequence[int], *, seed: int) -> None:
        super().__init__()
        self.shapes = list(itertools.pairwise(sizes))
        self.counts = [*(rows * columns for rows, columns in self.shapes), *sizes[1:-1]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.read = nn.Linear(dimension + width, width, bias=False)
            starts = [torch.randn(rows * columns) / math.sqrt(rows) for rows, columns in self.shapes[:-1]]
        self.starts = nn.ParameterList(starts)
        self.initial = _frozen(self.read)
        self.last = nn.Linear(width, sum(self.counts))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.scale = 1 / math.sqrt(dimension)

    def forward(self, queries: Tensor, card: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Generate.

        Args:
            queries: `(Q, d)`.
            card: `(w,)`, a card's vector.

        Returns:
            Matrices `(Q, in, out)` and vectors `(Q, size, 1)` for a `QNetScorer`.
        """
        read = torch.cat([_even(queries), card.expand(len(queries), -1)], dim=1)
        state = torch.tanh(self.read(read))
        with torch.no_grad():
            first = torch.tanh(self.initial(read))
        parts = list(torch.split(self.scale * self.last(state), self.counts, dim=1))
        matrices, vectors = parts[: len(self.shapes)], parts[len(self.shapes) :]
        for place, start in enumerate(self.starts):
            matrices[place] = matrices[place] + start
        matrices[-1] = matrices[-1] + self.scale * repeated(state - first, matrices[-1].shape[1])
        shaped = [part.view(-1, *shape) for part, shape in zip(matrices, self.shapes, strict=True)]
        return shaped, [part[..., None] for part in vectors]

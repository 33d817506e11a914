"""An encoding of token sets that is learned from a corpus: late interaction as one inner product of short vectors.

LEMUR (Jääsaari and others, arXiv 2601.21853). What a query token `x` contributes to a document's score, its maximum
over the document's tokens, is a function of `x` alone. A small network `ψ` with one hidden layer is trained so that all
these functions are nearly linear in `ψ(x)`; a document is then the weights of its own function, found by least squares
on a fixed sample of tokens, and a query is the sum of `ψ` over its tokens.

Two details are ours. A maximum of inner products grows in proportion to the query token, so `ψ(x)` is the norm of `x`
times a function of its direction: weights of tokens need nothing more, and absent tokens, zeros, add nothing. And
maxima have a large mean over documents, which ranks none before another, so it is subtracted.

Shapes: `N` documents, `Q` queries, `d` dimensions, `T` tokens of all documents, `t` of a query, `s` tokens of the
sample, `e` numbers of an encoding.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hyperseek._long_work import progress
from hyperseek.errors import InputError
from hyperseek.geometry.maxsim import token_maxima
from hyperseek.scoring._points import described

_TOGETHER = 256  # documents, or queries, that are encoded at a time
_BATCH = 512
_RATE = 3e-3  # largest learning rate of Adam
_WARM = 0.2  # share of the steps until then
_PENALTY = 1e-2  # of the weights of a document, against the mean square of a number of ψ
# Both memory and time grow with the square of the width, and with width times sample.
_WIDEST, _MOST_NUMBERS = 1 << 14, 1 << 28


@dataclass(frozen=True, slots=True)
class LearnedEncoding:
    """How token sets become vectors by what was learned from a corpus.

    Attributes:
        dimension: `d`, of the tokens.
        width: `e`, 1 to 16,384.
        sample: `s`, tokens whose maxima make a document's weights, at least 1; below `width` they decide too little.
            `width * sample` is at most 2²⁸, 2 GiB of float64.
        documents: Documents whose maxima the network is trained to explain, at least 1.
        epochs: Passes over the sample in training; with 0 the network stays as it was drawn.
        seed: Of the sample and the network.
        fitted: What `fit` returned; None before.

    Raises:
        InputError: A setting is out of its range.
    """

    dimension: int
    width: int = 1280
    sample: int = 4096
    documents: int = 1024
    epochs: int = 10
    seed: int = 0
    fitted: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        least = min(self.dimension, self.width, self.sample, self.documents)
        if least < 1 or self.epochs < 0 or not 0 <= self.seed < 1 << 32:
            raise InputError(f"sizes must be at least 1, epochs at least 0, seed 0 to 2³² - 1; given {self}")
        if self.width > _WIDEST or self.width * self.sample > _MOST_NUMBERS:
            raise InputError(
                f"a width is at most {_WIDEST:,}, and width times sample at most {_MOST_NUMBERS:,}; given {self}"
            )
        if self.fitted is not None:
            self._check(self.fitted)

    def fit(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Learn from a corpus; memory depends on the settings, not on the number of documents.

        Args:
            chunks: Documents as `vectors (T, d)` and `offsets (N + 1,)`, read once.

        Returns:
            The tensors to keep: of the network, the tokens of the sample `(s, d)`, the mean of their maxima `(s,)`, and
            the least squares solution `(s, e)`, which makes a document's maxima its encoding.
        """
        with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode cannot be trained
            return self._fit(self._drawn(chunks))

    def _fit(self, texts: list[Tensor]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        joined = torch.cat([torch.zeros(0, self.dimension), *texts])
        joined = joined[joined.isfinite().all(dim=1) & (joined != 0).any(dim=1)]
        tokens = torch.nn.functional.normalize(joined[_choice(len(joined), self.sample, generator)], dim=1)
        if not len(tokens):
            tokens = torch.zeros(1, self.dimension)
        lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        maxima = token_maxima(torch.cat([torch.zeros(0, self.dimension), *texts]), offsets, tokens)
        mean = maxima.mean(dim=0) if len(texts) else torch.zeros(len(tokens))
        network = self._trained(tokens, (maxima - mean).T, generator)
        hidden = _hidden(tokens, network).double()
        square = hidden.T @ hidden
        square.diagonal().add_(_PENALTY * square.diagonal().mean() + 1e-12)
        solution = torch.linalg.solve(square, hidden.T).T.float()
        return {**network, "tokens": tokens, "mean": mean, "solution": solution.contiguous()}

    def encode_documents(self, vectors: Tensor, offsets: Tensor) -> Tensor:
        """Encode documents.

        Args:
            vectors: `(T, d)`, floating, the tokens of all documents one after the other.
            offsets: `(N + 1,)` int64: document `i` has the tokens from `offsets[i]` to `offsets[i + 1]`.

        Returns:
            `(N, e)` float32. A document without tokens is encoded as one that is orthogonal to all.
        """
        parts = [torch.zeros(0, self.width)]
        for start in range(0, len(offsets) - 1, _TOGETHER):
            fitted = self._known()
            own = offsets[start : start + _TOGETHER + 1]
            maxima = token_maxima(vectors[int(own[0]) : int(own[-1])], own - own[0], fitted["tokens"])
            parts.append((maxima - fitted["mean"]) @ fitted["solution"])
        return torch.cat(parts)

    def encode_queries(self, queries: Tensor) -> Tensor:
        """Encode queries.

        Args:
            queries: `(Q, t, d)`, floating; tokens to leave out are zero.

        Returns:
            `(Q, e)` float32.
        """
        parts = [torch.zeros(0, self.width)]
        for block in torch.split(queries, _TOGETHER) if len(queries) else ():
            norms = torch.linalg.vector_norm(block.float(), dim=-1, keepdim=True)
            hidden = _hidden(block.float() / norms.clamp_min(torch.finfo(torch.float32).tiny), self._known())
            parts.append((hidden * norms).sum(dim=1))
        return torch.cat(parts)

    def _check(self, fitted: Mapping[str, Tensor]) -> None:
        count = len(fitted["tokens"]) if "tokens" in fitted and fitted["tokens"].ndim else 0
        shapes = {
            "weight": (self.dimension, self.width),
            **dict.fromkeys(("bias", "gain", "shift"), (self.width,)),
            "tokens": (count, self.dimension),
            "mean": (count,),
            "solution": (count, self.width),
        }
        for name, shape in shapes.items():
            if name not in fitted or fitted[name].shape != shape or fitted[name].dtype != torch.float32:
                given = described(fitted[name]) if name in fitted else "nothing"
                raise InputError(f"a learned encoding of these settings has {name!r} of the shape {shape}, not {given}")

    def _known(self) -> Mapping[str, Tensor]:
        if self.fitted is None:
            raise InputError("a learned encoding has to be fitted to documents first: see Space.fit_features")
        return self.fitted

    def _drawn(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Draw documents: those with the smallest of uniform numbers, however the stream is cut into chunks."""
        random = np.random.RandomState(self.seed)
        kept: list[tuple[float, int, Tensor]] = []
        row = 0
        for vectors, offsets in chunks:
            bounds = offsets.tolist()
            for place, key in enumerate(random.random_sample(len(bounds) - 1)):
                if len(kept) < self.documents or -key > kept[0][0]:
                    text = vectors[bounds[place] : bounds[place + 1]].float().clone()
                    heapq.heappush(kept, (-key, row + place, text))
                    if len(kept) > self.documents:
                        heapq.heappop(kept)
            row += len(bounds) - 1
        return [text for _, _, text in sorted(kept, key=lambda entry: entry[1])]

    def _trained(self, tokens: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Train the network with a linear layer on it: `(s, d)` tokens to `(s, N)` centred maxima."""
        bound = self.dimension**-0.5
        network = {
            "weight": (torch.rand(self.dimension, self.width, generator=generator) * 2 - 1) * bound,
            "bias": (torch.rand(self.width, generator=generator) * 2 - 1) * bound,
            "gain": torch.ones(self.width),
            "shift": torch.zeros(self.width),
        }
        tokens, targets = tokens.clone(), targets.contiguous()
        scale = float(targets.square().mean().sqrt()) if targets.numel() else 0.0
        if not scale or not self.epochs:
            return network
        head = torch.zeros(self.width, targets.shape[1])
        trained = [*network.values(), head]
        with torch.enable_grad(), progress("learning an encoding", self.epochs, unit="epochs") as bar:
            for tensor in trained:
                tensor.requires_grad_()
            optimiser = torch.optim.Adam(trained, lr=_RATE)
            steps = self.epochs * -(-len(tokens) // _BATCH)
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: min((step + 1) / (_WARM * steps), (steps - step) / ((1 - _WARM) * steps), 1.0)
            )
            for _ in range(self.epochs):
                for rows in torch.split(torch.randperm(len(tokens), generator=generator), _BATCH):
                    loss = (_hidden(tokens[rows], network) @ head - targets[rows] / scale).square().mean()
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    schedule.step()
                bar.advance(1)
        return {name: tensor.detach() for name, tensor in network.items()}


def _hidden(tokens: Tensor, network: Mapping[str, Tensor]) -> Tensor:
    """Return `ψ` of `(..., d)` tokens of norm 1: `(..., e)`."""
    states = tokens @ network["weight"] + network["bias"]
    states = torch.nn.functional.layer_norm(states, states.shape[-1:], network["gain"], network["shift"])
    return torch.nn.functional.gelu(states)


def _choice(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return `(min(count, size),)` different row numbers."""
    return torch.randperm(count, generator=generator)[:size]

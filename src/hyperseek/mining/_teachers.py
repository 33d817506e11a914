"""Teachers that score pairs of a query and a document: cross-encoders, and any retriever.

Both have `name` and `score_pairs`, which the filters of false negatives use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperseek._fingerprint import fingerprint_json, fingerprint_weights
from hyperseek.errors import InputError, ModelError
from hyperseek.types import QueryOptions

if TYPE_CHECKING:
    from hyperseek.models import Retriever

_BATCH = 32


class CrossEncoderTeacher:
    """A cross-encoder, which reads query and document together.

    Args:
        model: A `sentence_transformers.CrossEncoder` with one label.
        name: Its name in records.
        batch_size: Pairs per forward pass.

    Raises:
        InputError: It has several labels, so there is no single relevance score.
    """

    def __init__(self, model: Any, *, name: str, batch_size: int = _BATCH) -> None:
        if model.num_labels != 1:
            raise InputError(f"a teacher must give one score per pair, and {name} gives {model.num_labels}")
        self.model = model
        self.name = name
        self._batch_size = batch_size

    @property
    def fingerprint(self) -> str:
        """Fingerprint of its weights, hashed again only when they change."""
        return fingerprint_weights(self.model)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs.

        Args:
            pairs: Queries and documents.

        Returns:
            The model's output before any activation, one number per pair; higher is better.
        """
        import torch

        if not pairs:
            return []
        scores = self.model.predict(
            list(pairs),
            batch_size=self._batch_size,
            show_progress_bar=False,
            activation_fn=torch.nn.Identity(),
            convert_to_numpy=True,
        )
        return [float(score) for score in scores]


class RetrieverTeacher:
    """A retriever as a teacher: its own score of each pair.

    Args:
        model: Any retriever.
        name: Its name in records; None for the model's source.
        options: Options of the model for every query, as in `{"level": 2}`.
    """

    def __init__(self, model: Retriever, *, name: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.options = QueryOptions.of(options)
        self.name = name or model.source or model.fingerprint

    @property
    def fingerprint(self) -> str:
        """Fingerprint of both sides of the model, and of any options."""
        sides = [self.model.fingerprint, self.model.protocol().get("query_fingerprint")]
        return fingerprint_json([*sides, self.options.to_json()] if self.options else sides)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs; each query is compiled and each document encoded once.

        Args:
            pairs: Queries and documents.

        Returns:
            One number per pair; higher is better.
        """
        import torch

        if not pairs:
            return []
        scores = [0.0] * len(pairs)
        queries = list(dict.fromkeys(query for query, _ in pairs))
        places = {text: place for place, text in enumerate(dict.fromkeys(text for _, text in pairs))}
        own: dict[str, list[int]] = {query: [] for query in queries}
        for number, (query, _) in enumerate(pairs):
            own[query].append(number)
        points = self.model.encode_documents(list(places))
        done = 0
        for scorer in self.model.compile_batches(queries, self.options):
            for place, query in enumerate(queries[done : done + len(scorer)]):
                rows = torch.tensor([places[pairs[number][1]] for number in own[query]])
                with torch.inference_mode():
                    values = scorer[place : place + 1].score(points[rows].to(scorer.device))[0].tolist()
                for number, value in zip(own[query], values, strict=True):
                    scores[number] = value
            done += len(scorer)
        return scores


def load_teacher(
    path_or_name: str | os.PathLike[str], *, device: str | None = None
) -> CrossEncoderTeacher | RetrieverTeacher:
    """Load a teacher of pairs.

    Args:
        path_or_name: A folder or Hub name of a cross-encoder (a model for sequence classification), or anything that
            `hyperseek.load` reads.
        device: Its device, as in `"cuda:0"`; None takes a GPU if there is one.

    Returns:
        The teacher.

    Raises:
        ModelError: There is no such model, or it cannot be read.
        InputError: It is a classifier with several labels.
    """
    from hyperseek.models.loading import load, resolve_name

    location = resolve_name(path_or_name)
    if _is_classifier(location):
        from sentence_transformers import CrossEncoder

        try:
            model = CrossEncoder(location, device=device)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"cannot load a cross-encoder from {str(path_or_name)!r}: {error}") from error
        return CrossEncoderTeacher(model, name=str(path_or_name))
    return RetrieverTeacher(load(path_or_name, device=device), name=str(path_or_name))


def _is_classifier(location: str) -> bool:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(location)
    except (OSError, ValueError):  # sentence-transformers folders need not hold a transformers configuration
        return False
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])

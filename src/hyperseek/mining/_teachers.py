"""Teachers that score pairs of a query and a document: cross-encoders, any retriever, and those behind endpoints.

All have `name` and `score_pairs`, which the filters of false negatives use. For preferences, a teacher scores documents
of one collection by their ids (`CollectionTeacher`), and what it said is kept on disk (`StoredScores`).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hyperseek._files import atomic_write, reading, write_json
from hyperseek._fingerprint import fingerprint_json, fingerprint_weights
from hyperseek.errors import InputError, ModelError, shown
from hyperseek.mining._bm25 import BM25
from hyperseek.mining._endpoints import KEY_VARIABLE, URL_VARIABLE, EndpointTeacher, endpoint_teacher, is_endpoint
from hyperseek.types import QueryOptions

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.mining._negatives import Teacher
    from hyperseek.models import Retriever

_BATCH = 32
_KEY_BYTES = 8


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
        self.options = model.check_options(options)
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
    path_or_name: str | os.PathLike[str],
    *,
    device: str | None = None,
    url: str | None = None,
    key: str | None = None,
) -> CrossEncoderTeacher | RetrieverTeacher | EndpointTeacher:
    """Load a teacher of pairs.

    Args:
        path_or_name: A folder or Hub name of a cross-encoder (a model for sequence classification); anything that
            `hyperseek.load` reads; `cohere:MODEL` or `openai:MODEL`, a reranker or a language model behind an endpoint.
        device: Its device, as in `"cuda:0"`; None takes a GPU if there is one.
        url: The endpoint; None takes the environment's `HYPERSEEK_TEACHER_URL`.
        key: The endpoint's key; None takes the environment's `HYPERSEEK_TEACHER_KEY`, and none where that is not set.

    Returns:
        The teacher.

    Raises:
        ModelError: There is no such model, or it cannot be read.
        InputError: It is a classifier with several labels, or an endpoint without an address.
    """
    from hyperseek.models.light import resolve_name
    from hyperseek.models.loading import load

    if isinstance(path_or_name, str) and is_endpoint(path_or_name) and not os.path.exists(path_or_name):
        place = url or os.environ.get(URL_VARIABLE)
        return endpoint_teacher(path_or_name, url=place, key=key or os.environ.get(KEY_VARIABLE))
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


class CollectionTeacher(Protocol):
    """A teacher of one collection, which scores documents by their ids.

    Attributes:
        name: Its name in records.
        fingerprint: Changes with its scores.
        together: Whether a document's score depends on the others of its list.
    """

    name: str
    fingerprint: str
    together: bool

    def score(self, queries: Sequence[str], ids: Sequence[Sequence[str]]) -> Sequence[Sequence[float]]:
        """Return the scores of each query's documents, higher is better."""
        ...


class BM25Teacher:
    """BM25 over the whole collection.

    Args:
        ranker: Its index.
        collection: Fingerprint of the documents, which all scores depend on.
    """

    name = "bm25"
    together = False

    def __init__(self, ranker: BM25, collection: str) -> None:
        self._ranker = ranker
        self.fingerprint = fingerprint_json(["bm25", ranker.settings.model_dump(mode="json"), collection])

    def score(self, queries: Sequence[str], ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """Score documents by their ids."""
        return self._ranker.scores(queries, ids)


class IndexTeacher:
    """A model over the points of an index, whatever its scorer: nothing is encoded but the queries.

    Args:
        index: The index, with its model.
        name: Its name in records.
        options: Options of the model for every query.
    """

    together = False

    def __init__(self, index: Index, *, name: str, options: QueryOptions | None = None) -> None:
        self._index, self._options, self.name = index, options, name
        sides = [index.info.fingerprint, index.model.protocol().get("query_fingerprint"), index.data_fingerprint]
        self.fingerprint = fingerprint_json([*sides, options.to_json() if options else None])

    def score(self, queries: Sequence[str], ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """Score documents by their ids."""
        return self._index.score(list(queries), ids, options=self._options)


class TextTeacher:
    """Any teacher of texts: of pairs by `score_pairs`, or of whole lists where it has `score_lists`.

    Args:
        teacher: The teacher.
        texts: The collection's texts by id.
    """

    def __init__(self, teacher: Teacher, texts: Mapping[str, str]) -> None:
        self._teacher, self._texts = teacher, texts
        self.name = teacher.name
        self.together = callable(getattr(teacher, "score_lists", None))
        own = getattr(teacher, "fingerprint", None)
        self.fingerprint = own if isinstance(own, str) else fingerprint_json(["name", teacher.name])

    def score(self, queries: Sequence[str], ids: Sequence[Sequence[str]]) -> Sequence[Sequence[float]]:
        """Score documents by their ids."""
        lists = [[self._texts[one] for one in own] for own in ids]
        if self.together:
            found: Sequence[Sequence[float]] = self._teacher.score_lists(queries, lists)  # type: ignore[attr-defined]
            return found
        pairs = [(query, text) for query, own in zip(queries, lists, strict=True) for text in own]
        scores = list(self._teacher.score_pairs(pairs)) if pairs else []
        if len(scores) != len(pairs):
            raise InputError(f"the teacher {self.name} scored {len(scores)} of {len(pairs)} pairs; it must score each")
        left = iter(scores)
        return [[next(left) for _ in own] for own in lists]


class StoredScores:
    """A teacher's scores, kept on disk: Parquet files in a folder named by the teacher's fingerprint.

    Each file has the columns `query` and `document` (ids, for people), `key` (a hash of the texts, and of the whole
    list for a teacher that reads it together) and `score`. A text that has changed is scored again.

    Args:
        folder: Scores of all teachers.
        teacher: Asked for the scores that are missing.
        texts: The collection's texts by id.

    Raises:
        DataError: A file of scores is damaged.
    """

    def __init__(self, folder: Path, teacher: CollectionTeacher, texts: Mapping[str, str]) -> None:
        self._teacher, self._texts = teacher, texts
        self._folder = folder / fingerprint_json([teacher.name, teacher.fingerprint])[:16]
        self.asked = 0
        parts = [_read_scores(path) for path in sorted(self._folder.glob("*.parquet"))]
        keys, scores = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else _NO_SCORES
        self._keys, first = np.unique(keys, return_index=True)
        self._scores = scores[first]

    def score(
        self, names: Sequence[str], queries: Sequence[str], ids: Sequence[Sequence[str]]
    ) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        """Return scores, asking the teacher for those that are missing, which are on disk when this returns.

        Args:
            names: Ids of the queries.
            queries: Their texts.
            ids: The documents of each.

        Returns:
            For each query `(n,)`, one number per document.

        Raises:
            InputError: The teacher did not give one finite number per document.
        """
        keys = [self._keys_of(query, own) for query, own in zip(queries, ids, strict=True)]
        result = [self._known(own) for own in keys]
        missing = [np.flatnonzero(np.isnan(own)).tolist() for own in result]
        if self._teacher.together:
            missing = [list(range(len(own))) if places else [] for own, places in zip(keys, missing, strict=True)]
        lines = [line for line, places in enumerate(missing) if places]
        if lines:
            wanted = [[ids[line][place] for place in missing[line]] for line in lines]
            given = self._teacher.score([queries[line] for line in lines], wanted)
            for line, own, scores in zip(lines, wanted, given, strict=True):
                result[line][missing[line]] = self._checked(queries[line], own, scores)
            self._write(
                [names[line] for line in lines for _ in missing[line]],
                [one for own in wanted for one in own],
                np.concatenate([keys[line][missing[line]] for line in lines]),
                np.concatenate([result[line][missing[line]] for line in lines]),
            )
        return result

    def _known(self, keys: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the scores on disk, NaN for those that are missing."""
        found = np.full(len(keys), np.nan)
        if len(self._keys):
            places = np.searchsorted(self._keys, keys)
            there = self._keys.take(places, mode="clip") == keys
            found[there] = self._scores[places[there]]
        return found

    def _keys_of(self, query: str, ids: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        texts = [self._texts[one] for one in ids]
        whole = texts if self._teacher.together else []
        start = hashlib.blake2b(digest_size=_KEY_BYTES)
        for part in (query, *whole):
            encoded = part.encode(errors="surrogatepass")
            start.update(len(encoded).to_bytes(8, "big") + encoded)
        keys = []
        for text in texts:
            own = start.copy()
            own.update(text.encode(errors="surrogatepass"))
            keys.append(int.from_bytes(own.digest(), "big"))
        return np.array(keys, np.uint64)

    def _checked(self, query: str, ids: Sequence[str], scores: Iterable[float]) -> list[float]:
        found = [float(score) for score in scores]
        if len(found) != len(ids):
            raise InputError(f"the teacher {self._teacher.name} scored {len(found)} of {len(ids)} documents")
        for one, score in zip(ids, found, strict=True):
            if not math.isfinite(score):
                raise InputError(
                    f"the teacher {self._teacher.name} gave {score} for the query {shown(query)} and document {one!r}"
                )
        self.asked += len(found)
        return found

    def _write(self, queries: list[str], documents: list[str], keys: Any, scores: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._folder.is_dir():
            about = {"teacher": self._teacher.name, "fingerprint": self._teacher.fingerprint}
            write_json(self._folder / "teacher.json", about)
        table = pa.table({"query": queries, "document": documents, "key": keys, "score": scores})
        # Named by content, so that two processes with one folder do not disturb each other.
        name = hashlib.blake2b(keys.tobytes(), digest_size=_KEY_BYTES).hexdigest()
        with atomic_write(self._folder / f"{name}.parquet", "wb") as file:
            pq.write_table(table, file)


_NO_SCORES = (np.zeros(0, np.uint64), np.zeros(0))


def _read_scores(path: Path) -> tuple[Any, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, "a file of teacher scores", remedy="delete it, and its scores are asked for again"):
        columns = {"key": pa.uint64(), "score": pa.float64()}
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(columns))
        table.validate(full=True)
        if any(table.schema.field(name).type != kind for name, kind in columns.items()):
            raise ValueError(f"its columns are {shown(table.schema.names)}")
        keys, scores = (table.column(name).to_numpy() for name in columns)
        if table.column("key").null_count or not np.isfinite(scores).all():
            raise ValueError("a score is missing")
        return keys, scores

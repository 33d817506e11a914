"""A model as mteb sees it: a searcher for tasks with queries, an encoder for all others.

mteb asks a model for what it can, by two protocols, and `MtebEncoder` has both. Tasks with queries (retrieval,
reranking, instructions) are searched by the model's own scores, whatever it compiles queries to: the corpus becomes an
index, documents are ranked exhaustively as `hyperseek evaluate` ranks them, and lists of candidates are reranked. Every
other task gets one vector per text.

**Ties.** mteb's measures order equal scores by the documents' ids, descending; everything here by the order of the
corpus. So equal scores are handed over one step of float32 apart, in our order, and both count the same.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hyperseek._order import best_first
from hyperseek.errors import InputError, require, shown
from hyperseek.evaluation.candidates import rerank
from hyperseek.evaluation.encoded_queries import compile_instructed
from hyperseek.geometry.euclidean import cosine_similarity, unit_vectors
from hyperseek.geometry.polar import tangent_to_polar
from hyperseek.index import Index
from hyperseek.models import Retriever
from hyperseek.models.encoding import resolve_dtype
from hyperseek.scoring import Space, VectorPoints, vectors_of
from hyperseek.types import Document, Query, Run

if TYPE_CHECKING:
    import numpy.typing as npt

INSTRUCTION = "instruction"
"""The column of mteb's queries that says what is relevant."""

_LONGEST_NAME = 100

logger = logging.getLogger(__name__)


class MtebEncoder:
    """A model for mteb: `mteb.evaluate(MtebEncoder(load(...)), tasks)`.

    Tasks with queries are searched and reranked by the model's exact scores; equal ones keep the order of the corpus,
    or of the list of candidates. All other tasks get one vector per text (see `Retriever.encode_features`), compared by
    the cosine: of hyperbolic models the logarithmic map at the origin, of late interaction the mean token vector.

    Args:
        retriever: The model.
        name: Name of the results, as in `"ours/lorentz-minilm"`, of letters, digits and `._+-`; None takes the
            model's source.
        options: Options of the model for every query, as in `{"level": 2}`; results record them too.
        scoring: What compares two texts of a task without queries: None for the cosine of their vectors; or a
            similarity of the model's hyperbolic space (`"geodesic"`, `"squared"`, `"inner"`) for the points themselves.
            These rank alike, so tasks with queries are the same under all of them.
        card_field: For models with task cards: `"instruction"` asks each query with a card of its own, which its
            instruction describes, instead of adding the instruction to the query; or another column of the queries.
        dtype: Number type that documents are encoded in; see `Retriever.encode_documents`.
        folder: Keeps the indexes of tasks, so that a killed run resumes in the middle of a corpus; None keeps none.

    Attributes:
        mteb_model_meta: The model's description for mteb.
        options: The options, checked by the model.

    Raises:
        InputError: The model does not understand an option, its space has no such similarity, or the name cannot be
            a folder's.
        MissingExtraError: mteb is not installed.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
        scoring: str | None = None,
        card_field: str | None = None,
        dtype: str = "auto",
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        mteb = require("mteb.models.model_meta", extra="mteb")
        resolve_dtype(dtype, torch.device("cpu"))  # a wrong name is told before any task
        self.options = retriever.check_options(options)
        self.retriever = retriever
        self._space = None if scoring is None else _scored_by(retriever.space, scoring)
        self._card_field = card_field
        self._dtype = dtype
        self._folder = None if folder is None else Path(folder)
        self._corpus: Any = None
        stem = _name_parts(name, retriever.source)
        changed = {**self.options.to_json(), "scoring": scoring, "card_field": card_field}
        self.mteb_model_meta = mteb.ModelMeta.create_empty(
            overwrites={
                "name": "/".join(["hyperseek", *stem][-2:]),
                "revision": f"{retriever.fingerprint[:8]}{_query_fingerprint(retriever)[:8]}",
                "embed_dim": retriever.space.dimension,
                "max_tokens": retriever.max_length["document"],
                "modalities": ["text"],
                "loader": type(self),
                "experiment_kwargs": {key: value for key, value in changed.items() if value is not None} or None,
            }
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> npt.NDArray[Any]:
        """Encode texts.

        Args:
            inputs: Batches with a list of `text`.
            task_metadata: Ignored.
            hf_split: Ignored.
            hf_subset: Ignored.
            prompt_type: Whether the texts are queries, documents, or neither.
            **kwargs: Ignored.

        Returns:
            `(N, w)` stored points of queries and documents, `(N, d)` vectors of other texts.

        Raises:
            InputError: Queries or documents of this model are not points; search with it.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        side = getattr(prompt_type, "value", prompt_type)
        if side == "query":
            return self._queries(texts).numpy()
        if side == "document":
            if self.retriever.space.ragged:
                raise InputError("a document of this model is a set of vectors; let mteb search with the model")
            return vectors_of(self.retriever.encode_documents(texts, dtype=self._dtype)).numpy()
        return self.retriever.encode_features(texts).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return `(Q, N)` similarities of results of `encode`; higher is better."""
        queries, documents = torch.as_tensor(embeddings1), torch.as_tensor(embeddings2)
        if self._are_points(queries, documents):
            return self.retriever.space.score(queries, VectorPoints(documents))
        if self._space is not None:
            return self._space.score(self._placed(queries), VectorPoints(self._placed(documents)))
        return cosine_similarity(queries, documents)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the `(N,)` similarities of rows."""
        queries, documents = torch.as_tensor(embeddings1), torch.as_tensor(embeddings2)
        if self._are_points(queries, documents):
            return self.retriever.space.score_own(queries, documents[:, None])[:, 0]
        if self._space is not None:
            return self._space.score_own(self._placed(queries), self._placed(documents)[:, None])[:, 0]
        return (unit_vectors(queries) * unit_vectors(documents)).sum(dim=-1)

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Take a corpus to search in; it is encoded when the queries are known.

        Args:
            corpus: Rows with `id`, `text` and, if they have one, `title`.
            **kwargs: Ignored.
        """
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        top_ranked: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Run:
        """Search the corpus, or rerank what is given.

        Args:
            queries: Rows with `id`, `text` and further columns: an `instruction` is added to the text, as mteb does,
                and `excluded_ids` are left out of the ranking.
            task_metadata: Names the task.
            hf_split: Names its split.
            hf_subset: Names its subset.
            top_k: Documents per query.
            top_ranked: Documents to rerank by query, of reranking tasks.
            **kwargs: Ignored.

        Returns:
            Scores by query and document, all of a query different.

        Raises:
            InputError: No corpus was given, or a document to rerank is not in it.
        """
        if self._corpus is None:
            raise InputError("there is no corpus to search in; mteb calls index() before search()")
        asked = [query_of(row, card_field=self._card_field) for row in queries]
        spoken = [query for query in asked if query.text.strip()]
        if len(spoken) < len(asked):
            logger.warning("%d of %d queries are blank and find nothing", len(asked) - len(spoken), len(asked))
        wanted = None
        if top_ranked is not None:
            lists = {query.id: list(top_ranked.get(query.id) or ()) for query in spoken}
            wanted = {one for ids in lists.values() for one in ids}
        run: Run = {}
        place = "-".join((task_metadata.name, hf_subset, hf_split)).replace("/", "-")
        with self._indexed(place, wanted) as index:
            how: dict[str, Any] = {"k": top_k, "options": self.options}
            if self._card_field is not None:
                how["scorer"] = compile_instructed(self.retriever, spoken, self._card_field, self.options)
                how["options"] = None
            if spoken and wanted is None:
                run = index.run(spoken, engine="exact", **how)
            elif wanted:
                run = rerank(index, spoken, lists, **how)
        return {query.id: apart(run.get(query.id, {})) for query in asked}

    @contextmanager
    def _indexed(self, place: str, wanted: set[str] | None) -> Iterator[Index]:
        documents = _documents(self._corpus, wanted)
        total = len(self._corpus) if wanted is None else len(wanted)
        with tempfile.TemporaryDirectory(prefix="hyperseek-mteb-") as temporary:
            folder = Path(temporary) if self._folder is None else self._folder
            yield Index.build(folder / place, documents, self.retriever, dtype=self._dtype, name=place, total=total)

    def _are_points(self, *vectors: Tensor) -> bool:
        # Tangent vectors of a hyperbolic space have two numbers fewer than its stored points.
        space = self.retriever.space
        return not space.ragged and all(part.shape[-1] == space.width for part in vectors)

    def _placed(self, tangents: Tensor) -> Tensor:
        space = self.retriever.space
        # The logarithmic map is as long as the distance from the origin; `tangent_to_polar` takes half of that.
        return tangent_to_polar(tangents / 2, c=1 / space.radius_squared)

    def _queries(self, texts: list[str]) -> Tensor:
        vectors = [scorer.linear() for scorer in self.retriever.compile_batches(texts, self.options)]
        if any(part is None for part in vectors):
            raise InputError("queries of this model are functions, not points; let mteb search with the model")
        found = [part.cpu() for part in vectors if part is not None]
        return torch.cat(found) if found else torch.zeros(0, self.retriever.space.width)


def query_of(row: Mapping[str, Any], *, card_field: str | None = None) -> Query:
    """Return a row of mteb's queries, its text as mteb gives it to models.

    Args:
        row: `id`, `text` (a string or the turns of a conversation) and further columns, which become metadata.
        card_field: A column that is not part of the text.

    Returns:
        The query.

    Raises:
        InputError: The text is of another form.
    """
    metadata = {key: value for key, value in row.items() if key not in ("id", "text") and value is not None}
    text, instruction = row["text"], None if card_field == INSTRUCTION else metadata.get(INSTRUCTION)
    if isinstance(text, str):
        text = text if instruction is None else f"{text} {instruction}"
    elif isinstance(text, list) and text and all(isinstance(turn, str) for turn in text):
        text = "; ".join(text)
        text = text if instruction is None else f"{instruction} {text}"
    elif isinstance(text, list) and text and all(isinstance(turn, Mapping) for turn in text):
        text = "; ".join(f"{turn['role']}: {turn['content']}" for turn in text)
        text = text if instruction is None else f"{instruction} {text}"
    else:
        raise InputError(f"query {row['id']!r} is neither a text nor a conversation; this model reads texts only")
    return Query(str(row["id"]), text, metadata)


def apart(ranking: Mapping[str, float]) -> dict[str, float]:
    """Lower scores that are not below the one before, as float32, to the next number below it.

    Args:
        ranking: Scores by document; equal ones in their order.

    Returns:
        The same order, with falling scores.
    """
    names = best_first(ranking)
    scores = np.array([ranking[name] for name in names], dtype=np.float32)
    if (np.diff(scores) >= 0).any():
        for place in range(1, len(scores)):
            if scores[place] >= scores[place - 1]:
                scores[place] = np.nextafter(scores[place - 1], np.float32(-np.inf))
    return dict(zip(names, scores.tolist(), strict=True))


def _documents(corpus: Any, wanted: set[str] | None) -> Iterator[Document]:
    """Read rows as documents; of rows with one id, which mteb counts as one document, the first."""
    seen: set[str] = set()
    for row in corpus:
        identity = str(row["id"])
        if identity not in seen and (wanted is None or identity in wanted):
            seen.add(identity)
            yield Document(identity, row.get("text") or "", row.get("title") or "")


def _scored_by(space: Space, similarity: str) -> Space:
    if "similarity" not in space.parameters:
        raise InputError(f"scoring is for spaces with several similarities, and this model has {space}; leave it out")
    return Space(space.kind, space.dimension, **{**space.parameters, "similarity": similarity})


def _name_parts(name: str | None, source: str | None) -> list[str]:
    """Return an organisation, if there is one, and a name."""
    if name is None:
        parts = [re.sub(r"[^\w.+-]+", "-", part).strip(".-") for part in (source or "").split("/")]
        return [part[-_LONGEST_NAME:] for part in parts if part][-2:] or ["model"]
    if len(name) > _LONGEST_NAME or not re.fullmatch(r"(\w[\w.+-]*/)?\w[\w.+-]*", name):
        raise InputError(
            f"{shown(name)} cannot name results; give NAME or ORGANISATION/NAME of letters, digits and ._+-, at most "
            f"{_LONGEST_NAME} characters"
        )
    return name.split("/")


def _query_fingerprint(retriever: Retriever) -> str:
    return str(retriever.protocol()["query_fingerprint"])

"""Retriever: a sentence-transformers model seen through the contracts of this library.

Two routes of modules lead from text to features: documents become Points, queries become a Scorer. A model without
a Router has one route for both. What a route's modules may say about themselves is in `models/modules.py`; nothing here
knows a family by name. Whatever depends on the options of a query happens in its scorer, so cached features serve all
options.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from sentence_transformers.base.modules import Module, Router
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn

from hyperseek._fingerprint import fingerprint_json, fingerprint_weights
from hyperseek.errors import InputError, ModelError
from hyperseek.models.encoding import (
    CPU_BATCH_TOKENS,
    GPU_BATCH_TOKENS,
    batches_by_tokens,
    checked_texts,
    cut,
    divides_at_blanks,
    fill_empty,
    number_type,
    resolve_dtype,
    tokenising,
    warn_of_long_queries,
    windows,
)
from hyperseek.models.modules import CompilesQueries, PlacesDocuments, route_width, run_modules, save_model
from hyperseek.scoring import LinearScorer, Points, Scorer, Space, VectorPoints, vectors_of
from hyperseek.types import QueryOptions

if TYPE_CHECKING:
    import os

    from sentence_transformers import SentenceTransformer

Side = Literal["query", "document"]
SIDES: tuple[Side, Side] = ("query", "document")
_PACKAGES = ("hyperseek", "sentence-transformers", "torch", "transformers")

# Numbers that a batch of compiled queries may hold: 256 MiB of float32. A deep q-net has millions of them.
_COMPILED_NUMBERS = 1 << 26
_LARGEST_QUERY_BATCH = 64
_SPACES = {"cosine": "cosine", "dot": "dot", "euclidean": "euclidean"}


class Retriever:
    """A model that encodes documents once and compiles queries to scorers.

    A subclass whose routes do not end with one vector per text names the features they do end with in `outputs`, and
    overrides `points`, `features_of` and `scorer`, which read or make them.

    Args:
        model: The module container.
        source: The path or name that it came from, which an index remembers.

    Attributes:
        model: The module container; train it, save it, or use it in plain sentence-transformers.
        source: As given.
        backend, backend_dtype: What runs its transformers, and in which number type; None for torch. See `load`.
        truncated: How many of the documents encoded so far had more tokens than the model reads, and lost the rest.

    Raises:
        InputError: No space of ours has the model's similarity.
    """

    outputs: ClassVar[tuple[str, ...]] = ("sentence_embedding",)
    """The features that routes end with, and that `points` and `scorer` read; the first axis of each is the text."""

    def __init__(self, model: SentenceTransformer, *, source: str | None = None) -> None:
        self.model = model.eval()
        self.source = source
        self.truncated = 0
        self.backend: str | None = None
        self.backend_dtype: str | None = None
        self._named: dict[Side, tuple[object, str]] = {}
        last: Any = self.route("query")[-1]
        self._compiler: Any = last if isinstance(last, CompilesQueries) else None
        self._understood: Mapping[str, Any] = {} if self._compiler is None else getattr(last, "query_options", {})
        documents = self.route("document")
        self._placer = documents[-1] if isinstance(documents[-1], PlacesDocuments) else None
        self._flat_space = None if self._placer else Space(self._space_kind(), route_width(documents))
        if hasattr(last, "reads_texts"):
            own = weakref.ref(self)  # a closure, which copies of the module share, and not the model itself
            last.reads_texts(
                lambda texts, side: _alive(own)._base_vectors(texts, side),
                lambda text, side: _alive(own)._windows(text, side),
            )

    def __repr__(self) -> str:
        sides = [" → ".join(type(module).__name__ for module in self.route(side)) for side in SIDES]
        modules = sides[0] if sides[0] == sides[1] else f"query: {sides[0]}; document: {sides[1]}"
        count = sum(parameter.numel() for parameter in self.model.parameters())
        return f"{type(self).__name__}({self.source!r}, {self.space}, {count:,} parameters on {self.device}, {modules})"

    def _space_kind(self) -> str:
        similarity = self.model.similarity_fn_name
        if similarity not in _SPACES:
            raise InputError(f"the model compares by {similarity!r}; hyperseek knows {', '.join(_SPACES)}")
        return _SPACES[similarity]

    @property
    def space(self) -> Space:
        """The geometry of its points; that of a hyperbolic model changes while its curvature is trained."""
        if self._flat_space is not None:
            return self._flat_space
        return cast("PlacesDocuments", self.route("document")[-1]).space

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.model.device)

    @property
    def max_length(self) -> dict[str, int | None]:
        """Tokens that are kept of a text, prompt and special tokens included, by side; None for all."""
        lengths: dict[str, int | None] = {}
        for side in SIDES:
            first = self.route(side)[0]
            own = getattr(first, f"{side}_length", None)
            length = own if own is not None else getattr(first, "max_seq_length", None)
            if length == math.inf:  # as static embeddings say, and JSON cannot
                length = None
            elif length is not None and length < 1:
                raise ModelError(f"{self.source} keeps {length} tokens of a {side}; a model keeps at least 1")
            lengths[side] = length
        return lengths

    def route(self, side: Side) -> list[nn.Module]:
        """Return the modules that texts of a side go through, in order."""
        modules: list[nn.Module] = []
        for module in self.model.children():
            if isinstance(module, Router):
                modules.extend(cast("nn.ModuleList", module.sub_modules[side]))
            else:
                modules.append(module)
        return modules

    def preprocess(self, texts: Sequence[str], side: Side) -> dict[str, Any]:
        """Put the side's prompt before each text, tokenise, truncate and pad.

        A text without tokens, such as an empty one where the tokenizer adds no special tokens, is read as one unknown
        token (or padding, where there is no unknown one), whatever it is batched with.

        Args:
            texts: At least one.
            side: `"query"` or `"document"`.

        Returns:
            Features for `forward`, on the model's device.
        """
        from sentence_transformers.util import batch_to_device

        return dict(batch_to_device(self.tokenize(texts, side), self.device))

    @tokenising
    def tokenize(self, texts: Sequence[str], side: Side) -> dict[str, Any]:
        """Do what `preprocess` does, but leave the features on the CPU."""
        prompt = self.model.prompts.get(side) or None
        features = dict(self.model.preprocess(self._cut(checked_texts(texts), side), prompt=prompt, task=side))
        fill_empty(features, getattr(self.route(side)[0], "tokenizer", None))
        return features

    def _cut(self, texts: Sequence[str], side: Side) -> list[str]:
        """Drop the text after the tokens that are kept: tokenising a long text can take longer than encoding it."""
        tokenizer, limit = getattr(self.route(side)[0], "tokenizer", None), self.max_length[side]
        if limit is None or all(len(text) <= limit for text in texts) or not divides_at_blanks(tokenizer):
            return list(texts)
        prompt = self._prompt(side)
        return [cut(text, tokenizer, limit, prompt) for text in texts]

    def forward(
        self, features: dict[str, Any], side: Side, *, start: int = 0, stop: int | None = None
    ) -> dict[str, Any]:
        """Run modules `start` to `stop` of a route; differentiable.

        Args:
            features: What `preprocess`, or an earlier part of the route, returned.
            side: `"query"` or `"document"`.
            start: The first module to run.
            stop: The module to stop before; None runs all.

        Returns:
            The features after the last module that ran.

        Raises:
            ModelError: A module failed, and it is not one of another package that has registered something: such a
                module's own error passes.
        """
        return run_modules(self.route(side)[start:stop], features, side)

    def points(self, features: dict[str, Any]) -> Points:
        """Return the points that the features of a whole document route stand for; differentiable."""
        rows = features["sentence_embedding"].float()
        return VectorPoints(self.space.canonical(rows)) if self._placer is None else self._placer.points(rows)

    def features_of(self, points: Points) -> dict[str, Tensor]:
        """Return features that `points` turns back into these points: what a cache keeps of encoded documents."""
        return {"sentence_embedding": vectors_of(points)}

    def scorer(self, features: dict[str, Any], options: Mapping[str, Any] | None = None) -> Scorer:
        """Return the scorer that the features of a whole query route stand for; differentiable.

        Args:
            features: What `forward` returned for queries.
            options: The options of the queries, as in `compile`.

        Returns:
            The scorer, in the order of the queries.

        Raises:
            InputError: The model does not understand an option.
        """
        checked = self.check_options(options)
        flat = features["sentence_embedding"].float()
        if self._compiler is None:
            return LinearScorer(self.space, flat)
        compiled: Scorer = self._compiler.scorer(flat, checked) if self._understood else self._compiler.scorer(flat)
        return compiled.with_options(checked) if checked else compiled

    def check_options(self, options: Mapping[str, Any] | None) -> QueryOptions:
        """Validate options of queries.

        Args:
            options: `QueryOptions`, any mapping of names to values, or None.

        Returns:
            The options as the model understands them.

        Raises:
            UnknownNameError: The model does not understand an option; the message lists those it does.
            InputError: A value is not of its option's type.
        """
        given = QueryOptions.of(options)
        return given.checked(self._understood) if given else given

    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto", batch_tokens: int | None = None) -> Points:
        """Encode documents.

        Args:
            texts: Any number, of any length; texts that are too long for the model are truncated.
            dtype: `"auto"`, `"float32"`, `"bfloat16"` or `"float16"`: what the weights are cast to for this call; with
                a backend, `"auto"` or the backend's own.
            batch_tokens: Most tokens in a batch; None chooses by device.

        Returns:
            `N` points in the order of `texts`, float32, on the CPU.

        Raises:
            InputError: These are no texts, or there is no such number type.
        """
        texts, modules = checked_texts(texts), self._document_modules(dtype)

        def encode() -> Iterator[tuple[list[int], Points]]:
            for batch, features in self._document_features(texts, modules, "document", batch_tokens):
                with torch.inference_mode():
                    points = self.points(features)
                yield batch, points

        return self._gather(encode(), len(texts))

    def _base_vectors(self, texts: Sequence[str], side: Side) -> Tensor:
        """Encode texts to what the modules before a compiler of queries make of them: `(N, d)` float32 on the CPU."""
        modules = self.route(side)
        modules = modules[:-1] if modules[-1] is self._compiler else modules
        training = [module for module in modules if module.training]
        for module in training:
            module.eval()
        try:
            vectors: list[tuple[int, Tensor]] = []
            for batch in batches_by_tokens([max(1, len(text) // 4) for text in texts], CPU_BATCH_TOKENS):
                with torch.no_grad():
                    features = run_modules(modules, self.preprocess([texts[place] for place in batch], side), side)
                rows = features["sentence_embedding"].float().cpu()
                vectors += zip(batch, rows, strict=True)
        finally:
            for module in training:
                module.train()
        return torch.stack([vector for _, vector in sorted(vectors, key=lambda pair: pair[0])])

    def _windows(self, text: str, side: Side) -> list[str]:
        """Divide a text into parts that the model reads whole."""
        tokenizer: Any = getattr(self.route(side)[0], "tokenizer", None)
        limit = self.max_length[side]
        if limit is None or not callable(tokenizer) or not hasattr(tokenizer, "num_special_tokens_to_add"):
            return [text]
        return windows(text, tokenizer, limit, self._prompt(side))

    def keeps_in(self, folder: str | os.PathLike[str]) -> None:
        """Let the model keep what it compiles in the folder of an index, where it keeps anything."""
        if hasattr(self._compiler, "keeps_in"):
            own = weakref.ref(self)
            self._compiler.keeps_in(Path(folder), lambda: _alive(own)._side_fingerprint("query"))

    def encode_features(self, texts: Sequence[str], *, batch_tokens: int | None = None) -> Tensor:
        """Encode texts to vectors for Euclidean tools, such as classifiers, clustering and plots.

        Points of a hyperbolic model become vectors of the tangent space at the origin, by the logarithmic map; other
        models return the vectors of documents.

        Args:
            texts: Any number, of any length.
            batch_tokens: As for `encode_documents`.

        Returns:
            `(N, d)` float32, in the order of `texts`, on the CPU.
        """
        texts = checked_texts(texts)
        vectors = torch.empty(len(texts), self.space.dimension)
        for batch, features in self._document_features(texts, self.route("document"), None, batch_tokens):
            vectors[batch] = features["sentence_embedding"].float().cpu()
        return vectors

    def _document_features(
        self, texts: Sequence[str], modules: Sequence[nn.Module], side: Side | None, batch_tokens: int | None
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Yield the positions of the texts of each batch, and what the modules of a document route make of them."""
        texts = self._cut(texts, "document")
        budget = batch_tokens or (CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS)
        for batch in batches_by_tokens(self._token_counts(texts), budget):
            own = self.preprocess([texts[position] for position in batch], "document")
            with torch.inference_mode():
                features = run_modules(modules, own, side)
            yield batch, features

    def _gather(self, batches: Iterable[tuple[list[int], Points]], count: int) -> Points:
        """Join encoded batches on the CPU, in the order of the texts."""
        vectors = torch.empty(count, self.space.width)
        for positions, points in batches:
            vectors[positions] = vectors_of(points).cpu()
        return VectorPoints(vectors)

    def compile(self, queries: Sequence[str], options: Mapping[str, Any] | None = None) -> Scorer:
        """Compile queries to one scorer.

        Args:
            queries: At least one.
            options: Further requests to the model, as in `QueryOptions(level=2)` or `{"level": 2}`.

        Returns:
            The scorer, in the order of `queries`.

        Raises:
            InputError: There are no queries, or these are no texts, or the model does not understand an option.
        """
        parts = list(self.compile_batches(queries, options))
        if not parts:
            raise InputError("there are no queries to compile; give at least one")
        return parts[0] if len(parts) == 1 else type(parts[0]).concatenate(parts)

    def compile_batches(self, queries: Sequence[str], options: Mapping[str, Any] | None = None) -> Iterator[Scorer]:
        """Compile queries a batch at a time, so that memory stays bounded even for deep q-nets.

        Args:
            queries: Any number.
            options: As in `compile`.

        Returns:
            Scorers of successive queries, on the model's device.

        Raises:
            InputError: These are no texts, or the model does not understand an option.
        """
        return self._compile_batches(checked_texts(queries), self.check_options(options))

    def _compile_batches(self, queries: Sequence[str], options: QueryOptions) -> Iterator[Scorer]:
        size = max(1, min(_LARGEST_QUERY_BATCH, _COMPILED_NUMBERS // route_width(self.route("query"))))
        warn_of_long_queries(queries, self.route("query")[0], self.max_length["query"], self._prompt("query"))
        for start in range(0, len(queries), size):
            with torch.inference_mode():
                features = self.preprocess(queries[start : start + size], "query")
                yield self.scorer(self.forward(features, "query"), options)

    @property
    def fingerprint(self) -> str:
        """Identifies the document side: models with equal fingerprints turn a text into equal points.

        It covers weights, modules, vocabulary, prompt and maximum length of the document route, not the query route: a
        model whose head was trained on queries alone keeps the fingerprint, and with it every index.
        """
        return self._side_fingerprint("document")

    def _side_fingerprint(self, side: Side) -> str:
        modules = self.route(side)
        unit = self.space.unit_norm
        while isinstance(modules[-1], Normalize):
            modules, unit = modules[:-1], True
        description = [
            {
                "class": type(module).__name__,
                "config": _content_config(module),
                "weights": fingerprint_weights(module),
            }
            for module in modules
        ]
        tokenizer = self.model.tokenizer
        settings = (description, unit, self.max_length[side], self._prompt(side))
        # A vocabulary has tens of thousands of words, so it is read and hashed only if it may have changed.
        present = (*settings, id(tokenizer), len(tokenizer) if hasattr(tokenizer, "__len__") else None)
        known = self._named.get(side)
        if known is None or known[0] != present:
            vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None
            known = self._named[side] = (present, fingerprint_json([*settings, vocabulary]))
        return known[1]

    def protocol(self) -> dict[str, Any]:
        """Return what is recorded with every measured result: lengths, prompts, space, weights' dtype, versions."""
        return {
            "model": self.source,
            "fingerprint": self.fingerprint,
            "query_fingerprint": self._side_fingerprint("query"),
            "space": self.space.to_json(),
            "max_length": self.max_length,
            "prompts": {side: self._prompt(side) for side in SIDES},
            "dtype": self.backend_dtype or str(self.model.dtype).removeprefix("torch."),
            **({} if self.backend is None else {"backend": self.backend}),
            "versions": {name: version(name) for name in _PACKAGES},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a sentence-transformers folder that `hyperseek.load` reads.

        Models whose queries are vectors also load in plain sentence-transformers (with `trust_remote_code=True`
        where a module is hyperseek's own). Weight files have a checksum, which `hyperseek.load` checks.

        Args:
            path: The folder; files of an earlier model in it are replaced.

        Raises:
            WriteError: The disk is full or read-only, or the folder is not ours to write to.
        """
        save_model(self.model, path)
        self.source = str(Path(path))

    def _prompt(self, side: Side) -> str:
        return self.model.prompts.get(side) or ""

    @tokenising
    def _token_counts(self, texts: Sequence[str]) -> list[int]:
        tokenizer: Any = getattr(self.route("document")[0], "tokenizer", None)
        limit, prompt = self.max_length["document"] or 1 << 20, self._prompt("document")
        if not callable(tokenizer) or not hasattr(tokenizer, "num_special_tokens_to_add"):
            # Word lists, and the bare tokenizers of static embeddings: only the order of the lengths matters.
            return [max(1, min(limit, len(text) // 4)) for text in texts]
        extra = tokenizer.num_special_tokens_to_add()
        counts: list[int] = []
        for start in range(0, len(texts), 1024):
            encoded = tokenizer(
                [prompt + text for text in texts[start : start + 1024]],
                add_special_tokens=False,
                truncation=True,
                max_length=limit,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            lengths = [len(ids) + extra for ids in encoded["input_ids"]]
            self.truncated += sum(length > limit for length in lengths)
            counts.extend(max(1, min(limit, length)) for length in lengths)
        return counts

    def number_type(self, dtype: str = "auto") -> str:
        """Return the number type that documents are encoded in where `dtype` is asked for; InputError if it cannot."""
        return number_type(dtype, self.device, self.backend, self.backend_dtype)

    def _document_modules(self, wanted: str) -> list[nn.Module]:
        """Return the document route in a dtype: the route itself if it has that dtype already, else a cast copy."""
        modules, name = self.route("document"), self.number_type(wanted)
        if self.backend is not None:
            return modules
        dtype = resolve_dtype(name, self.device)
        present = {parameter.dtype for module in modules for parameter in module.parameters()}
        if present <= {dtype} or torch.float32 not in present:
            return modules
        return list(nn.ModuleList(copy.deepcopy(modules)).to(dtype).eval())


def _alive(own: weakref.ref[Retriever]) -> Retriever:
    retriever = own()
    if retriever is None:
        raise ModelError("the model that a head belongs to is gone; keep the object that hyperseek.load returned")
    return retriever


def _content_config(module: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = dict(module.get_config_dict()) if isinstance(module, Module) else {}
    for key in ("query_length", "document_length", "query_expansion", "max_seq_length"):
        config.pop(key, None)
    return config

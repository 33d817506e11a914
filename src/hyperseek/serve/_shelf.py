"""The indexes and models that a server answers from, by name; each model is loaded once.

All work of models and indexes is done in threads, by a `Batcher` for each index and for each model.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperseek.errors import InputError, StoreError, UnknownNameError
from hyperseek.index import Explanation, Index, IndexInfo
from hyperseek.serve._batcher import Batcher
from hyperseek.serve._limits import ServeSettings
from hyperseek.types import Document, Hits

if TYPE_CHECKING:
    from hyperseek.models import Retriever

logger = logging.getLogger("hyperseek.serve")

_SUFFIX = ".index"


def named(given: Sequence[str]) -> dict[str, str]:
    """Return places by name, of `NAME=PLACE` or of places that name themselves.

    Args:
        given: As on the command line.

    Returns:
        The places.

    Raises:
        InputError: Two have one name.
    """
    places: dict[str, str] = {}
    for one in given:
        name, equals, place = one.partition("=")
        if not equals or "/" in name:
            name, place = Path(one).absolute().name.removesuffix(_SUFFIX), one
        if not name or name in places:
            raise InputError(f"the name {name!r} of {one!r} is empty or taken; give NAME=PLACE")
        places[name] = place
    return places


class ServedModel:
    """A model whose texts are encoded in batches.

    Args:
        name: That requests use.
        model: The model.
        settings: The limits.
        observe: Is told of times; see `Batcher`.

    Attributes:
        retriever: The model.
        dtype: Number type in which documents are encoded.
    """

    def __init__(
        self, name: str, model: Retriever, settings: ServeSettings, observe: Callable[[str, float], None]
    ) -> None:
        self.name = name
        self.retriever = model
        self.dtype = settings.dtype if model.backend is None else "auto"
        limits: dict[str, Any] = {
            "budget": settings.batch_tokens,
            "longest_wait": settings.longest_wait,
            "most_waiting": settings.most_waiting,
            "observe": observe,
        }
        self._batcher: Batcher[Any, Any] = Batcher(self._run, **limits)

    async def each(self, function: Callable[[Retriever, list[str]], Sequence[Any]], texts: Sequence[str]) -> list[Any]:
        """Compute something of each text, together with other requests that want the same.

        Args:
            function: Computes it for a batch of texts; equal functions are called once for texts of several requests.
            texts: Any number.

        Returns:
            What was computed, in the order of the texts.

        Raises:
            Busy: Too many requests wait.
        """
        return await self._batcher.ask_all(list(texts), function, [self._cost(text) for text in texts])

    async def close(self) -> None:
        """Stop."""
        await self._batcher.close()

    def _cost(self, text: str) -> int:
        """Return about how many tokens a text has."""
        return max(1, min(len(text) // 4, self.retriever.max_length["document"] or len(text)))

    def _run(self, function: Any, texts: list[str]) -> Sequence[Any]:
        found: Sequence[Any] = function(self.retriever, texts)
        return found


@dataclass(frozen=True)
class Asked:
    """What queries that are searched together have in common; the key of their batch.

    Attributes:
        arguments: Of `Index.search`, hashable: plain values, or their JSON.
        explain: Whether what was done is wanted.
    """

    arguments: tuple[tuple[str, Hashable], ...]
    explain: bool = False


class Served:
    """An index that is searched in batches, and follows what other processes write.

    Args:
        name: That requests use.
        index: The index.
        settings: The limits.
        observe: Is told of times; see `Batcher`.
    """

    def __init__(self, name: str, index: Index, settings: ServeSettings, observe: Callable[[str, float], None]) -> None:
        self.name = name
        self.index = index
        self._writing = asyncio.Lock()
        self._batcher: Batcher[Any, Any] = Batcher(
            self._run,
            budget=settings.batch_tokens,
            longest_wait=settings.longest_wait,
            most_waiting=settings.most_waiting,
            observe=observe,
        )

    async def search(self, queries: Sequence[str], **arguments: Any) -> list[Hits]:
        """Search as `Index.search` does, together with other requests that ask alike.

        Args:
            queries: At least one.
            **arguments: Of `Index.search`.

        Returns:
            The hits of each query.
        """
        hits: list[Hits] = await self._ask(queries, arguments)
        return hits

    async def explain(self, queries: Sequence[str], **arguments: Any) -> Explanation:
        """Search as `Index.explain` does, by itself."""
        return await asyncio.to_thread(self.index.explain, list(queries), **arguments)

    async def add(self, documents: Sequence[Document], *, replace: bool = False) -> int:
        """Add documents; they are on the disk when this returns."""
        async with self._writing:
            return await asyncio.to_thread(self.index.add, documents, replace=replace)

    async def delete(self, ids: Sequence[str]) -> int:
        """Delete documents; that is on the disk when this returns."""
        async with self._writing:
            return await asyncio.to_thread(self.index.delete, ids)

    async def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return documents by id, those that are stored."""
        return await asyncio.to_thread(self.index.get, list(ids))

    async def close(self) -> None:
        """Stop."""
        await self._batcher.close()

    async def _ask(self, queries: Sequence[str], arguments: Mapping[str, Any]) -> Any:
        key = tuple(sorted((name, _Frozen(value)) for name, value in arguments.items()))
        cost = sum(max(1, len(query) // 4) for query in queries)
        return await self._batcher.ask(list(queries), key, cost)

    def _run(self, key: tuple[tuple[str, _Frozen], ...], requests: list[list[str]]) -> list[Any]:
        queries = [query for own in requests for query in own]
        hits = iter(self.index.search(queries, **{name: value.value for name, value in key}))
        return [[next(hits) for _ in own] for own in requests]


class _Frozen:
    """A value as a part of a key: equal where its description is."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._text = repr(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and other._text == self._text

    def __lt__(self, other: _Frozen) -> bool:
        return self._text < other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Shelf:
    """Indexes and models by name.

    Args:
        indexes: Folders by name, the first one for requests that name none.
        models: Folders or names of further models by name.
        settings: The limits.
        observe: Is told of times; see `Batcher`.
        device: Where models are loaded.
        backend: What runs them.
    """

    def __init__(
        self,
        indexes: Mapping[str, str],
        models: Mapping[str, str],
        settings: ServeSettings,
        observe: Callable[[str, float], None],
        *,
        device: str | None = None,
        backend: str | None = None,
    ) -> None:
        self.settings = settings
        self._observe = observe
        self._device, self._backend = device, backend
        self._places = dict(indexes)
        self._model_places = dict(models)
        self._loaded: dict[str, Retriever] = {}
        self._loading = threading.Lock()
        self.indexes: dict[str, Served] = {}
        self.models: dict[str, ServedModel] = {}

    def open(self) -> None:
        """Open all indexes and load their models.

        Raises:
            HyperseekError: One of them cannot be opened.
        """
        by_source: dict[str, ServedModel] = {}

        def served(name: str, source: str) -> None:
            if source not in by_source:
                by_source[source] = ServedModel(name, self._load(source), self.settings, self._observe)
            self.models[name] = by_source[source]

        for name, place in self._places.items():
            info = IndexInfo.read(Path(place))
            model = None if info.source is None else self._load(info.source)
            index = Index.open(place, model=model)
            self.indexes[name] = Served(name, index, self.settings, self._observe)
            if info.source is not None:
                served(name, info.source)
        for one in list(by_source):
            self.models.setdefault(Path(one).name, by_source[one])
        for name, place in self._model_places.items():
            served(name, place)

    def index(self, name: str | None = None) -> Served:
        """Find an index.

        Args:
            name: Its name; None for the first.

        Returns:
            The index.

        Raises:
            UnknownNameError: There is none of this name.
        """
        if not self.indexes:
            raise UnknownNameError("index", name, [], hint="this server has models only")
        if name is None:
            return next(iter(self.indexes.values()))
        if name not in self.indexes:
            raise UnknownNameError("index", name, self.indexes)
        return self.indexes[name]

    def model(self, name: str | None = None) -> ServedModel:
        """Find a model.

        Args:
            name: Its name, or that of an index; None for the first.

        Returns:
            The model.

        Raises:
            UnknownNameError: There is none of this name.
        """
        if not self.models:
            raise UnknownNameError("model", name, [], hint="this server has no models")
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise UnknownNameError("model", name, self.models)
        return self.models[name]

    def without_paths(self, message: str) -> str:
        """Return a message with names of indexes in place of their folders."""
        for name, served in self.indexes.items():
            message = message.replace(str(served.index.path), name)
        return message

    async def close(self) -> None:
        """Stop all."""
        for served in self.indexes.values():
            await served.close()
        for model in dict.fromkeys(self.models.values()):
            await model.close()

    def _load(self, source: str) -> Retriever:
        from hyperseek.models import load

        with self._loading:
            if source not in self._loaded:
                self._loaded[source] = load(source, device=self._device, backend=self._backend)
            return self._loaded[source]


def plain_source(source: str | None) -> str | None:
    """Return the name of a model for clients, without the folder that it lies in."""
    return None if source is None else Path(source).name if "/" in source or "\\" in source else source


def describe(served: Served) -> dict[str, Any]:
    """Return what clients may know about an index, as plain values."""
    index = served.index
    try:
        model = index.model
    except StoreError:
        model = None
    compiler: Any = None if model is None else model.route("query")[-1]
    takes_cards = "card" in getattr(compiler, "query_options", {})
    return {
        "name": served.name,
        "version": index.version,
        "documents": len(index),
        "passages": index.passages,
        "model": plain_source(index.info.source),
        "space": index.space.to_json(),
        "fields": index.fields,
        "levels": index.space.levels,
        "cards": [each.card.name for each in compiler.seen] if takes_cards else None,
        "engines": [one.name for one in index.attachments],
    }

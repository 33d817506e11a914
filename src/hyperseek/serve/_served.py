"""One index, or one model, that many requests ask at the same time: they are computed together.

All work is done in threads, by a `Batcher` for each index and for each model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hyperseek._display import plain_hit
from hyperseek._long_work import listening
from hyperseek.errors import InputError, StoreError, shown
from hyperseek.index import Explanation, Index
from hyperseek.models.encoding import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS
from hyperseek.serve._batcher import Batcher
from hyperseek.serve._limits import ServeSettings
from hyperseek.store.info import Mirror
from hyperseek.store.lance import InUseError
from hyperseek.types import Document, Hits

if TYPE_CHECKING:
    from hyperseek.models import Retriever

logger = logging.getLogger("hyperseek.serve")

Observe: TypeAlias = Callable[[str, float], None]
"""Is told the name of a measurement and its value; see `Batcher`."""

# Tokens of queries that are compiled together on a CPU, where more of them bring more padding and save nothing: of 32
# queries of 8 to 45 tokens, each takes 6.6 ms in batches of 256, 7.1 of 512, 9.3 of 2,048, and 16 ms alone.
_QUERY_TOKENS = 512
_CHARACTERS = 4  # per token, about
_TRY_AGAIN = 0.05  # seconds until a write is tried again while another process writes


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
        batch_tokens: Tokens that are computed together.
    """

    def __init__(self, name: str, model: Retriever, settings: ServeSettings, observe: Observe) -> None:
        self.name = name
        self.retriever = model
        # In fewer bits, a vector would depend on those that it is computed together with, in the third digit.
        self.dtype = "float32" if model.backend is None else "auto"
        self._observe = observe
        limits = _limits(settings, model, observe, CPU_BATCH_TOKENS)
        self.batch_tokens: int = limits["budget"]
        self._batcher: Batcher[Any, Any] = Batcher(self._run, **limits)

    async def each(
        self,
        function: Callable[[Retriever, list[Any]], Sequence[Any]],
        texts: Sequence[str],
        *,
        items: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Compute something of each text, together with other requests that want the same.

        Args:
            function: Computes it for a batch of texts; equal functions are called once for texts of several requests.
            texts: Any number.
            items: What `function` is given in place of the texts, of whose lengths they are.

        Returns:
            What was computed, in the order of the texts.

        Raises:
            Busy: Too many requests wait.
        """
        return await self._batcher.ask_all(list(items or texts), function, [*map(self._length, texts)])

    @property
    def waiting(self) -> int:
        """How many requests wait for answers."""
        return self._batcher.waiting

    async def close(self) -> None:
        """Stop."""
        await self._batcher.close()

    def _length(self, text: str) -> int:
        """Return about how many tokens of a text the model reads."""
        length = 1 + len(text) // _CHARACTERS
        return min(length, self.retriever.max_length["document"] or length)

    def _run(self, function: Any, items: list[Any]) -> Sequence[Any]:
        with listening(self._observe):
            found: Sequence[Any] = function(self.retriever, items)
        return found


def _limits(settings: ServeSettings, model: Retriever | None, observe: Observe, on_cpu: int) -> dict[str, Any]:
    """Return the limits of a batcher."""
    suitable = on_cpu if model is None or model.device.type == "cpu" else GPU_BATCH_TOKENS
    return {
        "budget": settings.batch_tokens or suitable,
        "longest_wait": settings.longest_wait,
        "most_waiting": settings.most_waiting,
        "observe": observe,
    }


@dataclass(frozen=True)
class Found:
    """What was found for the queries of one request, all in one version of the index.

    Attributes:
        hits: Of each query.
        documents: In that version.
        rows: The hits as plain JSON values, where they were asked for.
        explanation: What was done, for a request that was searched by itself.
    """

    hits: list[Hits]
    documents: int
    rows: list[list[dict[str, Any]]] = field(default_factory=list)
    explanation: Explanation | None = None


@dataclass(frozen=True)
class _Alike:
    """The key of requests that are searched together.

    Attributes:
        said: Their arguments in words; those of equal words are equal.
        arguments: Of `Index.explain`.
        rows: Whether rows are wanted, and whether with matches.
        own: What no other request has, for one that is searched by itself.
    """

    said: str
    arguments: Mapping[str, Any] = field(compare=False)
    rows: Literal["", "plain", "matches"] = ""
    own: object = None


class Served:
    """An index that is searched in batches, and follows what other processes write.

    Args:
        name: That requests use.
        index: The index.
        model: Its model, if it has one.
        settings: The limits.
        observe: Is told of times; see `Batcher`.
    """

    def __init__(
        self, name: str, index: Index, model: Retriever | None, settings: ServeSettings, observe: Observe
    ) -> None:
        self.name = name
        self.index = index
        self._seconds = settings.seconds
        self._observe = observe
        self._seen: object = None
        self._writing = asyncio.Lock()
        self._batcher: Batcher[list[str], Found] = Batcher(
            self._run, **_limits(settings, model, observe, _QUERY_TOKENS)
        )

    async def search(self, queries: Sequence[str], **arguments: Any) -> list[Hits]:
        """Search as `Index.search` does, together with other requests that ask alike.

        Args:
            queries: Any number.
            **arguments: Of `Index.search`, but for `exclude`.

        Returns:
            The hits of each query.

        Raises:
            HyperseekError: As of `Index.search`.
            Busy: Too many requests wait.
        """
        return (await self.find(queries, **arguments)).hits

    async def explain(self, queries: Sequence[str], *, recall: bool = True, **arguments: Any) -> Explanation:
        """Search as `Index.explain` does.

        Args:
            queries: At least one.
            recall: Whether to search exhaustively too, and tell the recall of every stage.
            **arguments: Of `Index.search`, but for `exclude`.

        Returns:
            The explanation, with the hits of every query.

        Raises:
            HyperseekError: As of `Index.explain`.
            Busy: Too many requests wait.
        """
        if not queries:
            raise InputError("there are no queries to explain a search for; give at least one")
        found = await self.find(queries, alone=True, recall=recall, **arguments)
        assert found.explanation is not None
        return found.explanation

    async def find(
        self,
        queries: Sequence[str],
        *,
        rows: Literal["", "plain", "matches"] = "",
        alone: bool = False,
        **arguments: Any,
    ) -> Found:
        """Search, with what an answer needs besides the hits.

        Args:
            queries: Any number.
            rows: Whether hits are wanted as JSON values too, and whether with matches.
            alone: Whether to search by itself, and explain.
            **arguments: Of `Index.explain`; `exclude` is for a request that is searched by itself.

        Returns:
            What was found.

        Raises:
            HyperseekError: As of `Index.search`.
            Busy: Too many requests wait.
        """
        said = repr(sorted(arguments.items()))
        key = _Alike(said, {"texts": True, **arguments}, rows, object() if alone else None)
        longest = max((len(query) for query in queries), default=0)
        return await self._batcher.ask(list(queries), key, 1 + longest // _CHARACTERS, count=max(1, len(queries)))

    def _run(self, key: _Alike, requests: list[list[str]]) -> list[Found]:
        queries = [query for own in requests for query in own]
        if not queries:
            return [Found([], len(self.index)) for _ in requests]
        # The model pads each batch to its longest query.
        order = sorted(range(len(queries)), key=lambda place: len(queries[place]))
        arguments = dict(key.arguments)
        exclude = arguments.get("exclude")
        if exclude is not None and len(exclude) == len(queries):  # other lengths are refused by the search
            arguments["exclude"] = [exclude[place] for place in order]
        try:
            with listening(self._observe):
                told = self.index.explain([queries[place] for place in order], **arguments)
        except InputError:
            self.index.explain(queries, **key.arguments)  # which says the number of a query as it was asked
            raise
        for stage in told.stages:
            self._observe("rescore" if stage.title.startswith("rescore") else "search", stage.seconds)
        hits = [told.hits[place] for place in sorted(range(len(order)), key=order.__getitem__)]
        told.hits = hits
        found, done = [], 0
        for own in requests:
            part = hits[done : done + len(own)]
            plain = [[plain_hit(hit, matches=key.rows == "matches") for hit in one] for one in part if key.rows]
            found.append(Found(part, told.documents, plain, told if key.own is not None else None))
            done += len(own)
        return found

    async def add(self, documents: Sequence[Document], *, replace: bool = False) -> int:
        """Add documents; they are on the disk when this returns.

        Args:
            documents: Their ids must differ.
            replace: Whether a document may take the place of one with its id; otherwise nothing is added.

        Returns:
            How many were added or replaced.

        Raises:
            InputError: An id is stored already, appears twice, or a document cannot be stored.
            StoreError: Another process writes for too long.
        """

        def add() -> int:
            ids = [document.id for document in documents]
            if len(set(ids)) < len(ids):
                raise InputError("two of the documents have one id; ids must differ")
            # Beforehand, so that none of many documents is stored where one cannot be.
            if not replace and (stored := self.index.get(ids)):
                raise InputError(
                    f"the id {shown(next(iter(stored)))} is stored already; replace it, or give the document another id"
                )
            return self.index.add(documents, replace=replace)

        return await self._written(add)

    async def delete(self, ids: Sequence[str]) -> int:
        """Delete documents; that is on the disk when this returns.

        Args:
            ids: Those that are not stored are passed over.

        Returns:
            How many were deleted.

        Raises:
            StoreError: Another process writes for too long.
        """
        return await self._written(partial(self.index.delete, ids))

    async def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return documents by id, those that are stored."""
        return await asyncio.to_thread(self.index.get, list(ids))

    async def _written(self, write: Callable[[], int]) -> int:
        """Write when nobody else does."""
        end = time.monotonic() + self._seconds / 2
        while True:
            await self._writing.acquire()
            work = asyncio.ensure_future(asyncio.to_thread(write))
            work.add_done_callback(self._wrote)
            try:
                # A thread cannot be stopped, so where its client has gone it still has the index to itself.
                return await asyncio.shield(work)
            except InUseError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(_TRY_AGAIN)

    def _wrote(self, work: asyncio.Future[int]) -> None:
        self._writing.release()
        if not work.cancelled():
            work.exception()  # it was noticed

    @property
    def mirrors(self) -> bool:
        """Whether the index follows a folder of files, so that documents come from there alone."""
        return Mirror.exists(self.index.path)

    def follow(self) -> bool:
        """Show the newest version of the index.

        Returns:
            Whether another process has written a newer one than was shown.

        Raises:
            HyperseekError: The newest version cannot be shown.
        """
        state = _state_of(self.index.path)
        if state == self._seen:
            return False
        outdated = not self.index.is_current()
        if outdated:
            self.index.refresh()
        self._seen = state
        return outdated

    @property
    def waiting(self) -> int:
        """How many requests wait for answers."""
        return self._batcher.waiting

    async def close(self) -> None:
        """Stop."""
        await self._batcher.close()


def _state_of(folder: Path) -> list[tuple[str, int, int, int]]:
    """Return what changes whenever an index does: names, sizes and times of its files, and of its tables' versions."""
    states = []
    for entry in sorted([*folder.iterdir(), *folder.glob("*.lance/_versions")]):
        if entry.name.startswith("."):
            continue  # the lock of writers
        with suppress(FileNotFoundError):  # which a writer has deleted just now
            found = entry.stat()
            states.append((str(entry), found.st_ino, found.st_size, found.st_mtime_ns))
    return states


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

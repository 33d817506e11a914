"""The indexes and models that a server answers from, by name; each model is loaded once.

Threads follow what other processes write to the indexes, and the folders of files that indexes mirror.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hyperseek.errors import FingerprintError, InputError, UnknownNameError
from hyperseek.index import Index, IndexInfo
from hyperseek.serve._limits import ServeSettings
from hyperseek.serve._served import Observe, Served, ServedModel, describe, plain_source
from hyperseek.store.info import Mirror

if TYPE_CHECKING:
    from hyperseek.models import Retriever

__all__ = ["Served", "ServedModel", "Shelf", "describe", "named"]

logger = logging.getLogger("hyperseek.serve")

Kept = TypeVar("Kept", Served, ServedModel)

_LOOK_AGAIN = 1.0  # seconds until the disk is looked at again
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


class Shelf:
    """Indexes and models by name.

    Args:
        indexes: Folders by name, the first one for requests that name none.
        models: Folders or names of further models by name.
        settings: The limits.
        observe: Is told of times; see `Batcher`.
        reloaded: Called with the name of an index when a newer version of it is shown.
        device: Where models are loaded.
        backend: What runs them.
    """

    def __init__(
        self,
        indexes: Mapping[str, str],
        models: Mapping[str, str],
        settings: ServeSettings,
        observe: Observe = lambda name, value: None,
        *,
        reloaded: Callable[[str], None] = lambda name: None,
        device: str | None = None,
        backend: str | None = None,
    ) -> None:
        self.settings = settings
        self._observe, self._reloaded = observe, reloaded
        self._device, self._backend = device, backend
        self._places = dict(indexes)
        self._model_places = dict(models)
        self._loaded: dict[str, Retriever] = {}
        self._by_source: dict[str, ServedModel] = {}
        self._by_index: dict[str, ServedModel] = {}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.indexes: dict[str, Served] = {}
        self.models: dict[str, ServedModel] = {}

    def open(self) -> None:
        """Open all indexes, load their models, and begin to follow what other processes write, unless that is done.

        Raises:
            HyperseekError: One of them cannot be opened.
        """
        if self.indexes or self.models:
            return
        for name, place in self._places.items():
            index, model = self._opened(Path(place).resolve())
            self.indexes[name] = Served(name, index, model, self.settings, self._observe)
            if model is not None:
                self._by_index[name] = self._served_model(name, str(index.info.source))
        for name, place in self._model_places.items():
            self._served_model(name, place)
        self._name_models()
        follow = [threading.Thread(target=self._follow, name="hyperseek-follow", daemon=True)] if self.indexes else []
        if self.settings.watch:
            follow += [
                threading.Thread(target=self._watch, args=(served,), name=f"hyperseek-watch-{name}", daemon=True)
                for name, served in self.indexes.items()
                if served.mirrors
            ]
        self._threads = follow
        for thread in follow:
            thread.start()

    def _opened(self, folder: Path) -> tuple[Index, Retriever | None]:
        source = IndexInfo.read(folder).source
        model = None if source is None else self._load(source)
        return Index.open(folder, model=model), model

    def _served_model(self, name: str, source: str) -> ServedModel:
        if source not in self._by_source:
            self._by_source[source] = ServedModel(name, self._load(source), self.settings, self._observe)
        return self._by_source[source]

    def _name_models(self) -> None:
        """Name models by indexes, as they were given, and by their own names."""
        given = {name: self._by_source[place] for name, place in self._model_places.items()}
        own = {str(plain_source(source)): model for source, model in reversed(self._by_source.items())}
        self.models = {**self._by_index, **given, **own, **self._by_index, **given}  # own names are last, and give way

    def _load(self, source: str) -> Retriever:
        from hyperseek.models import load

        if source not in self._loaded:
            self._loaded[source] = load(source, device=self._device, backend=self._backend)
        return self._loaded[source]

    def _follow(self) -> None:
        """Show what other processes write, until the shelf is closed."""
        failed: dict[str, str] = {}
        while not self._stopping.wait(_LOOK_AGAIN):
            for name, served in self.indexes.items():
                try:
                    if self._followed(served):
                        self._reloaded(name)
                        logger.info("a newer version of an index is shown", extra={"fields": {"index": name}})
                    failed.pop(name, None)
                except Exception as error:  # the version that is open stays; the next look may find it whole again
                    kind = type(error).__name__
                    if failed.get(name) != kind:
                        logger.warning(
                            "the newest version of an index cannot be shown",
                            extra={"fields": {"index": name, "error": kind}},
                        )
                    failed[name] = kind

    def _followed(self, served: Served) -> bool:
        source = served.index.info.source
        try:
            newer = served.follow()
            if served.index.info.source == source:
                return newer
        except FingerprintError:
            pass
        # It was built again by another model, or by one that was trained again in its folder.
        try:
            index, model = self._opened(served.index.path)
        except FingerprintError:
            source = str(IndexInfo.read(served.index.path).source)
            self._loaded.pop(source, None)
            index, model = self._opened(served.index.path)
            self._by_source.pop(source, None)
        if model is not None:
            self._by_index[served.name] = self._served_model(served.name, str(index.info.source))
            self._name_models()
        served.index = index
        return True

    def _watch(self, served: Served) -> None:
        """Bring an index up to date with its folder of files whenever that changes, until the shelf is closed."""
        from watchfiles import watch

        from hyperseek.data import open_dataset
        from hyperseek.index import sync

        index = served.index
        folder = Mirror.read(index.path).folder
        own = str(index.path.resolve())
        behind = True
        fields = {"index": served.name}
        for changes in watch(
            folder,
            watch_filter=lambda change, path: not path.startswith(own),
            rust_timeout=5_000,
            yield_on_timeout=True,
            stop_event=self._stopping,
        ):
            if not (changes or behind):
                continue
            try:
                made = sync(served.index, open_dataset(folder))
                behind = False
                if made:
                    logger.info(f"up to date with its folder: {made}", extra={"fields": fields})
            except Exception as error:
                behind = True  # and tried again
                logger.warning(
                    "not up to date with its folder", extra={"fields": {**fields, "error": type(error).__name__}}
                )

    def index(self, name: str | None = None) -> Served:
        """Find an index.

        Args:
            name: Its name; None for the first.

        Returns:
            The index.

        Raises:
            UnknownNameError: There is none of this name.
        """
        return _chosen("index", name, self.indexes, "this server has models only")

    def model(self, name: str | None = None) -> ServedModel:
        """Find a model.

        Args:
            name: Its name, or that of an index; None for the first.

        Returns:
            The model.

        Raises:
            UnknownNameError: There is none of this name.
        """
        return _chosen("model", name, self.models, "this server has no models")

    def without_paths(self, message: str) -> str:
        """Return a message with names of indexes in place of their folders."""
        for name, served in self.indexes.items():
            folder = str(served.index.path)
            # Some libraries leave out the first slash.
            message = message.replace(folder, name).replace(folder.removeprefix("/"), name)
        return message

    @property
    def waiting(self) -> int:
        """How many requests wait for answers."""
        searches = sum(served.waiting for served in self.indexes.values())
        return searches + sum(model.waiting for model in self._by_source.values())

    async def close(self) -> None:
        """Stop all."""
        self._stopping.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        for served in self.indexes.values():
            await served.close()
        for model in self._by_source.values():
            await model.close()


def _chosen(kind: str, name: str | None, known: Mapping[str, Kept], if_none: str) -> Kept:
    if not known:
        raise UnknownNameError(kind, name, [], hint=if_none)
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return known[name]

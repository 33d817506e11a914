"""The modules of models: the attributes that the rest of the library asks for, and saving.

A model is a stack of sentence-transformers modules. The rest of the library asks a route's modules for the attributes
below and never for their class, so a module of any family or package takes part by having them:

| module | attribute or method | without it |
|---|---|---|
| the last of a query route | `scorer(rows)`, see `CompilesQueries` | a query is a point |
| the same | `query_options`: types of options by name; it then has `scorer(rows, options)` | it takes none |
| the same | `reads_texts(encode, divide)`: takes functions that encode texts of its own, as a card's | it reads none |
| the same | `keeps_in(folder, fingerprint)`: keeps what it compiles beside an index | it keeps nothing |
| the last of a document route | `points(rows)` and `space`, see `PlacesDocuments` | the container says the space |
| the last of a route | `base_space`: the space of the vectors before it | the model's own space |
| the last of a document route | `diagnostics()`: 0-dim tensors by name, logged in training | nothing is logged |
| any | `reads_tokens`: whether it reads token states, not only the text's vector | True is assumed |
| any | `reads_padding`: whether the width that a batch is padded to changes its result | False is assumed |
| any | `blending()`, see `Blends` | its weights are interpolated |
| any of a document route | `fit_importance(texts)`, `is_fitted`: fitted to the documents before training | nothing |
| the first of a route | `reaches_inside`: it does more with its encoder than call it, so torch must run it | False |
| the first of a route | `only_family`: the one family whose heads can read its states | any family may follow |
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from sentence_transformers.base import BaseModel
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from hyperseek._files import add_checksum, take_umask, writing
from hyperseek._long_work import timed
from hyperseek._registry import foreign_place
from hyperseek.errors import HyperseekError, ModelError, brief
from hyperseek.scoring import Points, Scorer, Space


@runtime_checkable
class CompilesQueries(Protocol):
    """The last module of a query route whose rows are more than points."""

    def scorer(self, rows: Tensor) -> Scorer:
        """Return the scorer of rows `(Q, numbers)` of `sentence_embedding`; differentiable."""


@runtime_checkable
class PlacesDocuments(Protocol):
    """The last module of a document route that knows the space of its points."""

    @property
    def space(self) -> Space:
        """The space of its points."""

    def points(self, rows: Tensor) -> Points:
        """Return the points of rows `(N, numbers)` of `sentence_embedding`; differentiable."""


@runtime_checkable
class Blends(Protocol):
    """A module that can move between its start and its trained state without changing its weights."""

    def blending(self) -> Callable[[float], None] | None:
        """Return a function that moves to a share of what was learned: 0 is the start, 1 the module as it is now.

        None means that its weights must be interpolated like all others.
        """


class Encoder(Protocol):
    """Anything that can build an index: a `Retriever`, or an encoder of another kind.

    If it also has `compile_batches(queries, options)`, as a `Retriever` does, it can search by text.
    """

    @property
    def space(self) -> Space:
        """The geometry of its points."""

    @property
    def source(self) -> str | None:
        """The path or name that `load` opens it by; None for an encoder that `load` does not know."""

    @property
    def fingerprint(self) -> str:
        """Identifies the encoder's content: encoders with equal fingerprints turn a text into equal points."""

    def protocol(self) -> dict[str, Any]:
        """Return what is recorded with every measured result, as plain values."""

    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto") -> Points:
        """Encode documents.

        Args:
            texts: Any number.
            dtype: Number type to compute in; an encoder may ignore it.

        Returns:
            `N` points of `space`, in the order of `texts`, on the CPU.
        """


def save_model(model: BaseModel, path: str | os.PathLike[str]) -> None:
    """Write a model into a folder that may hold other files.

    Args:
        model: The container.
        path: The folder; files of an earlier model in it are replaced, one by one.

    Raises:
        WriteError: The disk is full or read-only, or the folder is not ours to write to.
    """
    with saved_into(Path(path)) as temporary:
        model.save(str(temporary), create_model_card=False)


@contextmanager
def saved_into(target: Path) -> Iterator[Path]:
    """Create a folder for other libraries to save into, and move the files when the block ends without an error.

    Args:
        target: The folder the files are moved to; if it was made here and the block fails, it is removed again.

    Yields:
        The temporary folder.

    Raises:
        WriteError: The disk is full or read-only, or the folder is not ours to write to.
    """
    with writing(target):
        made = [folder for folder in (target, *target.parents) if not folder.exists()]
        target.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as temporary:
                yield Path(temporary)
                move_saved(Path(temporary), target)
        except BaseException:
            with suppress(OSError):  # not empty: somebody else's files, or what was moved already
                for folder in made:
                    folder.rmdir()
            raise


def move_saved(source: Path, target: Path) -> None:
    """Move files saved by other libraries into a folder, with checksums in weights and modes by the umask."""
    take_umask(source)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for file in files:
        if file.suffix == ".safetensors":
            add_checksum(file)
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)


_WHERE = ("subfolder", "token", "cache_folder", "revision", "local_files_only")


class SavedModule(Module):
    """Base of modules whose folder holds the arguments that make them and, if they have any, their weights."""

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write configuration and weights into a folder; weights always as safetensors."""
        os.makedirs(output_path, exist_ok=True)
        self.save_config(output_path)
        if self.state_dict():
            self.save_torch_weights(output_path, safe_serialization=True)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # type: ignore[override]  # places by name only
        """Read configuration and weights from a folder or a Hub repository; every tensor must fit."""
        module: Self = super().load(model_name_or_path, **kwargs)
        if module.state_dict():
            where = {name: kwargs[name] for name in _WHERE if name in kwargs}
            cls.load_torch_weights(model_name_or_path, model=module, **where)
        return module


def route_width(modules: Sequence[nn.Module]) -> int:
    """Return how many numbers a text becomes after these modules.

    Args:
        modules: A route, in order.

    Returns:
        The width reported by the last module that knows one.

    Raises:
        ModelError: No module knows its width.
    """
    for module in reversed(modules):
        method: Any = getattr(module, "get_embedding_dimension", None)
        if method is not None and (width := method()) is not None:
            return int(width)
    names = ", ".join(type(module).__name__ for module in modules)
    raise ModelError(
        f"none of the modules {names} knows the size of its vectors; define get_embedding_dimension() in one"
    )


def shorter_dimensions(modules: Sequence[nn.Module]) -> tuple[int, ...]:
    """Return how many first numbers of a vector are a vector too, as Matryoshka training (arXiv 2205.13147) makes them.

    Args:
        modules: A route, in order.

    Returns:
        The dimensions below the whole one that `matryoshka_dimensions` in the configuration of the route's transformer
        lists, in rising order; all of them where it only says `is_matryoshka`, and none where it says neither.
    """
    config = getattr(getattr(modules[0], "model", None), "config", None)
    whole = route_width(modules)
    given = getattr(config, "matryoshka_dimensions", None)
    if isinstance(given, list | tuple):
        known = (size for size in given if isinstance(size, int) and not isinstance(size, bool))
        return tuple(sorted({size for size in known if 1 <= size < whole}))
    return tuple(range(1, whole)) if getattr(config, "is_matryoshka", False) is True else ()


def declare_shorter_dimensions(modules: Sequence[nn.Module], dimensions: Sequence[int]) -> None:
    """Let the configuration of a route's transformer list what `shorter_dimensions` returns; saved with the model."""
    config = getattr(getattr(modules[0], "model", None), "config", None)
    if config is not None and (dimensions or shorter_dimensions(modules)):
        config.matryoshka_dimensions = sorted(dimensions)


@timed("encode")
def run_modules(modules: Sequence[nn.Module], features: dict[str, Any], side: str | None) -> dict[str, Any]:
    """Return the features after the last of some modules; ModelError where one of ours fails."""
    for module in modules:
        told = {"task": side} if "task" in getattr(module, "forward_kwargs", ()) else {}
        try:
            features = module(features, **told)
        except HyperseekError:
            raise
        except (RuntimeError, IndexError, ValueError, KeyError, TypeError) as error:
            # The message below would put the blame in the wrong place: on the model's files, instead of on memory or on
            # the package that the module comes from.
            if isinstance(error, torch.OutOfMemoryError) or foreign_place(error.__traceback__):
                raise
            batch = f" on a batch of size {tuple(features['input_ids'].shape)}" if "input_ids" in features else ""
            raise ModelError(
                f"the module {type(module).__name__} failed{batch} ({type(error).__name__}: {brief(error)}); the "
                f"files of the model may not belong together, or its maximum length exceeds what the module can read"
            ) from error
    return features

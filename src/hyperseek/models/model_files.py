"""The files of a model, checked before and after other libraries build a model from them.

A checkpoint whose tensors have other names than the model's loads without an error, and gives a random encoder. So the
names in the file are compared with those of the model; if they differ, transformers is asked what it loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

import torch
from pydantic import Field, field_validator
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import load_file_path
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperseek._config import Config
from hyperseek._files import LARGEST_JSON, check_checksum, read_json
from hyperseek.errors import InputError, ModelError, shown
from hyperseek.models.retriever import SIDES, Retriever

PLAIN = (None, "SentenceTransformer")
"""Kinds of containers for models of one vector per text."""

MOST_TOKENS = 1 << 20
"""To which a query may be padded, in memory that tokenizers take without asking."""

_MODULES, _CONTAINER, _CONFIG, _ROUTER, _TRANSFORMER = (
    "modules.json",
    "config_sentence_transformers.json",
    "config.json",
    "router_config.json",
    "sentence_bert_config.json",
)
# Other libraries read these, and do not say which one is damaged.
_OBJECTS = (
    _CONTAINER,
    _CONFIG,
    _ROUTER,
    _TRANSFORMER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_TOKENIZER = "tokenizer.json"
_LARGEST_TOKENIZER = 1 << 30  # some have tens of megabytes, too much to read twice unless something is wrong
# Modules that would have other settings without their configuration, or none.
_CONFIGURED = (".Dense", ".MultiVectorMask", ".Pooling")
_MOST_LAYERS = 1000  # of an encoder; each takes time to build before any weight is looked for
# Those whose linear layers are saved alike; a module of another package may be called the same.
_PACKAGES = ("sentence_transformers.", "pylate.")
_REMEDY = "save or download the model again"

_C = TypeVar("_C", bound=Config)


class ModuleEntry(Config, extra="ignore"):
    """One module of `modules.json`.

    Attributes:
        name: Name of the module in its container.
        path: Its folder, relative to the model's.
        type: Its class.
    """

    name: str
    path: str
    type: str


class Container(Config, extra="ignore"):
    """The fields of `config_sentence_transformers.json` from which a container of our modules is made.

    Attributes:
        model_type: Kind of container.
        prompts: Texts put before those of each side.
        default_prompt_name: The prompt put before texts of neither side.
        similarity_fn_name: How vectors are compared.
        truncate_dim: How many numbers of a vector are kept.
    """

    model_type: str | None = None
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = Field(default=None, ge=1)


class _DenseConfig(Config, extra="ignore", strict=True):
    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)
    bias: bool = True
    use_residual: bool = False
    activation_function: str = "torch.nn.Tanh"


class _Expansion(Config, extra="ignore"):
    length: int | None = Field(default=None, ge=0, le=MOST_TOKENS)


class _LateSettings(Config, extra="ignore", strict=True):
    """Settings of PyLate's container, or of a transformer, which would be noticed late or not at all."""

    query_length: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    document_length: int | None = Field(default=None, ge=1)
    query_expansion: _Expansion | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    skiplist_words: list[str] | None = None
    do_query_expansion: bool | None = None
    attend_to_expansion_tokens: bool | None = None


class _ModuleList(Config):
    modules: tuple[ModuleEntry, ...] = Field(min_length=1)

    @field_validator("modules")
    @classmethod
    def _check_names(cls, modules: tuple[ModuleEntry, ...]) -> tuple[ModuleEntry, ...]:
        names = [entry.name for entry in modules]
        if len(set(names)) < len(names):
            raise ValueError("each module needs a name of its own")
        return modules


class _RouterTypes(Config, extra="ignore"):
    types: dict[str, str] = Field(default_factory=dict)


class Architecture(Config, extra="ignore"):
    """The kind of a model of transformers.

    Attributes:
        model_type: Name of its configuration class.
        architectures: Names of its model classes.
    """

    model_type: str | None = None
    architectures: tuple[str, ...] | None = None

    @property
    def names(self) -> set[str | None]:
        """All of these names."""
        return {self.model_type, *(self.architectures or ())}


class ModelFiles:
    """The small files of a model.

    Args:
        location: Folder or Hub name.
        revision: Branch, tag or commit on the Hub.
    """

    def __init__(self, location: str, revision: str | None = None) -> None:
        self.location = location
        self.revision = revision

    def find(self, name: str, folder: str = "") -> str | None:
        """Return the local path of a file of the model, or None if it has no such file."""
        return load_file_path(self.location, name, subfolder=folder, revision=self.revision)

    def read(self, name: str, folder: str = "", *, largest: int = LARGEST_JSON) -> Any:
        """Return the content of a JSON file of at most `largest` bytes, or None if the model has no such file."""
        path = self.find(name, folder)
        if path is None:
            return None
        return read_json(path, "a file of a model", error=ModelError, remedy=_REMEDY, largest=largest)

    @cached_property
    def entries(self) -> tuple[ModuleEntry, ...]:
        """The modules of the container, in order; empty for an encoder of transformers."""
        if self.find(_MODULES) is None:
            return ()
        values = self.read(_MODULES)
        return self._as(_ModuleList, {"modules": values}, _MODULES).modules

    @cached_property
    def modules(self) -> tuple[ModuleEntry, ...]:
        """All modules; those inside a Router follow it."""
        return tuple(self._modules())

    @cached_property
    def container(self) -> Container:
        """The container's fields; defaults if the file is missing."""
        values = self.read(_CONTAINER)
        if values is None:
            return Container()
        self._as(_LateSettings, values, _CONTAINER)
        return self._as(Container, values, _CONTAINER)

    @property
    def encoder_folders(self) -> list[str]:
        """Folders of the transformers, those inside a Router included."""
        if not self.modules:
            return [""]
        return [entry.path for entry in self.modules if entry.type.endswith("Transformer")]

    @property
    def is_plain(self) -> bool:
        """Whether the model is a stack of modules in sentence-transformers' container for one vector per text."""
        return bool(self.entries) and self.container.model_type in PLAIN

    @property
    def architecture(self) -> Architecture:
        """The kind of a model of transformers by its `config.json`; empty if the file is missing."""
        return self._as(Architecture, self.read(_CONFIG) or {}, _CONFIG)

    def check(self, *, trust_remote_code: bool = False) -> None:
        """Check that the files can be read, lie inside the model's folder and are unchanged.

        Args:
            trust_remote_code: Whether code that comes with the model may run.

        Raises:
            ModelError: A file fails the check.
        """
        if os.path.isdir(self.location):
            self._check_folder()
        _ = self.container
        for folder in self.encoder_folders:
            check_layers(self.read(_CONFIG, folder), f"{self.location}/{folder}".rstrip("/"))
            if (values := self.read(_TRANSFORMER, folder)) is not None:
                self._as(_LateSettings, values, f"{folder}/{_TRANSFORMER}".lstrip("/"))
        for entry in self.modules:
            if entry.type.startswith(_PACKAGES) and entry.type.endswith(".Dense"):
                self._check_dense(entry, trust_remote_code=trust_remote_code)

    def _check_folder(self) -> None:
        """Check that the files of a model on disk are whole, and that none is missing of which others speak."""
        if self.find(_MODULES) is None and self.find(_CONTAINER) is not None:
            # Without it a container would be made of the encoder alone, with other scores.
            raise ModelError(f"{self.location} has {_CONTAINER}, but no {_MODULES}; {_REMEDY}")
        if self.find(_CONTAINER) is None and any(entry.type.endswith(".MultiVectorMask") for entry in self.entries):
            raise ModelError(f"{self.location} has vectors of tokens, but no {_CONTAINER}; {_REMEDY}")
        for folder in self._folders:
            for name in _OBJECTS:
                self._check_object(name, folder)
            for file in sorted(Path(self.location, folder).glob("*.safetensors")):
                check_checksum(file, "a file of weights", error=ModelError, remedy=_REMEDY)
        for entry in self.modules:
            needed = entry.type.startswith(_PACKAGES) and entry.type.endswith(_CONFIGURED)
            if needed and self.find(_CONFIG, entry.path) is None:
                raise ModelError(f"{self.location}/{entry.path} has no {_CONFIG}; {_REMEDY}")

    def check_tokenizers(self) -> None:
        """Check the tokenizers of a model on disk that did not load, whose error does not name the file.

        Raises:
            ModelError: One is damaged.
        """
        if os.path.isdir(self.location):
            for folder in self._folders:
                self._check_object(_TOKENIZER, folder, largest=_LARGEST_TOKENIZER)

    @property
    def _folders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("", *(entry.path for entry in self.modules))))

    def _check_object(self, name: str, folder: str, *, largest: int = LARGEST_JSON) -> None:
        if self.find(name, folder) is None:
            return
        values = self.read(name, folder, largest=largest)
        if not isinstance(values, dict):
            place = f"{folder}/{name}".lstrip("/")
            raise ModelError(
                f"{place} of {self.location} must hold a mapping of names to values, not {shown(values)}; {_REMEDY}"
            )

    def _check_dense(self, entry: ModuleEntry, *, trust_remote_code: bool) -> None:
        """Compare the configuration of a linear layer with its weights: a missing residual costs quality in silence."""
        values = self.read(_CONFIG, entry.path)
        if values is None:
            return
        says = self._as(_DenseConfig, values, f"{entry.path}/{_CONFIG}")
        place, _, name = says.activation_function.rpartition(".")
        known = place.startswith("torch.") and hasattr(sys.modules.get(place), name)
        if not known and not trust_remote_code:  # with no more than a warning, another would take its place
            raise ModelError(
                f"{self.location}/{entry.path}: the activation {shown(says.activation_function)} is not one of torch; "
                f"if you trust that code, pass trust_remote_code=True"
            )
        shapes = dict(_tensors_in_file(self, entry.path))
        # A residual between equal widths has no weights, so nothing contradicts it.
        residual = says.use_residual and says.in_features != says.out_features
        for name, said, found in (
            ("(out_features, in_features)", (says.out_features, says.in_features), shapes.get("linear.weight")),
            ("bias", says.bias, "linear.bias" in shapes),
            ("use_residual", residual, "residual.weight" in shapes),
        ):
            if shapes and said != found:
                raise ModelError(
                    f"{self.location}/{entry.path}: config.json says {name} is {said}, but the weights say {found}; "
                    f"correct the wrong one, or {_REMEDY}"
                )

    def _modules(self) -> Iterator[ModuleEntry]:
        for entry in self.entries:
            yield self._inside(entry)
            if entry.type.endswith(".Router"):
                values = self.read(_ROUTER, entry.path) or self.read(_CONFIG, entry.path) or {}
                for name, kind in self._as(_RouterTypes, values, _ROUTER).types.items():
                    inner = str(PurePosixPath(entry.path) / name)
                    yield self._inside(ModuleEntry(name=name, path=inner, type=kind))

    def _inside(self, entry: ModuleEntry) -> ModuleEntry:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.path or "\0" in entry.path:
            raise ModelError(f"a module of {self.location} is in {shown(entry.path)}, outside of the model")
        return entry

    def _as(self, kind: type[_C], values: Any, name: str) -> _C:
        return kind.from_mapping(values, source=f"{name} of {self.location}", error=ModelError)


def check_layers(values: Any, place: str) -> None:
    """Raise ModelError if a configuration asks for more layers than can be built in reasonable time, or below none."""
    if values is None:
        return
    if not isinstance(values, dict):
        raise ModelError(f"config.json of {place} must hold an object, not {shown(values)}; {_REMEDY}")
    for key, value in values.items():
        if isinstance(value, dict):
            check_layers(value, place)
        elif (
            "layer" in str(key)
            and isinstance(value, int | float)
            and (value > _MOST_LAYERS or (value < 0 and str(key).startswith("num_")))
        ):
            raise ModelError(f"config.json of {place} says {key}: {shown(value)}; it is damaged, or not an encoder's")


# Some encoders have a layer after the first token that no pooling here reads and that many checkpoints lack.
_UNREAD = "pooler."


def check_complete(model: SentenceTransformer, files: ModelFiles) -> None:
    """Check that every weight of a model's encoders came from their files.

    Args:
        model: The loaded model.
        files: The files it was loaded from.

    Raises:
        ModelError: A tensor is missing, or a file of the same kind of encoder has one that fits nowhere.
    """
    encoders = [module for module in model.modules() if isinstance(module, Transformer)]
    for encoder, folder in zip(encoders, files.encoder_folders, strict=False):
        held = set(_names_in_file(files, folder))
        own, kind = set(encoder.model.state_dict()), type(encoder.model).__name__
        buffers = {name for name, _ in encoder.model.named_buffers()}  # which some files hold
        if not held or own <= held <= own | buffers:
            continue
        # Names may differ for good reasons, such as an older release or a head, which transformers handles.
        _, found = type(encoder.model).from_pretrained(
            files.location,
            config=encoder.model.config,
            revision=files.revision or "main",
            subfolder=folder,
            output_loading_info=True,
        )
        lost = sorted(name for name in found["missing_keys"] if not name.startswith(_UNREAD))
        if lost:
            raise ModelError(
                f"{Path(files.location, folder)} lacks {len(lost)} of {len(own)} tensors of its {kind} "
                f"({', '.join(lost[:3])} ...), which would be random; it is damaged, or the checkpoint of another model"
            )
        strange = sorted(found["unexpected_keys"])
        if strange and kind in (encoder.model.config.architectures or []):
            raise ModelError(
                f"{Path(files.location, folder)} has {len(strange)} tensors ({', '.join(strange[:3])} ...) that fit "
                f"nowhere in its {kind}; its config.json and its weights do not belong together"
            )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, source: object) -> None:
    """Check that an encoder knows every token of its tokenizer; before saving, which counts up to the largest number.

    Args:
        tokenizer: The tokenizer.
        encoder: The encoder.
        source: Where both come from, for the message.

    Raises:
        ModelError: The tokenizer has a token beyond the encoder's embeddings, or none but special ones.
    """
    known = int(cast(Tensor, encoder.get_input_embeddings().weight).shape[0])
    vocabulary = tokenizer.get_vocab()
    if vocabulary.keys() <= tokenizer.get_added_vocab().keys():
        # transformers makes one where there is no file, and every word would be unknown.
        raise ModelError(
            f"the tokenizer of {source} has no words; its vocabulary (tokenizer.json, vocab.txt or another file) is "
            f"missing; {_REMEDY}"
        )
    largest = max(vocabulary.values(), default=-1)
    if largest >= known:
        raise ModelError(
            f"the tokenizer of {source} has a token {largest}, but its encoder knows {known} tokens; "
            f"they do not belong together"
        )


def check_usable(retriever: Retriever) -> None:
    """Check that a model turns a text into numbers on either side, so that a misfit is found here and not later.

    Args:
        retriever: Just loaded.

    Raises:
        ModelError: Its tokenizer has tokens that its encoder does not know, or its scores are not finite.
    """
    first: Any
    for first in {retriever.route(side)[0]: None for side in SIDES}:
        tokenizer, encoder = getattr(first, "tokenizer", None), getattr(first, "model", None)
        if not isinstance(encoder, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
            continue
        check_vocabulary(tokenizer, encoder, retriever.source)
    try:
        with torch.inference_mode():
            points = retriever.points(retriever.forward(retriever.preprocess(["a"], "document"), "document"))
            score = retriever.compile(["a"]).score(points)
    except InputError as error:  # of a space, whose points must be finite
        raise ModelError(f"the weights of {retriever.source} give no points, and are damaged: {error}") from error
    if not torch.isfinite(score).all():
        raise ModelError(f"the weights of {retriever.source} give scores that are not numbers; they are damaged")


def _names_in_file(files: ModelFiles, folder: str) -> Iterator[str]:
    """Names of the tensors in an encoder's weight files; empty if no file can be read without running code."""
    if files.find("model.safetensors", folder) is None:
        index = files.read("model.safetensors.index.json", folder)
        if index is not None:
            yield from index["weight_map"]
            return
    yield from dict(_tensors_in_file(files, folder))


def _tensors_in_file(files: ModelFiles, folder: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors in a module's one weight file; empty if there is none."""
    if (single := files.find("model.safetensors", folder)) is not None:
        with safe_open(single, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                yield name, tuple(file.get_slice(name).get_shape())
    elif (old := files.find("pytorch_model.bin", folder)) is not None:
        tensors: dict[str, Tensor] = torch.load(old, map_location="meta", weights_only=True)
        for name, tensor in tensors.items():
            yield name, tuple(tensor.shape)

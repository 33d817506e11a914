"""Loading retrievers: sentence-transformers folders and names, plain transformers encoders, and our own stacks.

sentence-transformers refuses module classes from other packages unless remote code is trusted. Those of registered
families are not remote code, so a model that uses them is assembled here and handed to the public constructor.

New retrievers are built from a configuration: a trunk, and the modules of its family behind it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import import_from_string
from torch import nn
from transformers import PreTrainedTokenizerBase

from hyperseek._folders import cache_folder
from hyperseek._machine import check_device
from hyperseek.errors import (
    ConfigError,
    HyperseekError,
    InputError,
    MissingExtraError,
    ModelError,
    brief,
    is_panic,
    shortened,
    suggestion,
)
from hyperseek.models.backends import BACKENDS
from hyperseek.models.families import FAMILIES, ModelConfig, usable_families
from hyperseek.models.light import PACKAGED, resolve_name
from hyperseek.models.model_files import ModelFiles, check_complete, check_usable
from hyperseek.models.retriever import SIDES, Retriever, Side

_LIBRARY = "sentence_transformers."

_Container = TypeVar("_Container")


def load(
    path_or_name: str | os.PathLike[str],
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    backend: str | None = None,
) -> Retriever:
    """Load a retriever.

    Args:
        path_or_name: A folder that hyperseek, sentence-transformers or transformers wrote; a Hub name; or
            `"minilm"`, the all-MiniLM-L6-v2 that comes with the extra `local`, which needs no network.
        device: Where to put it, as in `"cuda:0"`; None takes a GPU if there is one.
        trust_remote_code: Whether code that comes with the model may run. Never needed for hyperseek's own models.
        revision: Branch, tag or commit on the Hub.
        backend: What runs its transformers on a CPU: `"onnx"`, `"onnx-int8"`, `"openvino"`, `"openvino-bfloat16"`,
            `"openvino-int8"`, or another that is registered; None for torch. The first time they are exported into the
            cache folder, and compared with torch. The model can then encode and search, but not be trained.

    Returns:
        The retriever, in float32 unless it was saved in lower precision.

    Raises:
        InputError: There is no such device, or a backend cannot compute there.
        UnknownNameError: There is no such backend.
        MissingExtraError: A package that the model needs is not installed.
        ModelError: There is no such model, it cannot be read, or its files have changed since they were saved.
    """
    location = resolve_name(path_or_name)
    if backend is not None:
        BACKENDS.checked(backend)
        if (device := device or "cpu") != "cpu":
            raise InputError(f"backends compute on the CPU, not on {device}; leave the device or the backend out")
    options: dict[str, Any] = {
        "device": check_device(device),
        "trust_remote_code": trust_remote_code,
        "revision": revision,
    }
    with loading("a model", path_or_name, location):
        files = ModelFiles(location, revision)
        files.check(trust_remote_code=trust_remote_code)
        try:
            retriever = _load(files, options, source=str(path_or_name))
        except Exception:
            files.check_tokenizers()
            raise
        check_complete(retriever.model, files)
        _choose_padding(retriever)
        check_usable(retriever)
        if backend is not None:
            from hyperseek.models.exports import run_by

            run_by(retriever, backend, cache=cache_folder() / "backends")
    return retriever


def _load(files: ModelFiles, options: dict[str, Any], *, source: str) -> Retriever:
    wanted = {key: options[key] for key in ("device", "trust_remote_code")}
    if not files.is_plain:
        for _, kind in usable_families():
            family = kind()
            if family.recognises(files):
                return family.load(files, source=source, **wanted)
    own = _own_modules(entry.type for entry in files.modules)
    if own:
        cut = files.container.truncate_dim
        model = load_container(SentenceTransformer, files, own, truncate_dim=cut, **wanted)
    else:
        model = SentenceTransformer(files.location, **options)
    return Retriever(model, source=source)


def _choose_padding(retriever: Retriever) -> None:
    """Give tokenizers without a padding token, as many decoders', another token for it; attention leaves it out."""
    for first in {retriever.route(side)[0]: None for side in SIDES}:
        tokenizer = getattr(first, "tokenizer", None)
        if isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.mask_token or tokenizer.eos_token or tokenizer.unk_token


def _own_modules(types: Iterable[str]) -> dict[str, type[nn.Module]]:
    """Return the module classes that belong to families, by the names that a model has for them."""
    wanted = {name for name in types if not name.startswith(_LIBRARY)}
    found: dict[str, type[nn.Module]] = {}
    if not wanted:
        return found
    for _, family in usable_families():
        known = family.module_names()
        found |= {each: known[each] for each in wanted & known.keys()}
        wanted -= known.keys()
        if not wanted:
            break
    return found


@contextmanager
def loading(what: str, given: str | os.PathLike[str], location: str) -> Iterator[None]:
    """Turn whatever other libraries raise while they load a model into one error of this library.

    Args:
        what: What is loaded, with its article, as in `"a tokenizer"`.
        given: Its name as the user gave it.
        location: The folder or Hub name that this stands for.

    Yields:
        Nothing.

    Raises:
        ModelError: Anything was raised; errors of this library pass unchanged.
        MissingExtraError: A package is missing.
    """
    try:
        yield
    except HyperseekError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"{what} from {str(given)!r} needs a package that is missing: {brief(error)}"
        ) from error
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        hint = (
            ""
            if os.path.exists(location)
            else f" (no folder here, so a name on the Hub{suggestion(location, PACKAGED)})"
        )
        # torch and transformers say what does not fit after the first line.
        reason = shortened(" ".join(str(error).split()) or type(error).__name__, 600)
        raise ModelError(f"cannot load {what} from {shortened(str(given))!r}{hint}: {reason}") from error


def load_container(
    kind: Callable[..., _Container],
    files: ModelFiles,
    own: Mapping[str, type[nn.Module]],
    *,
    device: str | None,
    trust_remote_code: bool,
    **options: Any,
) -> _Container:
    """Load the modules of a model one by one, and put them into a container.

    Args:
        kind: Class of the container.
        files: The model's.
        own: Classes of families, by the names that `modules.json` gives them.
        device: Where to put it; None leaves the choice to the container.
        trust_remote_code: Whether code that comes with the model may run.
        **options: Further arguments of the container.

    Returns:
        The container, with the settings that were saved.

    Raises:
        ModelError: A module belongs neither to `own` nor to sentence-transformers.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for entry in files.entries:
        cls: Any = own.get(entry.type) or _module_class(entry.type, trust_remote_code)
        modules[entry.name] = cls.load(
            files.location,
            subfolder=entry.path,
            revision=files.revision,
            trust_remote_code=trust_remote_code,
            module_classes=own,
        )
    config = files.container
    return kind(
        modules=modules,
        device=device,
        prompts={name: prompt or "" for name, prompt in (config.prompts or {}).items()},
        default_prompt_name=config.default_prompt_name,
        similarity_fn_name=config.similarity_fn_name,
        **options,
    )


def _module_class(name: str, trust_remote_code: bool) -> Any:
    if not name.startswith(_LIBRARY) and not trust_remote_code:
        raise ModelError(
            f"the model has a module {name!r}, which belongs to no registered family and not to "
            f"sentence-transformers; install the package that it comes from, or if you trust that code, pass "
            f"trust_remote_code=True"
        )
    return import_from_string(name)


def set_length(retriever: Retriever, side: Side, length: int) -> None:
    """Set how many tokens of a side's texts a model reads at most.

    Args:
        retriever: Changed in place.
        side: `"query"` or `"document"`.
        length: More than there are special tokens; a query expansion that is longer is shortened to it.

    Raises:
        ConfigError: The route begins with something that reads no tokens of a tokenizer, or the special tokens alone
            are as many.
    """
    first: Any = retriever.route(side)[0]
    if not isinstance(first, Transformer):
        raise ConfigError(f"{side}_length can be set for transformer trunks only, not for {type(first).__name__}")
    special = getattr(first.tokenizer, "num_special_tokens_to_add", lambda: 0)()
    if length <= special:
        raise ConfigError(
            f"{side}_length is {length}, and {special} special tokens leave no room for a text; give at least "
            f"{special + 1}"
        )
    expansion = getattr(first, "query_expansion", None)
    if side == "query" and expansion is not None and length < (expansion["length"] or 0):
        first.query_length = None
        first.query_expansion = {**expansion, "length": length}
    setattr(first, f"{side}_length", length)


def set_query_length(retriever: Retriever, length: int) -> None:
    """Set how many tokens of queries a model reads at most, and to how many a query expansion lengthens them.

    Args:
        retriever: Changed in place.
        length: At least 1.

    Raises:
        ConfigError: The route of queries begins with something that reads no tokens of a tokenizer, or the trunk cannot
            read as many.
    """
    first: Any = retriever.route("query")[0]
    set_length(retriever, "query", length)
    expansion = getattr(first, "query_expansion", None)
    if expansion is None or not expansion["length"]:
        return
    first.query_length = None  # the expansion's length is the limit
    try:
        first.query_expansion = {**expansion, "length": length}
    except ValueError as error:
        raise ConfigError(f"queries of {length} tokens do not fit the trunk: {error}") from None


def build(config: ModelConfig, *, device: str | None = None) -> Retriever:
    """Build the retriever that a configuration describes.

    Args:
        config: The configuration.
        device: Where to put it; None takes a GPU if there is one.

    Returns:
        A new retriever. One of family `qnet` with a warm start scores exactly as its trunk does.

    Raises:
        ConfigError: The parts do not fit together.
        InputError: The device is not there.
        ModelError: A trunk cannot be loaded.
    """
    device = check_device(device)
    retriever = trunk = load(config.trunk, device=device)
    family = None if config.family is None else FAMILIES[config.family]()
    if family is not None:
        document_trunk = trunk if config.document_trunk is None else load(config.document_trunk, device=device)
        for each in (trunk, document_trunk):
            only = getattr(each.route("document")[0], "only_family", config.family)
            if only != config.family:
                raise ConfigError(
                    f"no other family than {only} can read the states of this trunk; take family: {only}, not "
                    f"{config.family}"
                )
        retriever = family.build(trunk, document_trunk, config)
    _set_lengths_and_prompts(retriever, config)
    if family is not None and config.head_from is not None:
        family.copy_head(load(config.head_from, device="cpu"), retriever)
    return retriever


def _set_lengths_and_prompts(retriever: Retriever, config: ModelConfig) -> None:
    retriever.model.prompts.update({str(side): prompt for side, prompt in config.prompts.items()})
    for side in SIDES:
        length = config.query_length if side == "query" else config.document_length
        if length is None:
            continue
        set_length(retriever, side, length)

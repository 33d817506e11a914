"""Import of Hypencoder and BE-base checkpoints, which their own code cannot load with current transformers.

The layout is described in the checkpoints' `config.json`: two encoders under the prefixes `query_encoder.` and
`passage_encoder.`, each with a `transformer.`; a shared transformer may appear under both prefixes or under one.
Tensors are read directly, so nothing is downloaded but the trunk's configuration, if it is given by a Hub name.
"""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

from hyperseek._config import Config
from hyperseek._files import read_json, read_tensors, reading
from hyperseek._machine import check_device
from hyperseek.errors import ModelError, shown
from hyperseek.models.families.qnet import PaddedMeanPooling, QNetHead
from hyperseek.models.light import resolve_name
from hyperseek.models.loading import loading
from hyperseek.models.model_files import check_layers, check_usable, check_vocabulary
from hyperseek.models.retriever import Retriever

logger = logging.getLogger(__name__)

# Wrappers of training frameworks put these in front of every name.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_SIDES = {"query": "query_encoder.", "document": "passage_encoder."}
# A pooler is never used here, nor is the position buffer that old versions of transformers saved.
_IGNORABLE = ("pooler.", "embeddings.position_ids")


class _Side(Config, extra="ignore"):
    model_name_or_path: str = ""
    pooling_type: str = "cls"
    converter_kwargs: dict[str, Any] = Field(default_factory=dict)
    embedding_representation: str | None = None
    base_encoder_output_dim: int = 768


class _Original(Config, extra="ignore"):
    """The original's `config.json`: missing keys take the original's defaults, unknown ones are ignored."""

    query_encoder_kwargs: _Side = _Side()
    passage_encoder_kwargs: _Side = _Side()
    shared_encoder: bool = False


def import_hypencoder(
    path: str | os.PathLike[str],
    *,
    trunk: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    legacy_padded_mean: bool = False,
    query_length: int = 32,
    document_length: int = 512,
    device: str | None = "cpu",
) -> Retriever:
    """Read a Hypencoder or a BE-base (`TextDualEncoder`) checkpoint.

    Args:
        path: The checkpoint's folder, with `config.json` and `model.safetensors` or `pytorch_model.bin`.
        trunk: Folder or Hub name of the trunk's configuration and tokenizer; None takes the name in the checkpoint's
            `config.json`; a relative path is relative to the folder. Its weights are not read.
        weights: The weight file; None looks for the usual names in the folder.
        legacy_padded_mean: For checkpoints with `pooling_type: mean`: pool as the original did, which also sums
            padded positions, so that vectors depend on their batch. Checkpoints were trained this way.
        query_length: Maximum tokens of a query; the original trained with 32 and searched with 32 to 64.
        document_length: Maximum tokens of a document.
        device: Device of the model; None takes a GPU if there is one.

    Returns:
        The retriever, in float32; `save` writes it in this library's format.

    Raises:
        ModelError: The folder is not such a checkpoint, or tensors are missing.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give the folder of a Hypencoder or BE-base checkpoint")
    values = read_json(folder / "config.json", "the configuration of a checkpoint", error=ModelError)
    if not isinstance(values, dict):
        raise ModelError(f"{folder}/config.json must hold an object, not {shown(values)}")
    if "query_encoder_kwargs" not in values and "passage_encoder_kwargs" not in values:
        raise ModelError(f"{folder}/config.json names no query_encoder_kwargs; this is not a Hypencoder checkpoint")
    original = _Original.from_mapping(_without_nulls(values), source=str(folder / "config.json"), error=ModelError)
    tensors = _by_side(read_weights(folder, weights), shared=original.shared_encoder)
    with loading("a checkpoint", path, str(path)):
        return _built(
            folder,
            original,
            tensors,
            trunk=trunk,
            legacy_padded_mean=legacy_padded_mean,
            lengths=(query_length, document_length),
            device=check_device(device),
        )


def _built(
    folder: Path,
    original: _Original,
    tensors: dict[str, dict[str, Tensor]],
    *,
    trunk: str | os.PathLike[str] | None,
    legacy_padded_mean: bool,
    lengths: tuple[int, int],
    device: str | None,
) -> Retriever:
    query_trunk = _trunk(folder, original.query_encoder_kwargs, trunk, tensors["query"])
    if original.shared_encoder:
        document_trunk = query_trunk
    else:
        document_trunk = _trunk(folder, original.passage_encoder_kwargs, trunk, tensors["document"])
    query_trunk.query_length, document_trunk.document_length = lengths
    documents: list[Module] = [
        document_trunk,
        _pooling(document_trunk, original.passage_encoder_kwargs, legacy_padded_mean),
    ]
    if original.query_encoder_kwargs.converter_kwargs:
        queries: list[Module] = [query_trunk, _head(original.query_encoder_kwargs, tensors["query"])]
    elif original.shared_encoder:
        queries = documents
    else:
        queries = [query_trunk, _pooling(query_trunk, original.query_encoder_kwargs, legacy_padded_mean)]
    for side, left in tensors.items():
        if left:
            logger.warning("%s: ignored %d stray %s tensors: %s", folder, len(left), side, ", ".join(sorted(left)[:5]))
    modules = documents if queries is documents else [Router.for_query_document(queries, documents)]
    model = SentenceTransformer(modules=list(modules), device=device, similarity_fn_name="dot")
    retriever = Retriever(model, source=str(folder))
    check_usable(retriever)
    return retriever


def _by_side(tensors: Mapping[str, Tensor], *, shared: bool) -> dict[str, dict[str, Tensor]]:
    """Split a state dict by encoder and remove the prefixes; a shared transformer goes to both."""
    sides: dict[str, dict[str, Tensor]] = {side: {} for side in _SIDES}
    stray = []
    for name, tensor in tensors.items():
        bare = name
        while wrapper := next((prefix for prefix in _WRAPPERS if bare.startswith(prefix)), None):
            bare = bare.removeprefix(wrapper)
        side = next((side for side, prefix in _SIDES.items() if bare.startswith(prefix)), None)
        if side is None:
            stray.append(name)
        else:
            sides[side][bare.removeprefix(_SIDES[side])] = tensor
    if stray:
        logger.warning("ignored %d tensors outside both encoders: %s", len(stray), ", ".join(sorted(stray)[:5]))
    if shared:
        _share(sides["query"], sides["document"])
    return sides


def _share(query: dict[str, Tensor], document: dict[str, Tensor]) -> None:
    """Keep a single copy of a shared transformer, on the query side, whatever prefix it was saved under."""
    for name in [name for name in document if name.startswith("transformer.")]:
        tensor = document.pop(name)
        if name in query and not torch.equal(query[name], tensor):
            raise ModelError(
                f"config.json says shared_encoder, but query_encoder.{name} and passage_encoder.{name} differ; "
                f"set shared_encoder to false in config.json if they are separate"
            )
        query.setdefault(name, tensor)


def _trunk(
    folder: Path, side: _Side, override: str | os.PathLike[str] | None, tensors: dict[str, Tensor]
) -> Transformer:
    """Build the transformer of one side from a configuration and the checkpoint's tensors, which are removed."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    location = _trunk_location(folder, side, override)
    try:
        config = AutoConfig.from_pretrained(location)
        check_layers(config.to_dict(), location)
        has_tokenizer = (folder / "tokenizer.json").is_file() or (folder / "vocab.txt").is_file()
        tokenizer = AutoTokenizer.from_pretrained(str(folder) if has_tokenizer else location)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read the configuration and tokenizer of the trunk {location!r} ({error}); "
            f"give trunk= a folder or a name that can be reached"
        ) from error
    model = AutoModel.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    prefix = "transformer."
    own = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    result = model.load_state_dict({name: tensor.float() for name, tensor in own.items()}, strict=False)
    missing = [name for name in result.missing_keys if not name.startswith(_IGNORABLE)]
    if missing:
        raise ModelError(
            f"the checkpoint lacks {len(missing)} tensors of the trunk {location!r}, among them {missing[:5]}; "
            f"is trunk= the right architecture?"
        )
    tensors.update({prefix + name: own[name] for name in result.unexpected_keys if not name.startswith(_IGNORABLE)})
    check_vocabulary(tokenizer, model, location)
    with tempfile.TemporaryDirectory() as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        built: Transformer = Transformer(temporary)
    return built


def _trunk_location(folder: Path, side: _Side, override: str | os.PathLike[str] | None) -> str:
    if override is not None:
        return resolve_name(override)
    if not side.model_name_or_path:
        raise ModelError(f"{folder}/config.json names no trunk; give trunk= a folder or a Hub name")
    relative = (folder / side.model_name_or_path).resolve()
    return str(relative) if relative.is_dir() else side.model_name_or_path


def _pooling(trunk: Transformer, side: _Side, legacy_padded_mean: bool) -> Module:
    width = trunk.get_embedding_dimension()
    if side.pooling_type not in ("cls", "mean"):
        raise ModelError(f"pooling_type must be 'cls' or 'mean', not {side.pooling_type!r}")
    if side.pooling_type == "mean" and legacy_padded_mean:
        return PaddedMeanPooling(width)
    if side.pooling_type == "mean":
        logger.warning(
            "this checkpoint was trained with a mean that includes padding, but is pooled without it; "
            "legacy_padded_mean=True pools as in training"
        )
    pooling: Module = Pooling(width, "cls" if side.pooling_type == "cls" else "mean")
    return pooling


def _head(side: _Side, tensors: dict[str, Tensor]) -> QNetHead:
    head = QNetHead(
        side.base_encoder_output_dim,
        side.converter_kwargs,
        embedding_representation=side.embedding_representation,  # type: ignore[arg-type]  # checked there
    )
    own = {name: tensors.pop(name) for name in head.head.state_dict() if name in tensors}
    try:
        head.head.load_state_dict(own)
    except RuntimeError as error:
        raise ModelError(f"the hyper-head of the checkpoint does not fit its config.json: {error}") from None
    return head


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop nulls, so that the defaults apply."""
    return {
        key: _without_nulls(value) if isinstance(value, Mapping) and key.endswith("_encoder_kwargs") else value
        for key, value in values.items()
        if value is not None
    }


_NAMES = ("model.safetensors", "dedup.safetensors", "pytorch_model.bin")
_LARGEST_INDEX = 1 << 24  # bytes of a file that are no tensors, usually some 100 KB


def read_weights(folder: Path, weights: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Read tensors by name, without running any code of the file.

    Args:
        folder: The checkpoint.
        weights: Its weight file; None looks for the usual names.

    Returns:
        The tensors, on the CPU.

    Raises:
        ModelError: There is no weight file, or it holds something other than tensors.
    """
    candidates = [Path(weights)] if weights is not None else [folder / name for name in _NAMES]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ModelError(f"{folder} has no weights; looked for {', '.join(path.name for path in candidates)}")
    if found.suffix == ".safetensors":
        return read_tensors(found, "a file of tensors", error=ModelError)[0]
    loaded = read_pickled(found, "a file of tensors")
    strange = (
        [key for key, value in loaded.items() if not isinstance(value, Tensor)] if isinstance(loaded, dict) else []
    )
    if strange or not isinstance(loaded, dict):
        what = f"{shown(strange[0])} is not a tensor" if strange else f"it holds a {type(loaded).__name__}"
        raise ModelError(f"{found} is not a plain file of named tensors: {what}; save the model's state_dict() alone")
    for name, tensor in loaded.items():
        if not is_stored_in_full(tensor):
            raise ModelError(f"{found} has a tensor {shown(name)} that is not stored in full")
    return {str(name): tensor for name, tensor in loaded.items()}


def read_pickled(file: Path, what: str) -> Any:
    """Read a file of `torch.save` on the CPU, without running any code of it.

    Args:
        file: The file.
        what: Its kind, with its article, for messages.

    Returns:
        What was saved.

    Raises:
        ModelError: It cannot be read, or would take far more memory than it has bytes.
    """
    with reading(file, what, error=ModelError):
        if zipfile.is_zipfile(file):  # older releases of torch wrote another form
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    # torch writes members as they are, so that a small file can never become a large one.
                    if member.compress_type != zipfile.ZIP_STORED:
                        raise ModelError(f"{file} holds compressed parts, which torch.save never writes")
                    if member.filename.endswith(".pkl") and member.file_size > _LARGEST_INDEX:
                        raise ModelError(
                            f"{file} holds {member.file_size:,} bytes beside its tensors, which is too much"
                        )
        return torch.load(file, map_location="cpu", weights_only=True)


def is_stored_in_full(tensor: Tensor) -> bool:
    """Return whether a tensor has all its numbers: strides can repeat a few bytes into one larger than any memory."""
    return (
        tensor.layout == torch.strided and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )

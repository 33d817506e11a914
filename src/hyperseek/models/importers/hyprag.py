"""Import of fully hyperbolic HypRAG checkpoints (`ALBertModel`, HyTE-FH), which their own loader reads only partly.

A checkpoint of masked-token pre-training has its tensors under `model.`, beside `head.` and `decoder.`; one of
contrastive training under `trunk.` or without a prefix. Every module of the original that knows the manifold repeats
its squared radius as `...k` and `...c`, which must all be one number.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hyperseek._config import Config
from hyperseek._files import read_json
from hyperseek._machine import check_device
from hyperseek.errors import ModelError, shown
from hyperseek.models.families.lorentz.config import Distance, LorentzEncoderConfig
from hyperseek.models.families.lorentz.encoder import LorentzEncoder, LorentzForMaskedLM
from hyperseek.models.families.lorentz.transformer import lorentz_model, pooling_module, transformer_module
from hyperseek.models.importers.hypencoder import read_weights
from hyperseek.models.light import resolve_name
from hyperseek.models.loading import loading
from hyperseek.models.model_files import check_usable, check_vocabulary
from hyperseek.models.retriever import Retriever
from hyperseek.nn.lorentz import LorentzPooler, PoolingName

logger = logging.getLogger(__name__)

_M = TypeVar("_M", LorentzEncoder, LorentzForMaskedLM)

# Training frameworks put the first two in front of every name.
_WRAPPERS = ("module.", "_orig_mod.")
_HEADS = ("head.", "decoder.")
_LONGEST = 256  # tokens of a text if the checkpoint does not set it; the original's evaluation truncates there


# Fields of the same name in both configurations.
_SAME = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "pad_token_id",
    "initializer_range",
    "rope_theta",
    "trainable_curvature",
    "use_rotary_embeddings",
    "pooling",
    "norm_layer",
    "attention_bias",
    "query_key_norm",
    "classifier_bias",
    "classifier_activation",
    "sparse_prediction",
)


class _Original(Config, extra="ignore"):
    """The original's `config.json`, with the defaults of its `ALBertConfig`."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_attention_heads: int = 12
    num_hidden_layers: int = 12
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    initializer_range: float = 0.02
    curvature_init: float = 1.0
    curvature_min: float = 0.1
    curvature_max: float = 10.0
    trainable_curvature: bool = False
    rope_theta: float = 10000.0
    use_rotary_embeddings: bool = True
    pooling: PoolingName = "cls"
    norm_layer: str = "layer_norm"
    attention_bias: bool = True
    attn_heads_concat: bool = True
    query_key_norm: bool = False
    classifier_bias: bool = True
    classifier_activation: str = "gelu"
    sparse_prediction: bool = False
    seq_len: int | None = None


def is_hyprag(folder: Path) -> bool:
    """Return whether a folder, or the folder `model` in it, holds a fully hyperbolic checkpoint of HypRAG."""
    path = _model_folder(folder) / "config.json"
    if not path.is_file():
        return False
    values = read_json(path, "the configuration of a checkpoint", error=ModelError)
    if not isinstance(values, dict):
        return False
    return "curvature_init" in values and "norm_layer" in values and values.get("model_type") != "hyte_fh"


def read_hyprag(
    path: str | os.PathLike[str], *, weights: str | os.PathLike[str] | None = None
) -> LorentzEncoder | LorentzForMaskedLM:
    """Read a checkpoint as a transformers model, to save, train further or inspect.

    Args:
        path: The checkpoint's folder, which has `config.json` and the weights, or a folder `model` with them.
        weights: The weight file; None looks for the usual names.

    Returns:
        The model, with its masked-token head if it has one, in float32; it rotates positions as the original does.

    Raises:
        ModelError: The folder is not such a checkpoint; a tensor is missing, unexpected or of another shape; or layers
            have different curvatures, as in the original if curvatures are trained.
    """
    folder = _model_folder(Path(path))
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give the folder of a HypRAG checkpoint")
    given = read_json(folder / "config.json", "the configuration of a checkpoint", error=ModelError)
    if not isinstance(given, dict):
        raise ModelError(f"{folder}/config.json must hold an object, not {shown(given)}")
    values = {key: value for key, value in given.items() if value is not None}
    original = _Original.from_mapping(values, source=str(folder / "config.json"), error=ModelError)
    tensors = _named(read_weights(folder, weights))
    if any(name.startswith("base_encoder.") for name in tensors):
        raise ModelError(f"{folder} holds a hybrid encoder (ELBertModel), not a fully hyperbolic one")
    with loading("a checkpoint", path, str(path)):
        return _read(tensors, original, folder)


def _read(tensors: dict[str, Tensor], original: _Original, folder: Path) -> LorentzEncoder | LorentzForMaskedLM:
    radius_squared = _squared_radius(tensors, original, folder)
    tensors["curvature.log_radius_squared"] = torch.tensor(radius_squared).log()
    config = _config(original, tensors, radius_squared, folder)
    if not any(name.startswith(_HEADS) for name in tensors):
        return _filled(LorentzEncoder(config), tensors, folder)
    # The original ties it by name and never uses it.
    tensors.pop("decoder.weight", None)
    return _filled(
        LorentzForMaskedLM(config),
        {name if name.startswith(_HEADS) else f"model.{name}": tensor for name, tensor in tensors.items()},
        folder,
    )


def import_hyprag(
    path: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    pooling: PoolingName | None = None,
    distance: Distance = "geodesic",
    query_prompt: str = "search_query: ",
    document_prompt: str = "search_document: ",
    query_length: int | None = None,
    document_length: int | None = None,
    device: str | None = "cpu",
) -> Retriever:
    """Read a checkpoint as a retriever.

    Args:
        path: See `read_hyprag`.
        tokenizer: Folder or Hub name of the tokenizer used in training; None looks in the folder.
        weights: See `read_hyprag`.
        pooling: How tokens are pooled; None takes the pooling in `config.json`.
        distance: How points are compared; all rank alike.
        query_prompt: Text prepended to queries in training. The original does not save it; this is its default.
        document_prompt: The same for documents.
        query_length: Maximum tokens of a query; None takes the length in `config.json`, or 256.
        document_length: The same for documents.
        device: Device of the model; None takes a GPU if there is one.

    Returns:
        The retriever, in float32; `save` writes it in this library's format. Padding is masked, unlike in the
        checkpoint's training.

    Raises:
        ModelError: As for `read_hyprag`; or the tokenizer has tokens that the model does not know.
    """
    model = read_hyprag(path, weights=weights)
    encoder = model if isinstance(model, LorentzEncoder) else model.model
    with loading("a checkpoint", path, str(path)):
        retriever = _retriever(
            encoder,
            _tokenizer(_model_folder(Path(path)), tokenizer, encoder.config.vocab_size),
            pooling=pooling,
            distance=distance,
            prompts={"query": query_prompt, "document": document_prompt},
            lengths=(query_length, document_length),
            device=check_device(device),
            source=str(path),
        )
        check_usable(retriever)
    return retriever


def _retriever(
    encoder: LorentzEncoder,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pooling: PoolingName | None,
    distance: Distance,
    prompts: dict[str, str],
    lengths: tuple[int | None, int | None],
    device: str | None,
    source: str,
) -> Retriever:
    config = encoder.config
    pooler = encoder.pooler
    if pooler is None or (pooling is not None and pooling != pooler.pooling):
        pooler = LorentzPooler(pooling or config.pooling, config.hidden_size)
    check_vocabulary(tokenizer, encoder, source)
    trunk = transformer_module(encoder, tokenizer)
    trunk.query_length = lengths[0] or config.max_position_embeddings
    trunk.document_length = lengths[1] or config.max_position_embeddings
    module = pooling_module(pooler, config.hidden_size)
    built = lorentz_model(trunk, module, distance=distance, device=device, prompts=prompts)
    return Retriever(built, source=source)


def _model_folder(folder: Path) -> Path:
    """Return the folder of the weights, which a training checkpoint keeps apart from the optimiser's state."""
    return folder / "model" if (folder / "model" / "config.json").is_file() else folder


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers and models add to names."""
    named = {}
    for name, tensor in tensors.items():
        bare = name
        while wrapper := next((prefix for prefix in _WRAPPERS if bare.startswith(prefix)), None):
            bare = bare.removeprefix(wrapper)
        named[bare.removeprefix("trunk.").removeprefix("model.")] = tensor.float()
    if len(named) < len(tensors):
        raise ModelError(
            "tensors of this checkpoint differ only in the prefix of their names; it holds more than one model"
        )
    return named


def _squared_radius(tensors: dict[str, Tensor], original: _Original, folder: Path) -> float:
    """Remove the repeated `...k` and `...c` from the tensors and return the number that all of them must be."""
    names = [name for name in tensors if name.rpartition(".")[2] in ("k", "c")]
    for name in names:
        if tensors[name].numel() != 1 or not 0 < float(tensors[name]) < math.inf:
            raise ModelError(f"{folder}: {name} must be one positive number, the squared radius, not {tensors[name]}")
    found = {name: float(tensors.pop(name)) for name in names}
    if not found:
        return original.curvature_init
    least, most = min(found, key=lambda name: found[name]), max(found, key=lambda name: found[name])
    if found[most] - found[least] > 1e-5 * found[most]:
        raise ModelError(
            f"{folder} was trained with several curvatures: {least} is {found[least]:.6g} and {most} is "
            f"{found[most]:.6g}; a model here has only one"
        )
    return found[most]


def _config(
    original: _Original, tensors: Mapping[str, Tensor], radius_squared: float, folder: Path
) -> LorentzEncoderConfig:
    if not original.attn_heads_concat:
        raise ModelError(f"{folder}: attn_heads_concat: false is not supported, and does not run in the original")
    if not original.use_rotary_embeddings and original.pad_token_id:
        raise ModelError(f"{folder}: position embeddings that start after pad_token_id are not supported")
    depth = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("layers.")), default=-1)
    if not depth:
        raise ModelError(f"the tensors of {folder} do not fit its config.json: none belongs to a layer of the encoder")
    if depth != original.num_hidden_layers:
        logger.warning("%s has %d layers, not %d as its config.json says", folder, depth, original.num_hidden_layers)
    inner = tensors.get("layers.0.mlp.w1.linear.weight")
    positions = tensors.get("embeddings.position_embeddings.weight")
    length = original.seq_len or _LONGEST
    return LorentzEncoderConfig(
        **{name: getattr(original, name) for name in _SAME},
        num_hidden_layers=depth,
        intermediate_size=None if inner is None else inner.shape[0] + 1,
        max_position_embeddings=length if positions is None else positions.shape[0],
        type_vocab_size=original.type_vocab_size,
        curvature_init=radius_squared,
        curvature_min=min(original.curvature_min, radius_squared),
        curvature_max=max(original.curvature_max, radius_squared),
        rotary_style="original",
    )


def _filled(model: _M, tensors: dict[str, Tensor], folder: Path) -> _M:
    own = model.state_dict()
    # The original keeps some scalars as vectors of one.
    shaped = {
        name: tensor.reshape(own[name].shape) if name in own and own[name].numel() == tensor.numel() == 1 else tensor
        for name, tensor in tensors.items()
    }
    try:
        model.load_state_dict(shaped)
    except RuntimeError as error:
        raise ModelError(f"the tensors of {folder} do not fit its config.json: {error}") from None
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _tokenizer(folder: Path, given: str | os.PathLike[str] | None, vocab_size: int) -> PreTrainedTokenizerBase:
    if given is None and not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise ModelError(f"{folder} has no tokenizer; give tokenizer= the folder or name of its own")
    location = str(folder) if given is None else resolve_name(given)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the tokenizer {location!r}: {error}") from error
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise ModelError(
            f"the tokenizer {location!r} has token {largest}, but the model knows only {vocab_size} tokens"
        )
    return tokenizer

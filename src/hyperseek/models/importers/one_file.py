"""Import of checkpoints that are one file of torch: of the Hierarchical Reasoning Embedding Model, and of Hydra.

HRM's have `model_state` with all weights, those of the frozen trunk included, and `args`, the flags of its training;
its own evaluation cannot read them. Some forks write `hrm_state_dict`, without the trunk, and the trunk's name beside
it; their `proj_scale` is not read, as only directions of tangents count.

Hydra's, `hypernet.pt`, which no code of its own can load, have `task_encoder_proj`, the projection of a card's vector,
and `head_gen`, the generator. They name neither the encoder nor the cards; sizes tell which of the two heads it is.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hyperseek._config import Config
from hyperseek._files import reading
from hyperseek._machine import check_device
from hyperseek.errors import ModelError, shown
from hyperseek.models.families import ModelConfig, join_routes, transformer_of
from hyperseek.models.families.card_head import CardHead
from hyperseek.models.families.level_head import LevelsConfig, LevelsFamily, LevelsHead
from hyperseek.models.importers.hypencoder import is_stored_in_full, read_pickled
from hyperseek.models.loading import load, loading, set_length
from hyperseek.models.model_files import check_usable
from hyperseek.models.retriever import SIDES, Retriever
from hyperseek.nn.heads import HydraHead, HydraProjectionHead
from hyperseek.nn.levels import fine_shares, radii_of_levels, weights_of_levels

_NAMES = ("checkpoint_best.pt", "checkpoint_final.pt", "checkpoint_last.pt")
_STATES = ("model_state", "hrm_state_dict")
# Wrappers of training put these in front of every name.
_WRAPPERS = ("module.", "_orig_mod.")
_TRUNK = "backbone."
# How much a trunk's weights may differ where they were saved in half precision.
_ROUNDED = 4e-3

_HYDRA_NAME = "hypernet.pt"
_HYDRA_PARTS = {"task_encoder_proj": "projection", "head_gen": "param_gen"}
# A module of torch puts its attribute's name in front.
_HYDRA_PREFIXES = ("module.", "_orig_mod.", "projection.", "param_gen.")


class HRMSettings(Config, extra="ignore"):
    """The flags of the original's training that say what its model means, with its defaults; schedules are written out.

    Attributes:
        backbone_name: Name of the trunk.
        max_length: Tokens of a text that it read.
        num_segments: Number of levels.
        s_scales: Norm of the tangent of each level.
        w_segments: Weight of each level in the loss.
        alpha_segments: Share of the fine positive at each level.
        temperature: Of the loss.
        d_hrm: Width of states.
        n_cycles: High steps of a segment.
        t_low: Low steps before each.
        hrm_hidden_mult: Hidden width of the networks, as a multiple.
        hrm_grad_window: Low steps of a segment that gradients flow through.
        pool_heads: Heads of the pooling.
        pool_hidden_mult: Its hidden width, as a multiple.
        pool_dropout: Its dropout.
        hyp_c: c of the ball.
    """

    backbone_name: str = "BAAI/bge-small-en-v1.5"
    max_length: int = Field(default=252, ge=1)
    num_segments: int = Field(default=4, ge=1, le=64)
    s_scales: tuple[float, ...]
    w_segments: tuple[float, ...]
    alpha_segments: tuple[float, ...]
    temperature: float = Field(default=0.05, gt=0)
    d_hrm: int = Field(default=512, ge=1)
    n_cycles: int = Field(default=2, ge=1)
    t_low: int = Field(default=2, ge=1)
    hrm_hidden_mult: int = Field(default=4, ge=1)
    hrm_grad_window: int = Field(default=0, ge=0)
    pool_heads: int = Field(default=1, ge=1)
    pool_hidden_mult: int = Field(default=2, ge=1)
    pool_dropout: float = Field(default=0.0, ge=0, lt=1)
    hyp_c: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        given = {name: value for name, value in values.items() if value is not None}
        # Non-positive windows mean the whole segment, in the original.
        if isinstance(window := given.get("hrm_grad_window"), int):
            given["hrm_grad_window"] = max(0, window)
        levels = given.get("num_segments", 4)
        if isinstance(levels, int) and 1 <= levels <= 64:  # the field's own bounds
            schedules = {
                "s_scales": radii_of_levels,
                "w_segments": weights_of_levels,
                "alpha_segments": fine_shares,
            }
            given |= {name: schedule(given.get(name), levels) for name, schedule in schedules.items()}
        return given


# Flags that are options of the head, too, of the same names.
_SAME = [name for name in HRMSettings.model_fields if name in LevelsConfig.model_fields]


@dataclass(frozen=True, slots=True)
class HRMCheckpoint:
    """What a checkpoint holds.

    Attributes:
        path: Its file.
        settings: The flags of its training.
        tensors: The weights behind the trunk, by the original's names.
        trunk: Those of the trunk, if it holds them.
    """

    path: Path
    settings: HRMSettings
    tensors: Mapping[str, Tensor]
    trunk: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a checkpoint, without running any code of the file.

        Args:
            path: The file, or a folder of checkpoints, of which the best is taken.

        Returns:
            Its content, on the CPU.

        Raises:
            ModelError: There is no such file, or it is not such a checkpoint.
        """
        file = _file(Path(path))
        content = _read_hrm(file)
        state = next((content[name] for name in _STATES if name in content), None)
        if not isinstance(state, dict) or not isinstance(content.get("args", {}), dict):
            raise ModelError(
                f"{file} is not a checkpoint of the hierarchical embedding model: it holds no mappings model_state and "
                f"args, but {shown(sorted(map(str, content)))}"
            )
        args = dict(content.get("args", {}))
        if isinstance(content.get("backbone_name"), str):
            args["backbone_name"] = content["backbone_name"]
        named = _named(state, file)
        trunk = {name.removeprefix(_TRUNK): tensor for name, tensor in named.items() if name.startswith(_TRUNK)}
        tensors = {name: tensor for name, tensor in named.items() if not name.startswith(_TRUNK)}
        settings = HRMSettings.from_mapping(args, source=f"args of {file}", error=ModelError)
        return cls(file, settings, tensors, trunk)


def is_hrm(path: Path) -> bool:
    """Return whether a path may be a checkpoint of the original, by its name: a file, or a folder of its files."""
    return path.is_file() or any((path / name).is_file() for name in _NAMES)


def import_hrm(
    checkpoint: str | os.PathLike[str] | HRMCheckpoint,
    *,
    trunk: str | os.PathLike[str] | None = None,
    query_prompt: str = "",
    document_prompt: str = "",
    query_length: int | None = None,
    document_length: int | None = None,
    device: str | None = "cpu",
) -> Retriever:
    """Read a checkpoint as a retriever.

    Args:
        checkpoint: Its file, or a folder of checkpoints, of which the best is taken; or what was read from it.
        trunk: Folder or name of the trunk; None takes the name in the checkpoint. Its weights are read from there, and
            must be those that the checkpoint repeats.
        query_prompt: Text put before queries. In the original's training data it is part of the queries.
        document_prompt: The same for documents.
        query_length: Maximum tokens of a query; None takes that of the training.
        document_length: The same for documents.
        device: Device of the model; None takes a GPU if there is one.

    Returns:
        The retriever, in float32; `save` writes it in this library's format.

    Raises:
        ModelError: It is not such a checkpoint, its weights do not fit its flags, or the trunk is another.
    """
    read = checkpoint if isinstance(checkpoint, HRMCheckpoint) else HRMCheckpoint.read(checkpoint)
    settings = read.settings
    options: dict[str, Any] = {name: getattr(settings, name) for name in _SAME}
    # Bounds are for training; a curvature beyond them is still the checkpoint's.
    bounds = {"hyp_c_min": min(0.1, settings.hyp_c), "hyp_c_max": max(10.0, settings.hyp_c)}
    options |= {"pooling": "attention", "start": "original", **bounds}
    with loading("a checkpoint", read.path, str(read.path)):
        _check_shapes(read, options)
        base = _trunk(read, trunk, check_device(device))
        config = ModelConfig.from_mapping({"trunk": base.source, "family": "levels", "levels": options})
        retriever = LevelsFamily().build(base, base, config)
        head = retriever.route("document")[-1]
        head.load_state_dict({_ours(name): tensor.float() for name, tensor in read.tensors.items()}, strict=False)
        retriever.source = str(read.path)
        retriever.model.prompts.update({"query": query_prompt, "document": document_prompt})
        for side, length in zip(SIDES, (query_length, document_length), strict=True):
            longest = base.max_length[side] or settings.max_length
            set_length(retriever, side, length or min(settings.max_length, longest))
        check_usable(retriever)
    return retriever


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in _NAMES if (path / name).is_file()), None)
    if found is None:
        raise ModelError(f"{path} has no checkpoint; looked for {', '.join(_NAMES)}")
    return found


def _read_hrm(file: Path) -> dict[str, Any]:
    with reading(file, "a checkpoint", error=ModelError):
        if not zipfile.is_zipfile(file):
            raise ModelError(f"{file} is not a file of torch.save; give a checkpoint_*.pt of the original")
    content = read_pickled(file, "a checkpoint")
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, not a checkpoint of the original")
    return content


def _named(state: Mapping[Any, Any], file: Path) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ModelError(f"{file}: {shown(name)} in its weights is not a named tensor")
        if not is_stored_in_full(tensor):
            raise ModelError(f"{file} has a tensor {shown(name)} that is not stored in full")
        bare = name
        while wrapper := next((prefix for prefix in _WRAPPERS if bare.startswith(prefix)), None):
            bare = bare.removeprefix(wrapper)
        named[bare] = tensor
    return named


def _ours(name: str) -> str:
    return name if name.startswith("pooler.") else f"refinement.{name}"


def _check_shapes(read: HRMCheckpoint, options: Mapping[str, Any]) -> None:
    """Compare the weights with the flags, before anything as large as the flags say is built."""
    if (into := read.tensors.get("in_proj.weight")) is None or into.ndim != 2:  # a matrix
        raise ModelError(f"{read.path} has no in_proj.weight; it is not a checkpoint of the original")
    LevelsConfig.from_mapping(options, source=f"args of {read.path}", error=ModelError)
    with torch.device("meta"):
        head = LevelsHead(into.shape[1], **options)
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items() if "curvature" not in name}
    found = {_ours(name): tuple(tensor.shape) for name, tensor in read.tensors.items()}
    different = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    if different:
        name = different[0]
        raise ModelError(
            f"the weights of {read.path} do not fit its args: {name.removeprefix('refinement.')} has the shape "
            f"{found.get(name, 'nothing')}, and its args say {wanted.get(name, 'nothing')}"
        )


def _trunk(read: HRMCheckpoint, given: str | os.PathLike[str] | None, device: str | None) -> Retriever:
    name = read.settings.backbone_name if given is None else given
    try:
        trunk = load(name, device=device)
    except ModelError as error:
        if given is not None:
            raise
        raise ModelError(f"{error}; it is the trunk that {read.path} names: give trunk, its folder or name") from error
    transformer = transformer_of(trunk, "a checkpoint can be imported")
    width, wanted = transformer.get_embedding_dimension(), read.tensors["in_proj.weight"].shape[1]
    if width != wanted:
        raise ModelError(f"the trunk {str(name)!r} has states of {width} numbers, and {read.path} reads {wanted}")
    own = transformer.model.state_dict()
    for key, tensor in read.trunk.items():
        if key in own and not _is_alike(own[key], tensor):
            raise ModelError(
                f"the trunk {str(name)!r} is not the one that {read.path} was trained on: their {key} differ; give the "
                f"right one as trunk"
            )
    return trunk


def _is_alike(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    return torch.allclose(ours.cpu().float(), theirs.float(), rtol=_ROUNDED, atol=_ROUNDED)


def is_hydra(path: Path) -> bool:
    """Return whether a path may be a checkpoint of Hydra, by its name: `hypernet.pt`, or a folder with it."""
    return (path.is_file() and path.name == _HYDRA_NAME) or (path / _HYDRA_NAME).is_file()


def import_hydra(
    checkpoint: str | os.PathLike[str],
    *,
    trunk: str | os.PathLike[str] = "minilm",
    device: str | None = "cpu",
) -> Retriever:
    """Read a checkpoint as a retriever, which is asked with a card.

    Args:
        checkpoint: `hypernet.pt`, or a folder with it.
        trunk: Folder or name of the frozen encoder, which the checkpoint does not name; the original's default is
            all-MiniLM-L6-v2.
        device: Device of the model; None takes a GPU if there is one.

    Returns:
        The retriever, in float32; `save` writes it in this library's format.

    Raises:
        ModelError: It is not such a checkpoint, or belongs to an encoder of another size.
    """
    given = Path(checkpoint)
    file = given / _HYDRA_NAME if given.is_dir() else given
    tensors = _read_hydra(file)
    dimension, width = tensors["projection.0.weight"].shape[1], tensors["projection.0.weight"].shape[0]
    hidden, count = tensors["param_gen.0.weight"].shape[0], tensors["param_gen.4.weight"].shape[0]
    with loading("a checkpoint", checkpoint, str(file)):
        encoder = load(trunk, device=check_device(device))
        if encoder.space.dimension != dimension:
            raise ModelError(
                f"{file} belongs to an encoder of {dimension} dimensions, and {trunk} has {encoder.space.dimension}; "
                f"give its own with trunk= or --trunk"
            )
        kinds = {HydraHead(dimension).count: "hydra", HydraProjectionHead(dimension).count: "hydra_projection"}
        if count not in kinds:
            raise ModelError(f"{file} generates {count:,} numbers, and Hydra's heads have {shown(list(kinds))}")
        similarity = str(encoder.model.similarity_fn_name)
        head = CardHead(dimension, similarity, head=kinds[count], width=width, generator=hidden)
        head.compiler.load_state_dict(tensors)
        return join_routes([*encoder.route("query"), head], encoder.route("document"), encoder)


def _read_hydra(file: Path) -> dict[str, Tensor]:
    """Return the tensors by our names; ModelError unless they are those of a checkpoint."""
    content: Any = read_pickled(file, "a checkpoint of Hydra")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(part), Mapping) for part in _HYDRA_PARTS):
        names = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ModelError(
            f"{file} is not a checkpoint of Hydra: it holds no {' and '.join(_HYDRA_PARTS)}, but {shown(names)}"
        )
    found: dict[str, Tensor] = {}
    for part, ours in _HYDRA_PARTS.items():
        for name, tensor in content[part].items():
            plain = str(name)
            for prefix in _HYDRA_PREFIXES:
                plain = plain.removeprefix(prefix)
            if not isinstance(tensor, Tensor) or not is_stored_in_full(tensor) or not tensor.is_floating_point():
                raise ModelError(f"{file}: {part} holds {shown(name)}, which is not a whole tensor of numbers")
            found[f"{ours}.{plain}"] = tensor.float()
    layers = {"projection": (0, 2, 3), "param_gen": (0, 2, 4)}
    wanted = {f"{ours}.{layer}.{kind}" for ours, own in layers.items() for layer in own for kind in ("weight", "bias")}
    if found.keys() != wanted:
        odd = sorted(found.keys() ^ wanted)
        raise ModelError(f"{file} is not a checkpoint of Hydra: missing or unknown tensors {shown(odd)}")
    for name in wanted:
        axes = 2 if name.endswith("weight") and name != "projection.3.weight" else 1
        if found[name].ndim != axes:
            raise ModelError(f"{file}: {name} has the shape {tuple(found[name].shape)}, which Hydra's has not")
    return found

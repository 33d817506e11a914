"""Import of Hydra's checkpoints, which no code of its own can load.

A checkpoint is one file of torch, `hypernet.pt`: `task_encoder_proj`, the projection of a card's vector, and
`head_gen`, the generator. It names neither its encoder nor its cards; sizes tell which of the two heads it has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperseek._machine import check_device
from hyperseek.errors import ModelError, shown
from hyperseek.models.families.card_head import CardHead
from hyperseek.models.family import join_routes
from hyperseek.models.importers.hypencoder import is_stored_in_full, read_pickled
from hyperseek.models.loading import load, loading
from hyperseek.models.retriever import Retriever
from hyperseek.nn.heads import HydraHead, HydraProjectionHead

_NAME = "hypernet.pt"
_PARTS = {"task_encoder_proj": "projection", "head_gen": "param_gen"}
# A module of torch puts its attribute's name in front.
_PREFIXES = ("module.", "_orig_mod.", "projection.", "param_gen.")


def is_hydra(path: Path) -> bool:
    """Return whether a path may be a checkpoint of Hydra, by its name: `hypernet.pt`, or a folder with it."""
    return (path.is_file() and path.name == _NAME) or (path / _NAME).is_file()


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
    file = given / _NAME if given.is_dir() else given
    tensors = _read(file)
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


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors by our names; ModelError unless they are those of a checkpoint."""
    content: Any = read_pickled(file, "a checkpoint of Hydra")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(part), Mapping) for part in _PARTS):
        names = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ModelError(f"{file} is not a checkpoint of Hydra: it holds no {' and '.join(_PARTS)}, but {shown(names)}")
    found: dict[str, Tensor] = {}
    for part, ours in _PARTS.items():
        for name, tensor in content[part].items():
            plain = str(name)
            for prefix in _PREFIXES:
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

"""No encoder with weights that nobody trained: what transformers draws anew, it only warns of.

A checkpoint whose tensors are named otherwise than the model's loads without an error, and gives a random encoder. So
the names in the file are compared with those of the model, and where they differ transformers is asked what it did.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import load_file_path

from hyperseek._errors import ModelError

# Some encoders have a layer behind the first token that no pooling here reads, and that many checkpoints lack.
_UNREAD = "pooler."


def check_complete(model: SentenceTransformer, location: str, folders: list[str], revision: str | None) -> None:
    """See that every weight of a model's encoders came out of their files.

    Args:
        model: As it was loaded.
        location: Folder or Hub name it was loaded from.
        folders: Where in it the encoders are, in the model's order.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ModelError: A tensor is missing, or the file of this very kind of encoder has one that fits nowhere.
    """
    encoders = [module for module in model.modules() if isinstance(module, Transformer)]
    for encoder, folder in zip(encoders, folders, strict=False):
        held = set(_names_in_file(location, folder, revision))
        own, kind = set(encoder.model.state_dict()), type(encoder.model).__name__
        if not held or held == own:
            continue
        # Names may differ for good reasons, such as an older release or a head; transformers knows them.
        _, found = type(encoder.model).from_pretrained(
            location,
            config=encoder.model.config,
            revision=revision or "main",
            subfolder=folder,
            output_loading_info=True,
            device_map="meta",
        )
        lost = sorted(name for name in found["missing_keys"] if not name.startswith(_UNREAD))
        if lost:
            raise ModelError(
                f"{Path(location, folder)} lacks {len(lost)} of {len(own)} tensors of its {kind} "
                f"({', '.join(lost[:3])} ...), which would be random; it is damaged, or the checkpoint of another model"
            )
        strange = sorted(found["unexpected_keys"])
        if strange and kind in (encoder.model.config.architectures or []):
            raise ModelError(
                f"{Path(location, folder)} has {len(strange)} tensors ({', '.join(strange[:3])} ...) that fit nowhere "
                f"in its {kind}; its config.json and its weights do not belong together"
            )


def _names_in_file(location: str, folder: str, revision: str | None) -> Iterator[str]:
    """Names of the tensors in an encoder's weight files; none where there is no file that can be read without code."""

    def find(name: str) -> str | None:
        return load_file_path(location, name, subfolder=folder, revision=revision)

    if (single := find("model.safetensors")) is not None:
        with safe_open(single, framework="pt") as file:
            yield from file.keys()
    elif (index := find("model.safetensors.index.json")) is not None:
        yield from json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    elif (old := find("pytorch_model.bin")) is not None:
        tensors: dict[str, Any] = torch.load(old, map_location="meta", weights_only=True)
        yield from tensors

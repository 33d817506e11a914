"""No encoder with weights that nobody trained: what transformers draws anew, it only warns of.

A checkpoint whose tensors are named otherwise than the model's loads without an error, and gives a random encoder. So
the names in the file are compared with those of the model, and where they differ transformers is asked what it did.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperseek._errors import ModelError
from hyperseek.models._model_files import ModelFiles
from hyperseek.models._retriever import SIDES, Retriever

# Some encoders have a layer behind the first token that no pooling here reads, and that many checkpoints lack.
_UNREAD = "pooler."


def check_complete(model: SentenceTransformer, files: ModelFiles) -> None:
    """See that every weight of a model's encoders came out of their files.

    Args:
        model: As it was loaded.
        files: What it was loaded from.

    Raises:
        ModelError: A tensor is missing, or the file of this very kind of encoder has one that fits nowhere.
    """
    encoders = [module for module in model.modules() if isinstance(module, Transformer)]
    for encoder, folder in zip(encoders, files.encoder_folders, strict=False):
        held = set(_names_in_file(files, folder))
        own, kind = set(encoder.model.state_dict()), type(encoder.model).__name__
        buffers = {name for name, _ in encoder.model.named_buffers()}  # some files hold those that are not saved
        if not held or own <= held <= own | buffers:
            continue
        # Names may differ for good reasons, such as an older release or a head; transformers knows them.
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


def check_usable(retriever: Retriever) -> None:
    """See that a model turns a text into numbers on either side, so that what does not fit is met here and not later.

    Args:
        retriever: Just loaded.

    Raises:
        ModelError: Its tokenizer has tokens that its encoder does not know, or its scores are no numbers.
    """
    first: Any
    for first in {retriever.route(side)[0]: None for side in SIDES}:
        tokenizer, encoder = getattr(first, "tokenizer", None), getattr(first, "model", None)
        if not isinstance(encoder, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
            continue
        known = int(cast(Tensor, encoder.get_input_embeddings().weight).shape[0])
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if largest >= known:
            raise ModelError(
                f"the tokenizer of {retriever.source} has a token {largest}, but its encoder knows {known} tokens; "
                f"they do not belong together"
            )
    with torch.inference_mode():
        points = retriever.points(retriever.forward(retriever.preprocess(["a"], "document"), "document"))
        score = retriever.compile(["a"]).score(points)
    if not torch.isfinite(score).all():
        raise ModelError(f"the weights of {retriever.source} give scores that are no numbers; they are damaged")


def _names_in_file(files: ModelFiles, folder: str) -> Iterator[str]:
    """Names of the tensors in an encoder's weight files; none where there is no file that can be read without code."""
    if (single := files.find("model.safetensors", folder)) is not None:
        with safe_open(single, framework="pt") as file:
            yield from file.keys()
    elif (index := files.read("model.safetensors.index.json", folder)) is not None:
        yield from index["weight_map"]
    elif (old := files.find("pytorch_model.bin", folder)) is not None:
        tensors: dict[str, Any] = torch.load(old, map_location="meta", weights_only=True)
        yield from tensors

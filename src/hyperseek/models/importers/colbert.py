"""Export of late-interaction models as PyLate or Stanford ColBERT checkpoints; `hyperseek.load` reads both.

Both store the projection, the prefix tokens, the lengths and the skiplist, and mask and normalise by themselves. A
model that the format cannot express is an error, rather than being saved as a different one.
"""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file, save_model
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from hyperseek._files import write_json
from hyperseek.errors import ModelError, UnknownNameError
from hyperseek.models.modules import saved_into
from hyperseek.models.retriever import SIDES, Retriever

_DENSE = "pylate.models.Dense.Dense"
_TRANSFORMER = "sentence_transformers.models.Transformer"
_EXPANDED = 32  # tokens of a query, if a model with expansion does not set it


def export_colbert(retriever: Retriever, path: str | os.PathLike[str], *, form: str = "pylate") -> None:
    """Write a late-interaction model for PyLate, or for Stanford's ColBERT.

    Args:
        retriever: A model of the family `late`.
        path: Folder to write; files of an earlier model in it are replaced.
        form: `"pylate"`, or `"stanford"` (one bias-free linear map, and prefixes that are tokens).

    Raises:
        UnknownNameError: The format is unknown.
        ModelError: The format cannot express the model; the message says why.
        WriteError: The disk is full or read-only.
    """
    if form not in _FORMS:
        raise UnknownNameError("form of checkpoint", form, tuple(_FORMS))
    parts = _Parts(retriever, form)
    with saved_into(Path(path)) as temporary:
        _FORMS[form](parts, temporary)


class _Parts:
    """The parts of a model, which is checked to be a plain ColBERT."""

    def __init__(self, retriever: Retriever, form: str) -> None:
        self.form = form
        if not retriever.space.ragged:
            raise ModelError(
                f"the model has points of a {retriever.space.kind!r} space, and {form} is for late interaction"
            )
        modules = retriever.route("document")
        first: Any = modules[0]
        self.trunk: Transformer = first
        self.dense = [module for module in modules if isinstance(module, Dense)]
        masks = [module for module in modules if isinstance(module, MultiVectorMask)]
        self._refuse_other_order(modules, masks)
        mask = masks[0]
        self.skipped = list(mask.skiplist_words)
        if mask.keep_only_token_ids:
            raise self.misfit("scores only some document tokens (late.kept)")
        if self.skipped and mask.skiplist_tasks != ["document"]:
            raise self.misfit(f"skips words of {', '.join(mask.skiplist_tasks)}, not only of documents")
        self.expansion: Mapping[str, Any] | None = getattr(first, "query_expansion", None)
        if self.expansion is not None:
            if self.expansion["strategy"] != "fixed":
                raise self.misfit(f"expands queries by the strategy {self.expansion['strategy']!r}, not 'fixed'")
            added = self.expansion.get("token")
            if added not in (None, first.tokenizer.mask_token):
                raise self.misfit(f"expands queries by {added!r}, not by the mask token")
        self.prompts = {side: retriever.model.prompts.get(side) or "" for side in SIDES}
        if getattr(first.model.config, "is_causal", None) is False:
            raise self.misfit("lets tokens attend to later ones (late.bidirectional)")
        # Both insert a prefix after the first token of a text, which must not be one of its words.
        tokenizer = first.tokenizer
        opening = tokenizer("a")["input_ids"][:1]
        if any(map(self.is_token, self.prompts.values())) and not set(opening) & set(tokenizer.all_special_ids):
            raise self.misfit("has prompts that are tokens, and its tokenizer begins texts with no special token")
        self.lengths: dict[str, int | None] = retriever.max_length

    def is_token(self, prompt: str) -> bool:
        """Whether a prompt is one token of the vocabulary."""
        tokenizer: Any = self.trunk.tokenizer
        return prompt in tokenizer.get_vocab()

    def _refuse_other_order(self, modules: list[nn.Module], masks: list[MultiVectorMask]) -> None:
        kinds = [type(module) for module in modules]
        mapped = len(self.dense)
        expected = [Transformer, *[Dense] * mapped, MultiVectorMask, Normalize]
        if len(masks) != 1 or kinds != expected or not mapped:
            names = " → ".join(kind.__name__ for kind in kinds)
            raise self.misfit(f"is {names}; a ColBERT is Transformer → Dense → MultiVectorMask → Normalize")

    def misfit(self, what: str) -> ModelError:
        return ModelError(f"the model cannot be saved in the format {self.form!r}: it {what}")


def _write_pylate(parts: _Parts, folder: Path) -> None:
    trunk: Any = parts.trunk
    trunk.model.save_pretrained(folder)
    trunk.tokenizer.save_pretrained(folder)
    longest = max(filter(None, (trunk.max_seq_length, *parts.lengths.values())), default=None)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    entries = [{"idx": 0, "name": "0", "path": "", "type": _TRANSFORMER}]
    for number, layer in enumerate(parts.dense, start=1):
        name = f"{number}_Dense"
        entries.append({"idx": number, "name": str(number), "path": name, "type": _DENSE})
        (folder / name).mkdir()
        config: dict[str, Any] = layer.get_config_dict()  # type: ignore[no-untyped-call]
        kept = ("in_features", "out_features", "bias", "activation_function")
        values = {key: config[key] for key in kept} | {"use_residual": layer.use_residual}
        write_json(folder / name / "config.json", values)
        save_model(layer, str(folder / name / "model.safetensors"), metadata={"format": "pt"})
    write_json(folder / "modules.json", entries)
    expansion = parts.expansion
    # Single-token prompts are PyLate's prefixes, which it inserts after the first token of a text.
    prefixes = {side: prompt if parts.is_token(prompt) else "" for side, prompt in parts.prompts.items()}
    texts = {side: "" if prefixes[side] else prompt for side, prompt in parts.prompts.items()}
    query_length = (expansion["length"] or _EXPANDED) if expansion else parts.lengths["query"]
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "ColBERT",
            "prompts": texts,
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            "query_prefix": prefixes["query"],
            "document_prefix": prefixes["document"],
            "query_length": query_length,
            "document_length": parts.lengths["document"],
            "attend_to_expansion_tokens": bool(expansion and expansion["attend"]),
            "skiplist_words": parts.skipped,
            "do_query_expansion": expansion is not None,
        },
    )


def _write_stanford(parts: _Parts, folder: Path) -> None:
    layer = parts.dense[0]
    plain = isinstance(layer.activation_function, nn.Identity) and not layer.bias and not layer.use_residual
    if len(parts.dense) != 1 or not plain:
        raise parts.misfit("has a projection other than one linear map without bias")
    if parts.expansion is None:
        raise parts.misfit("does not expand queries, which Stanford's ColBERT always does")
    if set(parts.skipped) not in (set(), set(string.punctuation)):
        raise parts.misfit("skips words other than punctuation")
    prefixes = {}
    for side, prompt in parts.prompts.items():
        tokens = [name for name in (prompt, prompt.rstrip()) if parts.is_token(name)]
        if not tokens:
            raise parts.misfit(f"has the {side} prompt {prompt!r}, which is not a token (late.prompt_tokens)")
        prefixes[side] = tokens[0]
    trunk: Any = parts.trunk
    trunk.model.save_pretrained(folder)
    trunk.tokenizer.save_pretrained(folder)
    prefix = trunk.model.base_model_prefix
    tensors = {f"{prefix}.{name}": value.contiguous() for name, value in trunk.model.state_dict().items()}
    tensors["linear.weight"] = layer.linear.weight.detach().contiguous()
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = trunk.model.config.to_dict() | {"architectures": ["HF_ColBERT"]}
    write_json(folder / "config.json", config)
    write_json(
        folder / "artifact.metadata",
        {
            "query_token_id": prefixes["query"],
            "doc_token_id": prefixes["document"],
            "query_maxlen": parts.expansion["length"] or _EXPANDED,
            "doc_maxlen": parts.lengths["document"],
            "attend_to_mask_tokens": bool(parts.expansion["attend"]),
            "mask_punctuation": bool(parts.skipped),
            "dim": layer.out_features,
            "similarity": "cosine",
        },
    )


_FORMS: dict[str, Callable[[_Parts, Path], None]] = {"pylate": _write_pylate, "stanford": _write_stanford}

"""Fewer tokens for the trunk: unimportant ones are removed before encoding, or after the first layer.

reasoning_embedder overwrites pruned tokens with padding, which saves no time, and has no importance to prune by, so
nearly all of its strategies truncate. Here the sequence becomes shorter, the remaining tokens keep their positions, and
importance is a token's inverse document frequency, the attention it receives in the first layer, or a gate.

Shapes: `B` texts, `T` tokens of the longest, `T'` of the longest after pruning, `V` vocabulary, `h` width.
"""

from __future__ import annotations

import inspect
import math
import os
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import load_file_path
from torch import Tensor, nn

from hyperseek._config import LARGEST_SEED, Config
from hyperseek.errors import InputError, ModelError, UnknownNameError
from hyperseek.nn._first_layer import layers_of, shortened_behind_first
from hyperseek.nn.token_pooling import IMPORTANCE, Counts, Tasks

Strategy = Literal["length", "random", "attention", "threshold", "combined"]
Importance = Literal["idf", "first_layer", "gate"]

_WEIGHTS = "token_pruning.safetensors"
_GATE_START = 4.0  # the gate of a new model is sigmoid(4) = 0.98, so it starts close to the trunk
_FITTED_AT_ONCE = 1024
_EXPANSION = "query_expansion_positions"  # where sentence-transformers marks tokens of query expansion

# Hooks, and the choice of attention, belong to the encoder: while one thread has set them, others must wait.
_LOCK = threading.RLock()


class PruningConfig(Config):
    """Which tokens of a text the trunk reads. Names and the first four defaults are reasoning_embedder's.

    Attributes:
        strategy: `length` keeps the first tokens, `random` any, `attention` the most important ones, `threshold` those
            at or above the 1 - `keep_ratio` quantile of importance; `combined` is the same as `attention`.
        keep_ratio: Share of tokens to keep, rounded up.
        min_tokens: Minimum number of tokens to keep per text, including special tokens.
        seed: Seed of `random`; a text is pruned in the same way in every batch.
        importance: `idf`, fitted on a corpus; `first_layer`, the attention a token receives there; `gate`, learned
            from word vectors, which it scales. `length` and `random` use none.
        tasks: Which texts are pruned: `document`, `query` or both.
    """

    strategy: Strategy = "attention"
    keep_ratio: float = Field(default=0.6, gt=0, le=1)
    min_tokens: int = Field(default=16, ge=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    importance: Importance = "idf"
    tasks: Tasks = ("document",)

    @property
    def weighs(self) -> Importance | None:
        """The importance that is used; None if the strategy uses none."""
        return None if self.strategy in ("length", "random") else self.importance


def generate_pruning_mask(
    attention: NDArray[Any] | None,
    keep_ratio: float = 0.6,
    strategy: Strategy = "length",
    sequence_length: int | None = None,
    min_tokens: int = 16,
    preserve: Sequence[int] = (),
    seed: int | None = None,
) -> NDArray[np.bool_]:
    """Choose the tokens of one text to keep; the same as reasoning_embedder's function of this name.

    Args:
        attention: `(n,)` importance, or None.
        keep_ratio: Share of tokens to keep, rounded up, above 0.
        strategy: As in `PruningConfig`; without importance `combined` is `length`.
        sequence_length: `n`; None takes the length of `attention`.
        min_tokens: Minimum number of tokens to keep; a shorter text is kept in full.
        preserve: Positions that are always kept.
        seed: Seed of `random`.

    Returns:
        `(n,)` booleans.

    Raises:
        InputError: `attention` or `threshold` without importance, or neither importance nor a length is given.
        UnknownNameError: The strategy is unknown.
    """
    if strategy not in get_args(Strategy):
        raise UnknownNameError("pruning strategy", strategy, get_args(Strategy))
    if attention is None and (sequence_length is None or strategy in ("attention", "threshold")):
        raise InputError(f"the strategy {strategy!r} needs the importance of each token, and none was given")
    size = len(attention) if attention is not None else int(sequence_length or 0)
    count = min(size, max(min_tokens, math.ceil(keep_ratio * size)))
    kept = np.zeros(size, bool)
    if strategy == "random":
        kept[np.random.default_rng(seed).choice(size, count, replace=False)] = True
    elif attention is None or strategy == "length":
        kept[:count] = True
    else:
        order = np.argsort(-attention, kind="stable")
        if strategy == "threshold" and size:
            kept = attention >= np.quantile(attention, 1 - keep_ratio)
        if strategy != "threshold" or kept.sum() < min_tokens:
            kept = np.zeros(size, bool)
            kept[order[:count]] = True
    kept[list(preserve)] = True
    return kept


class PruningTransformer(Transformer):
    """A transformer that prunes tokens: sentence-transformers' `Transformer` with an additional setting `pruning`.

    Args:
        *args: As for `Transformer`.
        pruning: The fields of `PruningConfig`.
        **kwargs: As for `Transformer`.

    Attributes:
        pruning: The settings.
        counts: Tokens read and kept, since the module was created.

    Raises:
        ConfigError: A setting is unknown or invalid.
        InputError: The transformer cannot be told the positions of its tokens, or its layers are not known.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it

    reaches_inside = True  # tokens are chosen by positions, hooks and the first layer

    forward_kwargs = {"task"}  # noqa: RUF012  # as other modules declare it; without it queries count as documents

    def __init__(self, *args: Any, pruning: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prune(pruning)

    @classmethod
    def around(cls, trunk: Transformer, pruning: Mapping[str, Any] | None = None) -> Self:
        """Return a transformer that prunes and otherwise shares everything with `trunk`."""
        made = cls.__new__(cls)
        made.__dict__.update(trunk.__dict__)
        made._modules = dict(trunk._modules)
        made._buffers = dict(trunk._buffers)
        made._parameters = dict(trunk._parameters)
        made._prune(pruning)
        return made

    def _prune(self, pruning: Mapping[str, Any] | None) -> None:
        self.pruning = PruningConfig.from_mapping(pruning or {}, source="token pruning")
        self.counts = Counts()
        self.unpad_inputs = False  # flat batches have no rows to shorten
        encoder: Any = self.model
        if "position_ids" not in inspect.signature(encoder.forward).parameters:
            raise InputError(
                f"a {type(encoder).__name__} does not accept token positions, which pruning needs; leave pruning out"
            )
        embeddings = encoder.get_input_embeddings()
        weighs, device = self.pruning.weighs, embeddings.weight.device
        if weighs == "first_layer":
            layers_of(encoder)
        if weighs == "idf":
            # NaN until it is fitted, so that using an unfitted model raises an error.
            unfitted = torch.full((len(embeddings.weight),), torch.nan, device=device)
            self.register_buffer("token_weights", unfitted)
        if weighs == "gate":
            self.gate = nn.Linear(embeddings.weight.shape[1], 1, device=device)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, _GATE_START)

    def fit_importance(self, texts: Iterable[str]) -> None:
        """Learn the inverse document frequency of each token: log((N + 1) / (n + 1)), if n of N texts contain it.

        Args:
            texts: The corpus. Does nothing unless the importance is `idf`.

        Raises:
            InputError: `texts` is empty.
        """
        if self.pruning.weighs != "idf":
            return
        tokenizer: Any = self.tokenizer
        found, count = np.zeros(len(self.token_weights), np.int64), 0
        stream = iter(texts)
        while batch := list(islice(stream, _FITTED_AT_ONCE)):
            count += len(batch)
            for ids in tokenizer(batch, add_special_tokens=False, truncation=False)["input_ids"]:
                found[np.unique(np.asarray(ids, np.int64))] += 1
        if not count:
            raise InputError("document frequencies cannot be fitted without texts; give at least one")
        self.token_weights.copy_(torch.from_numpy(np.log((count + 1) / (found + 1))))

    @property
    def is_fitted(self) -> bool:
        """Whether the importance of tokens is known; False before `fit_importance` where it is needed."""
        return self.pruning.weighs != "idf" or not bool(self.token_weights.isnan().any())

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Encode the tokens that are kept.

        Args:
            features: `input_ids` and `attention_mask` `(B, T)`.
            task: `"document"`, `"query"`, or None, which counts as a document.
            **kwargs: As for `Transformer`.

        Returns:
            The features, each of shape `(B, T')` instead of `(B, T)`, and `token_importance` if there is one.

        Raises:
            ModelError: Document frequencies were not fitted, or gradient checkpointing is on and the first layer
                chooses tokens.
        """
        with _LOCK if self.pruning.weighs in ("first_layer", "gate") else nullcontext():
            if (task or "document") not in self.pruning.tasks or "input_ids" not in features:
                return super().forward(features, **kwargs)
            return self._forward_kept(features, **kwargs)

    def _forward_kept(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if not self.is_fitted:
            raise ModelError(
                "the model prunes tokens by inverse document frequency, which has not been fitted; call "
                "fit_importance(texts)"
            )
        ids = features["input_ids"]
        encoder: Any = self.model
        weighs = self.pruning.weighs
        if weighs == "first_layer":
            return self._forward_behind_first(features, **kwargs)
        if weighs is None:
            return super().forward(self._compacted(features, None)[0], **kwargs)
        if weighs == "idf":
            importance = self.token_weights[ids]
            features, places = self._compacted(features, importance)
            return _with(super().forward(features, **kwargs), importance, places)
        embeddings = encoder.get_input_embeddings()
        gates = torch.sigmoid(self.gate(embeddings.weight[ids]))
        importance = gates[..., 0]
        features, places = self._compacted(features, importance)
        hook = embeddings.register_forward_hook(lambda _, given, vectors: vectors * torch.sigmoid(self.gate(vectors)))
        try:
            return _with(super().forward(features, **kwargs), importance, places)
        finally:
            hook.remove()

    def _choose(self, features: Mapping[str, Any], importance: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return `(B, T')` positions that are kept and the mask of real ones, and count them.

        Tokens of query expansion are always kept: they are no text.
        """
        ids, mask = features["input_ids"].cpu().numpy(), features["attention_mask"].bool().cpu().numpy()
        expansion = np.zeros_like(mask)
        if _EXPANSION in features:
            expansion = features[_EXPANSION].bool().cpu().numpy()
            mask = mask & ~expansion
        special = np.isin(ids, _special_tokens(self.tokenizer))
        weights = None if importance is None else importance.detach().float().cpu().numpy()
        rows = []
        for row, active in enumerate(map(np.flatnonzero, mask)):
            chosen = generate_pruning_mask(
                None if weights is None else weights[row, active],
                self.pruning.keep_ratio,
                self.pruning.strategy,
                len(active),
                self.pruning.min_tokens,
                np.flatnonzero(special[row, active]).tolist(),
                self.pruning.seed ^ zlib.crc32(ids[row, active].tobytes()),
            )
            rows.append(active[chosen])
        with _LOCK:
            self.counts.seen += int(mask.sum())
            self.counts.kept += sum(map(len, rows))
        rows = [np.union1d(own, np.flatnonzero(added)) for own, added in zip(rows, expansion, strict=True)]
        longest = max(1, *map(len, rows))
        places, there = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), bool)
        left = getattr(self.tokenizer, "padding_side", "right") == "left"
        for row, own in enumerate(rows):
            part = slice(longest - len(own), longest) if left else slice(0, len(own))
            places[row, part], there[row, part] = own, True
        device = features["input_ids"].device
        return torch.from_numpy(places).to(device), torch.from_numpy(there).to(device)

    def _compacted(self, features: Mapping[str, Any], importance: Tensor | None) -> tuple[dict[str, Any], Tensor]:
        """Return the features of the tokens that are kept, with their positions, and `(B, T')` where they were."""
        places, there = self._choose(features, importance)
        compact = self._gathered(features, places, there)
        compact["position_ids"] = places + _first_position(self.model)
        return compact, places

    def _gathered(self, features: Mapping[str, Any], places: Tensor, there: Tensor) -> dict[str, Any]:
        shape = features["input_ids"].shape
        compact = {
            name: value.gather(1, places) if isinstance(value, Tensor) and value.shape == shape else value
            for name, value in features.items()
        }
        for name in ("attention_mask", _EXPANSION):
            if name in compact:
                compact[name] = compact[name] * there.to(compact[name].dtype)
        return compact

    def _forward_behind_first(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the first layer on all tokens, and the others on those that got most of its attention."""
        encoder: Any = self.model
        if self.training and any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules()):
            raise ModelError(
                "the first layer's attention cannot choose tokens under gradient checkpointing; switch checkpointing "
                "off, or prune by idf or gate"
            )
        chosen: dict[str, Tensor] = {}

        def choose(attention: Tensor) -> tuple[Tensor, Tensor]:
            mask = features["attention_mask"].float()
            received = (attention.float().mean(1) * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
            chosen["importance"] = received
            chosen["places"], chosen["there"] = self._choose(features, received)
            return chosen["places"], chosen["there"]

        with shortened_behind_first(encoder, features["input_ids"].shape[1], choose):
            states = super().forward(dict(features), **kwargs)[self.module_output_name]
        compact = self._gathered(features, chosen["places"], chosen["there"])
        return _with({**compact, self.module_output_name: states}, chosen["importance"], chosen["places"])

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the transformer, and `pruning`."""
        return {**super().get_config_dict(), "pruning": self.pruning.model_dump(mode="json")}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the transformer to a folder, including the parameters of importance."""
        super().save(output_path, *args, safe_serialization=safe_serialization, **kwargs)
        if own := self._own_weights():
            save_file(
                {name: tensor.detach().cpu() for name, tensor in own.items()}, os.path.join(output_path, _WEIGHTS)
            )

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # type: ignore[override]  # places by name only
        """Load a saved transformer from a folder or a Hub repository."""
        module: Self = super().load(model_name_or_path, **kwargs)
        own = module._own_weights()
        if own:
            where = {name: kwargs[name] for name in ("subfolder", "revision") if name in kwargs}
            path = load_file_path(model_name_or_path, _WEIGHTS, **where)
            saved = {} if path is None else load_file(path)
            if {name: tensor.shape for name, tensor in saved.items()} != {
                name: tensor.shape for name, tensor in own.items()
            }:
                raise ModelError(f"{_WEIGHTS} of {model_name_or_path} is missing or does not fit the model")
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(saved[name])
        return module

    def _own_weights(self) -> dict[str, Tensor]:
        state = self.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in state.items() if not name.startswith("model.")}


def _with(features: dict[str, Any], importance: Tensor, places: Tensor) -> dict[str, Any]:
    return {**features, IMPORTANCE: importance.detach().float().gather(1, places)}


def _special_tokens(tokenizer: Any) -> list[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {number for number, token in added.items() if token.special}
    # Padding and unknown words are special tokens for the tokenizer, but need not be kept.
    return sorted((ids | set(tokenizer.all_special_ids)) - {tokenizer.pad_token_id, tokenizer.unk_token_id})


def _first_position(encoder: nn.Module) -> int:
    """Return the position of a first token: RoBERTa and related models start after the padding position."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0

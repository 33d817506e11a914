"""The files of plain BERT encoders, which `hyperseek.models.light` computes.

Every setting that is not known here to change nothing makes a model another one: `OtherModelError`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hyperseek._config import Config
from hyperseek._files import check_checksum, read_json
from hyperseek.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
"""What a `Transformer` of sentence-transformers says of itself that is one of these."""

_NORMALIZE = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
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
LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
"""The parts of a layer that have weights, by their names in the file."""


class OtherModelError(Exception):
    """The model is not one that is read here."""


class _Settings(Config, strict=True):
    """Settings of a file; any that is neither a field nor `unread` makes it another model.

    Attributes:
        unread: Names of settings that change no vector.
    """

    unread: ClassVar[frozenset[str]] = frozenset()


class BertSettings(_Settings):
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
    modality_config: dict[str, Any] = TRANSFORMER["modality_config"]  # type: ignore[assignment]
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


@dataclass(frozen=True)
class BertFiles:
    """What the files of a model say.

    Attributes:
        bert: Of its computation.
        weights: Its tensors, by their names in the file.
        tokenizer: Its tokenizer, which neither cuts nor pads yet as the model does.
        mode: Its pooling: `mean` or `cls`.
        normalized: Whether it ends with a normalisation.
        similarity: How it compares: `cosine`, `dot` or `euclidean`.
        lengths: Tokens that are kept of a text, by side.
        prompts: What is put before a text, by side.
    """

    bert: BertSettings
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    mode: str
    normalized: bool
    similarity: str
    lengths: dict[str, int]
    prompts: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> BertFiles:
        """Read a model.

        Args:
            folder: The model's.

        Returns:
            What its files say.

        Raises:
            OtherModelError: It is not a plain BERT.
            HyperseekError: A file is missing, damaged, or has settings of another model.
        """
        kinds = [(each["type"], each["path"]) for each in read_json(folder / "modules.json", error=ModelError)]
        normalized = _kinds(kinds)
        if any((folder / name).exists() for name in _OTHER_FILES):
            raise OtherModelError
        path = folder / kinds[-1][1] / "config.json"
        if normalized and path.is_file() and read_json(path, error=ModelError) != _NORMALIZE:
            raise OtherModelError
        container = _read(_Container, folder / "config_sentence_transformers.json")
        bert = _read(BertSettings, folder / "config.json", needed=True)
        settings = _read(_Transformer, folder / "sentence_bert_config.json", needed=True)
        if settings.modality_config != TRANSFORMER["modality_config"]:
            raise OtherModelError
        mode = _pooling_mode(folder / kinds[1][1] / "config.json", bert.hidden_size)
        tokenizer, length = _tokenizer(folder, bert)
        length = settings.max_seq_length or length
        lengths = {"query": settings.query_length or length, "document": settings.document_length or length}
        if not 2 < lengths["query"] <= bert.max_position_embeddings:  # special tokens are two
            raise OtherModelError
        prompts = {side: (container.prompts or {}).get(side) or "" for side in lengths}
        weights = _weights(folder / "model.safetensors", bert)
        similarity = container.similarity_fn_name or "cosine"
        return cls(bert, weights, tokenizer, mode, normalized, similarity, lengths, prompts)


def _kinds(modules: Sequence[tuple[str, str]]) -> bool:
    """Check the modules of a stack, and return whether it ends with a normalisation."""
    names = [kind.rpartition(".")[2] for kind, _ in modules]
    if not all(kind.startswith("sentence_transformers.") for kind, _ in modules) or modules[0][1] != "":
        raise OtherModelError
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise OtherModelError
    if any(Path(path).is_absolute() or ".." in Path(path).parts for _, path in modules):
        raise OtherModelError
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
        raise OtherModelError
    if given.get("word_embedding_dimension", given.get("embedding_dimension")) != width:
        raise OtherModelError
    return str(modes[0])


def _tokenizer(folder: Path, bert: BertSettings) -> tuple[Tokenizer, int]:
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
        raise OtherModelError
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    length = says.model_max_length or bert.max_position_embeddings
    return tokenizer, int(min(length, bert.max_position_embeddings))


def _check_names(path: Path) -> None:
    """Check that a file of names of special tokens, where there is one, gives them their usual names."""
    named = read_json(path, error=ModelError) if path.is_file() else {}
    usual = {f"{name[1:-1].lower()}_token": name for name in _SPECIAL}
    if any((each["content"] if isinstance(each, dict) else each) != usual.get(key) for key, each in named.items()):
        raise OtherModelError


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


def _weights(path: Path, bert: BertSettings) -> dict[str, Tensor]:
    """Return the tensors of a BERT, its pooler's included, from a file of exactly those."""
    from safetensors.torch import load_file

    check_checksum(path, error=ModelError)
    found: dict[str, Tensor] = load_file(path)
    found.pop("embeddings.position_ids", None)  # which old versions saved
    names = {f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")}
    layers = [f"encoder.layer.{number}.{name}" for number in range(bert.num_hidden_layers) for name in LAYER]
    names |= {
        f"{name}.{part}" for name in (*layers, "embeddings.LayerNorm", "pooler.dense") for part in ("weight", "bias")
    }
    if found.keys() != names or any(tensor.dtype != torch.float32 for tensor in found.values()):
        raise OtherModelError
    rows = {"word": bert.vocab_size, "position": bert.max_position_embeddings, "token_type": bert.type_vocab_size}
    if any(len(found[f"embeddings.{name}_embeddings.weight"]) != count for name, count in rows.items()):
        raise OtherModelError
    return found

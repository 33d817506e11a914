"""Tokenizers: loaded, or trained on the texts of the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as token_models
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hyperseek._files import locked, take_umask
from hyperseek._fingerprint import fingerprint_json
from hyperseek._folders import staged_folder
from hyperseek.errors import ConfigError, DataError
from hyperseek.models.loading import loading, resolve_name
from hyperseek.pretraining._recipe import TRAIN_TOKENIZER, EncoderConfig, VocabularyConfig
from hyperseek.pretraining._texts import TextSource

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_LAYOUT = 1

logger = logging.getLogger(__name__)


def get_tokenizer(
    config: EncoderConfig, sources: Iterable[TextSource], *, cache: Path, length: int
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a recipe names, or train it.

    Args:
        config: The recipe's model section.
        sources: The texts, for `train`.
        cache: Where trained tokenizers are kept; for the same texts and options it is trained once.
        length: Tokens of a sequence.

    Returns:
        The tokenizer; it has tokens for masks, padding, and the end of a text.

    Raises:
        ConfigError: It lacks one of these tokens.
        ModelError: It cannot be loaded.
    """
    if config.tokenizer == TRAIN_TOKENIZER:
        folder = _trained(config.vocabulary or VocabularyConfig(), list(sources), cache)
    else:
        folder = resolve_name(str(config.tokenizer or config.start))
    with loading("a tokenizer", folder, folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    missing = [name for name in ("mask", "pad") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing or end_of_text(tokenizer) is None:
        lacking = [f"{name}_token" for name in missing] + ([] if end_of_text(tokenizer) is not None else ["sep_token"])
        raise ConfigError(
            f"the tokenizer {folder} has no {' and no '.join(lacking)}; masked language modelling needs it: "
            f"choose another tokenizer, or add the token to it"
        )
    tokenizer.model_max_length = length
    return tokenizer


def begin_of_text(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token that precedes a text, or None."""
    return _first_id(tokenizer.cls_token_id, tokenizer.bos_token_id)


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token that follows a text, or None."""
    return _first_id(tokenizer.sep_token_id, tokenizer.eos_token_id)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a fingerprint of everything that determines the ids of a text."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    content = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return fingerprint_json([type(tokenizer).__name__, content, tokenizer.special_tokens_map])


def _first_id(*ids: Any) -> int | None:
    return next((int(value) for value in ids if value is not None), None)


def _trained(config: VocabularyConfig, sources: list[TextSource], cache: Path) -> str:
    identity = {"layout": _LAYOUT, "sources": [source.fingerprint for source in sources], **config.model_dump()}
    folder = cache / "tokenizers" / fingerprint_json(identity)
    # One process trains it, all others wait: a barrier would time out on a large corpus.
    with locked(f"{folder}.lock"):
        if not folder.is_dir():
            logger.info("making a vocabulary of %d tokens in %s", config.size, folder)
            texts = islice((text for source in sources for text in source.read()), config.texts)
            with staged_folder(folder, overwrite=False, owned=()) as staging:
                make_tokenizer(texts, config).save_pretrained(staging)
                take_umask(staging)
    return str(folder)


def make_tokenizer(texts: Iterator[str], config: VocabularyConfig) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        texts: The texts.
        config: Its kind and size.

    Returns:
        The tokenizer, with BERT's special tokens; it may have fewer tokens than requested if there are few texts.

    Raises:
        DataError: There are no texts.
    """
    first = next(texts, None)
    if first is None:
        raise DataError("there are no texts to make a vocabulary from; check data.sources")
    special = list(_SPECIAL.values())
    if config.kind == "wordpiece":
        tokenizer = Tokenizer(token_models.WordPiece(unk_token=_SPECIAL["unk"]))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer: Any = WordPieceTrainer(vocab_size=config.size, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(token_models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = BpeTrainer(
            vocab_size=config.size,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    tokenizer.train_from_iterator(_with(first, texts), trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in (_SPECIAL["cls"], _SPECIAL["sep"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in _SPECIAL.items()}
    )


def _with(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest

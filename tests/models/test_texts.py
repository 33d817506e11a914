"""Long texts are cut before they are tokenised, and empty ones have a token, without a change to anything else."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as token_models
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast

from hyperseek.errors import InputError
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.models.encoding import cut, divides_at_blanks
from hyperseek.pretraining._recipe import VocabularyConfig
from hyperseek.pretraining._texts import make_tokenizer

PIECES = [
    "the", "cat", "Dog", "don't", "naïve", "e\u0301", "ΑΣ", "日本語", "हिन्दी", "👩\u200d👩", "a" * 150, "1234567",
    "3.14", "[MASK]", "[UNK]", "\u200b", "\u00a0", "\u3000", "...", "!?", "\u0301", "x_y", "ﬁ", "http://a.b/?d=e",
]  # fmt: skip
GAPS = [" ", " ", " ", "  ", "   ", "\n", "\n ", " \n", "\t", "\r\n", "", " \u200b ", "\u00a0 ", " \u3000"]


def texts(draw: random.Random, size: int) -> str:
    parts: list[str] = []
    length = 0
    while length < size:
        parts += [draw.choice(PIECES), draw.choice(GAPS)]
        length += len(parts[-1]) + len(parts[-2])
    return "".join(parts)


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", mask_token="[MASK]", pad_token="[PAD]"
    )


def metaspace() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(token_models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[UNK]", "[MASK]", "[PAD]"]
    trainer = UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator([texts(random.Random(3), 20_000)], trainer)
    return wrapped(tokenizer)


def modern() -> PreTrainedTokenizerFast:
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=500, special_tokens=["[UNK]", "[MASK]", "[PAD]"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([texts(random.Random(3), 20_000)], trainer)
    return wrapped(tokenizer)


def made(kind: str) -> Callable[[], PreTrainedTokenizerFast]:
    return lambda: make_tokenizer(
        iter([texts(random.Random(3), 20_000)]), VocabularyConfig.from_mapping({"kind": kind, "size": 400})
    )


@pytest.mark.parametrize("make", [made("wordpiece"), made("bpe"), metaspace, modern])
def test_a_cut_changes_no_token_that_is_kept(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = make()
    assert divides_at_blanks(tokenizer)
    draw, shortened = random.Random(0), 0
    for _ in range(40):
        text, limit = texts(draw, draw.choice((2000, 8000, 30_000))), draw.choice((2, 8, 30))
        prompt = draw.choice(("", "query: ", "ask:"))
        kept = cut(text, tokenizer, limit, prompt)
        assert text.startswith(kept)
        shortened += len(kept) < len(text)
        options = {"truncation": True, "max_length": limit}
        assert tokenizer(prompt + kept, **options)["input_ids"] == tokenizer(prompt + text, **options)["input_ids"]
    assert shortened > 12


def test_tokenizers_that_read_across_blanks_read_all() -> None:
    whole = Tokenizer(token_models.Unigram())
    assert not divides_at_blanks(wrapped(whole))
    assert not divides_at_blanks(None)
    tokenizer = made("bpe")()
    tokenizer.add_tokens(["cat dog"])
    assert not divides_at_blanks(tokenizer)
    left = made("bpe")()
    left.truncation_side = "left"
    assert not divides_at_blanks(left)


def test_texts_without_blanks_are_read_whole() -> None:
    tokenizer = made("wordpiece")()
    for text in ("日本語" * 3000, "a" * 9000, "\n".join(["cat"] * 3000), " " * 9000 + "cat", ""):
        assert cut(text, tokenizer, 8) == text


def test_long_texts_become_what_they_were_and_in_no_time(tiny_encoder: str) -> None:
    model = build(ModelConfig(trunk=tiny_encoder), device="cpu")
    text = " ".join(["cat dog sea moon", "a"] * 170_000)
    start = time.process_time()
    points = model.encode_documents([text, "cat", text[:500]], dtype="float32").vectors
    scores = model.compile([text]).score(model.points({"sentence_embedding": points}))
    assert time.process_time() - start < 3
    whole = model.encode_documents([text[:3000]], dtype="float32").vectors[0]
    torch.testing.assert_close(points[0], whole)
    assert scores.argmax() == 0


@pytest.fixture
def without_special_tokens(tiny_encoder: str) -> Retriever:
    model = load(tiny_encoder, device="cpu")
    model.model.tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    return model


def test_a_text_without_tokens_does_not_depend_on_its_neighbours(without_special_tokens: Retriever) -> None:
    model = without_special_tokens
    assert model.tokenize(["cat dog"], "document")["input_ids"].shape[1] == 2
    alone = model.encode_documents([""], dtype="float32").vectors
    assert torch.isfinite(alone).all()
    assert alone.norm() > 0
    several = model.encode_documents(["", "cat", " ", "cat dog sea", ""], dtype="float32").vectors
    for row in (0, 2, 4):
        torch.testing.assert_close(several[row], alone[0])
    # It is what the unknown token is, and queries follow the same rule.
    torch.testing.assert_close(model.encode_documents(["[UNK]"], dtype="float32").vectors, alone)
    scores = [
        model.compile(queries).score(model.points({"sentence_embedding": several}))
        for queries in ([""], ["", "cat dog"])
    ]
    torch.testing.assert_close(scores[0][0], scores[1][0])


@pytest.mark.parametrize("given", ["one text", b"bytes", None, 5, [None], ["a", b"x"], [["a"]], ["half \ud800"]])
def test_what_is_no_list_of_texts_is_refused(tiny_encoder: str, given: Any) -> None:
    model = load(tiny_encoder, device="cpu")
    for read in (model.encode_documents, model.encode_features, model.compile, model.compile_batches):
        with pytest.raises(InputError, match=r"^texts? "):
            read(given)

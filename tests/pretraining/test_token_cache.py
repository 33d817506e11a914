"""Texts cut into sequences, on disk."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hyperseek import HyperseekError
from hyperseek.pretraining import _token_rows as module
from hyperseek.pretraining._recipe import VocabularyConfig
from hyperseek.pretraining._texts import TextSource, make_tokenizer
from hyperseek.pretraining._token_rows import TokenCache, TokenRows, token_cache


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]):
    return make_tokenizer(iter(texts), VocabularyConfig(kind="wordpiece", size=200))


def cached(texts: list[str], tokenizer, folder: Path, **options) -> TokenCache:
    source = TextSource("toy", str(hash(tuple(texts))), lambda: iter(texts))
    values = {"length": 16, "validation_share": 0.2, "folder": folder, **options}
    return token_cache([source], tokenizer, **values)


def all_ids(rows: TokenRows) -> list[int]:
    return [number for row in range(len(rows)) for number in rows[row].tolist()]


def test_every_token_is_there_once_in_order_and_sides_share_no_text(
    texts: list[str], tokenizer, tmp_path: Path
) -> None:
    cache = cached(texts, tokenizer, tmp_path)
    assert len(cache.train) > 3 * len(cache.validation) > 0
    wanted = {"train": [], "validation": []}
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        wanted[module.side_of(text, 0.2)] += [*ids, tokenizer.sep_token_id]
    for side, rows in (("train", cache.train), ("validation", cache.validation)):
        sequences = np.array(all_ids(rows)).reshape(-1, 16)
        assert (sequences[:, 0] == tokenizer.cls_token_id).all()
        inner = sequences[:, 1:].flatten().tolist()
        assert inner[: len(wanted[side])] == wanted[side]
        assert set(inner[len(wanted[side]) :]) <= {tokenizer.pad_token_id}
        assert cache.info.tokens[side] == len(wanted[side])


def test_parts_make_no_difference_and_rows_can_be_read_by_other_processes(
    texts: list[str], tokenizer, tmp_path: Path
) -> None:
    whole = cached(texts, tokenizer, tmp_path / "a")
    module_batch = module._BATCH_TEXTS
    try:
        module._BATCH_TEXTS = 7
        parts = cached(texts, tokenizer, tmp_path / "b", part_tokens=100)
    finally:
        module._BATCH_TEXTS = module_batch
    assert len(parts.info.rows["train"]) > 5
    assert all_ids(parts.train) == all_ids(whole.train)
    assert all_ids(pickle.loads(pickle.dumps(parts.validation))) == all_ids(whole.validation)  # noqa: S301
    with pytest.raises(IndexError, match="of"):
        parts.train[len(parts.train)]


def test_a_killed_tokenisation_goes_on_where_it_stopped(
    texts: list[str], tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cached(texts, tokenizer, tmp_path / "whole")
    monkeypatch.setattr(module, "_BATCH_TEXTS", 10)
    read = []

    def dying() -> Iterator[str]:
        for place, text in enumerate(texts):
            if place == 150:
                raise KeyboardInterrupt
            yield text

    source = TextSource("toy", "same", dying)
    options = {"length": 16, "validation_share": 0.2, "folder": tmp_path / "cut", "part_tokens": 300}
    with pytest.raises(KeyboardInterrupt):
        token_cache([source], tokenizer, **options)
    again = TextSource("toy", "same", lambda: iter(texts))
    add = module._Writer._add
    monkeypatch.setattr(module._Writer, "_add", lambda self, batch: (read.extend(batch), add(self, batch)))
    cut = token_cache([again], tokenizer, **options)
    assert all_ids(cut.train) == all_ids(whole.train)
    assert all_ids(cut.validation) == all_ids(whole.validation)
    assert 150 <= len(read) < 300
    read.clear()
    token_cache([again], tokenizer, **options)
    assert not read


def test_equal_texts_are_on_one_side(tokenizer, tmp_path: Path) -> None:
    texts = ["cat dog cat dog"] * 50 + [f"{word} sea" for word in ("net", "query", "moon", "sun")] * 10
    cache = cached(texts, tokenizer, tmp_path, validation_share=0.5)
    lines = {
        side: set(" ".join(map(str, all_ids(rows))).split(f" {tokenizer.sep_token_id} "))
        for side, rows in (("train", cache.train), ("validation", cache.validation))
    }
    assert not lines["train"] & lines["validation"]


def test_names_of_special_tokens_in_a_text_are_text(tokenizer, tmp_path: Path) -> None:
    cache = cached(["cat [MASK] dog [PAD] [SEP] bird"] * 4, tokenizer, tmp_path, validation_share=0)
    ids = all_ids(cache.train)
    assert tokenizer.mask_token_id not in ids
    assert ids.count(tokenizer.sep_token_id) == 4


def test_long_texts_are_cut_between_words(tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(["cat dog bird"] * 200)
    whole = cached([text], tokenizer, tmp_path / "a", validation_share=0)
    monkeypatch.setattr(module, "_PIECE", 50)
    assert all_ids(cached([text], tokenizer, tmp_path / "b", validation_share=0).train) == all_ids(whole.train)
    assert module._pieces("x" * 120) == ["x" * 50, "x" * 50, "x" * 20]


def test_other_texts_tokenizers_and_lengths_have_caches_of_their_own(
    texts: list[str], tokenizer, tmp_path: Path
) -> None:
    other = make_tokenizer(iter(texts[:50]), VocabularyConfig(kind="wordpiece", size=100))
    found = {
        cached(texts, tokenizer, tmp_path).fingerprint,
        cached(texts, tokenizer, tmp_path).fingerprint,
        cached(texts[1:], tokenizer, tmp_path).fingerprint,
        cached(texts, other, tmp_path).fingerprint,
        cached(texts, tokenizer, tmp_path, length=32).fingerprint,
        cached(texts, tokenizer, tmp_path, validation_share=0.3).fingerprint,
    }
    assert len(found) == 5


@pytest.mark.parametrize(
    ("lines", "share", "message"),
    [([], 0.0, "0 texts give no token"), (["cat dog"], 1e-6, r"none of 1 texts.*data\.validation_share")],
)
def test_too_little_text_is_an_error(tokenizer, tmp_path: Path, lines: list[str], share: float, message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        cached(lines, tokenizer, tmp_path, validation_share=share)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_vocabulary_keeps_what_it_should(texts: list[str], kind: str) -> None:
    made = make_tokenizer(iter(texts), VocabularyConfig(kind=kind, size=300))
    ids = made("cat dog")["input_ids"]
    assert ids[0] == made.cls_token_id
    assert ids[-1] == made.sep_token_id
    assert made.decode(ids, skip_special_tokens=True).strip() == "cat dog"
    assert (made.unk_token_id in made("žluťoučký")["input_ids"]) == (kind == "wordpiece")


def test_a_vocabulary_of_bytes_is_the_same_each_time(texts: list[str]) -> None:
    first, second = (make_tokenizer(iter(texts), VocabularyConfig(size=300)) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_a_vocabulary_of_no_texts_is_an_error() -> None:
    with pytest.raises(HyperseekError, match="no texts to make a vocabulary from"):
        make_tokenizer(iter([]), VocabularyConfig())

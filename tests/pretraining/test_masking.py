"""Which tokens are hidden, and which sequences make a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperseek import HyperseekError
from hyperseek.pretraining import MaskingConfig
from hyperseek.pretraining._recipe import VocabularyConfig
from hyperseek.pretraining._texts import make_tokenizer
from hyperseek.pretraining._token_rows import IGNORED, VALIDATION, Masker, RowBatches


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]):
    return make_tokenizer(iter(texts), VocabularyConfig(kind="wordpiece", size=200))


def rows(tokenizer, count: int = 200, length: int = 64) -> np.ndarray:
    draw = np.random.default_rng(0)
    ids = draw.integers(5, len(tokenizer), (count, length))
    ids[:, 0] = tokenizer.cls_token_id
    ids[:, 40] = tokenizer.sep_token_id
    ids[:, 60:] = tokenizer.pad_token_id
    return ids


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.3), (VALIDATION, 0.15)])
def test_shares_are_as_asked_for_and_special_tokens_are_left_alone(tokenizer, epoch: int, share: float) -> None:
    masker = Masker(tokenizer, MaskingConfig(), seed=3)
    given = rows(tokenizer)
    hidden = masked = kept = ordinary = 0
    for position, ids in enumerate(given):
        drawn = masker(ids, epoch, position)
        labels, inputs = drawn["labels"].numpy(), drawn["input_ids"].numpy()
        chosen = labels != IGNORED
        assert (labels[chosen] == ids[chosen]).all()
        assert (inputs[~chosen] == ids[~chosen]).all()
        assert not chosen[[0, 40, *range(60, 64)]].any()
        assert drawn["attention_mask"].tolist() == [1] * 60 + [0] * 4
        assert (inputs[chosen] >= 4).all()
        hidden += chosen.sum()
        masked += (inputs[chosen] == tokenizer.mask_token_id).sum()
        kept += (inputs[chosen] == ids[chosen]).sum()
        ordinary += 58
    # Five standard deviations of a binomial.
    assert hidden / ordinary == pytest.approx(share, abs=5 * (share * (1 - share) / ordinary) ** 0.5)
    assert masked / hidden == pytest.approx(0.8, abs=5 * (0.16 / hidden) ** 0.5)
    expected_kept = 0.1 + 0.1 / (len(tokenizer) - 5)  # a swapped token may be swapped for itself
    assert kept / hidden == pytest.approx(expected_kept, abs=5 * (0.1 / hidden) ** 0.5)


def test_the_draw_depends_on_seed_epoch_and_position_alone(tokenizer) -> None:
    ids = rows(tokenizer)[0]

    def drawn(seed: int, epoch: int, position: int) -> torch.Tensor:
        return Masker(tokenizer, MaskingConfig(), seed=seed)(ids, epoch, position)["labels"]

    assert torch.equal(drawn(0, 1, 5), drawn(0, 1, 5))
    others = [drawn(1, 1, 5), drawn(0, 2, 5), drawn(0, 1, 6), drawn(0, VALIDATION, 5)]
    assert not any(torch.equal(drawn(0, 1, 5), other) for other in others)


def test_at_least_one_token_is_hidden_unless_all_are_special(tokenizer) -> None:
    masker = Masker(tokenizer, MaskingConfig(train=1e-9), seed=0)
    assert (masker(rows(tokenizer)[0], 1, 0)["labels"] != IGNORED).sum() == 1
    special = np.full(16, tokenizer.sep_token_id)
    assert (masker(special, 1, 0)["labels"] != IGNORED).sum() == 0


def test_an_epoch_goes_once_through_all_sequences_in_an_order_of_its_own() -> None:
    batches = RowBatches(23, 5, seed=1)
    assert len(batches) == 4
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert [len(batch) for batch in drawn] == [5] * 4
        assert {number for batch in drawn for number, _ in batch} == {epoch + 1}
        order = [position for batch in drawn for _, position in batch]
        assert len(set(order)) == 20
        orders.append(order)
    assert orders[0] != orders[1]
    batches.set_epoch(0)
    assert [position for batch in batches for _, position in batch] == orders[0]


def test_too_few_sequences_are_an_error() -> None:
    with pytest.raises(HyperseekError, match=r"4 sequences, fewer than a batch of 5.*train\.batch_size"):
        RowBatches(4, 5)
    with pytest.raises(HyperseekError, match="9 sequences, fewer than a batch of 5 for each of 2 processes"):
        RowBatches(9, 5, processes=2)

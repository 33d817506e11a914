"""Lengths of texts in tokens, and the limits that are chosen by them."""

from __future__ import annotations

import pytest

from hyperseek.data import ExampleItem, TrainingExample, automatic_lengths, measure_lengths, token_lengths
from hyperseek.data.lengths import context_length, every_nth, percentile
from hyperseek.errors import InputError
from hyperseek.models import ModelConfig, Retriever, build
from hyperseek.types import Query


@pytest.fixture(scope="module")
def late(tiny_encoder: str) -> Retriever:
    return build(
        ModelConfig.from_mapping(
            {
                "trunk": tiny_encoder,
                "family": "late",
                "late": {"dimension": 8, "prompt_tokens": True, "query_expansion": {"length": 12}},
                "document_length": 24,
                "prompts": {"query": "[Q] ", "document": "[D] "},
            }
        )
    )


def test_prompts_and_special_tokens_count_and_nothing_is_cut(late: Retriever) -> None:
    texts = ["cat", "cat dog", "sun " * 100]
    assert token_lengths(late, texts, "query") == [4, 5, 103]  # [CLS] [Q] … [SEP]
    ids = late.tokenize(["cat dog"], "document")["input_ids"][0]
    assert token_lengths(late, ["cat dog"], "document") == [len(ids)]


def test_a_percentile_is_one_of_the_lengths() -> None:
    lengths = [5, 1, 4, 2, 3]
    assert [percentile(lengths, share) for share in (0, 0.5, 0.95, 1)] == [1, 3, 5, 5]
    assert percentile(list(range(4)), 0.5) == 2  # round(1.5), to the even number
    with pytest.raises(InputError, match="needs lengths"):
        percentile([], 0.5)


def test_a_sample_is_every_nth_row() -> None:
    assert every_nth(range(10), 4) == [0, 2, 4, 6]
    assert every_nth(range(3), 500) == [0, 1, 2]


def test_automatic_lengths_are_percentiles_within_bounds(late: Retriever) -> None:
    rows = [("cat " * 37, ["dog " * 47, "dog " * 57]), ("cat", ["dog"])]
    # The longest query has 40 tokens, and the longest document is a negative of 60: below the least limit of 128.
    assert automatic_lengths(late, rows, share=1.0, context=512) == (40, 128)
    assert automatic_lengths(late, [("cat", ["dog"])], context=512) == (32, 128)
    assert automatic_lengths(late, [("cat", ["dog " * 297])], share=1.0, context=1000) == (32, 300)
    assert context_length(late) == 64
    assert automatic_lengths(late, [("cat " * 90, ["dog " * 297])]) == (64, 64)


def test_a_report_counts_what_each_limit_cuts(late: Retriever) -> None:
    def item(words: int) -> ExampleItem:
        return ExampleItem(f"a/{words}", "dog " * words, None)

    example = TrainingExample(Query("a/q", "cat " * 29), (item(1), item(61)), (item(21),))
    report = measure_lengths(late, [example], common=[30, 32])
    assert report.query.percentiles == {"p50": 32, "p90": 32, "p95": 32, "p99": 32, "max": 32}
    assert (report.query.limit, report.query.cut) == (12, {12: 1, 30: 1, 32: 0})
    assert (report.positive.texts, report.positive.cut) == (2, {24: 1, 30: 1, 32: 1})
    assert report.negative is not None
    assert report.negative.cut == {24: 0, 30: 0, 32: 0}
    with pytest.raises(InputError, match="no examples"):
        measure_lengths(late, [])

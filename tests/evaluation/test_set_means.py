from __future__ import annotations

import pytest

from hyperseek.data import BRIGHT_GROUPS
from hyperseek.errors import InputError
from hyperseek.evaluation import Evaluation, Protocol, set_means


def result(system: str, *values: float, measure: str = "RR") -> Evaluation:
    per_query = {measure: {f"q{place}": value for place, value in enumerate(values)}}
    mean = sum(values) / len(values)
    return Evaluation(name=system, per_query=per_query, aggregate={measure: mean}, protocol=Protocol(qrels="x"))


def test_a_set_counts_as_one_however_many_queries_it_has():
    given = {
        "a": [result("one", 1, 1, 1, 1), result("two", 0.5)],
        "b": [result("two", 0.25), result("one", 0)],
        "c": [result("one", 0.2), result("two", 0)],
    }
    table = set_means(given, {"letters": ("a", "b"), "last": ["c"]})
    assert table.systems == ("one", "two")
    assert table.means("RR") == {
        "letters": {"one": 0.5, "two": 0.375},
        "last": {"one": 0.2, "two": 0},
        "all sets": {"one": pytest.approx(0.4), "two": 0.25},
    }
    assert table.to_markdown().splitlines() == [
        *("| RR | one | two |", "| --- | ---: | ---: |"),
        *("| a | 1.0000 | 0.5000 |", "| b | 0.0000 | 0.2500 |", "| c | 0.2000 | 0.0000 |"),
        *("| **letters** | 0.5000 | 0.3750 |", "| **last** | 0.2000 | 0.0000 |", "| **all sets** | 0.4000 | 0.2500 |"),
    ]


def test_results_that_do_not_fit_together_are_refused():
    for given, groups, message in (
        ({}, {}, "at least one set"),
        ({"a": []}, {}, "at least one set"),
        ({"a": [result("one", 1)], "b": [result("two", 1)]}, {}, "set b has results of two and the set a of one"),
        ({"a": [result("one", 1)], "b": [result("one", 1, measure="P@1")]}, {}, "not have the same measures"),
        ({"a": [result("one", 1)]}, {"g": ["a", "x"]}, r"must name some of the sets a, not \['x'\]"),
    ):
        with pytest.raises(InputError, match=message):
            set_means(given, groups)


def test_bright_has_twelve_sets():
    assert [len(group) for group in BRIGHT_GROUPS.values()] == [7, 2, 3]
    assert len({subset for group in BRIGHT_GROUPS.values() for subset in group}) == 12

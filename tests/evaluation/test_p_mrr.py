from __future__ import annotations

import json
import math

import pytest

from hyperseek.errors import InputError
from hyperseek.evaluation import p_mrr, p_mrr_per_query


def test_equals_the_recorded_value(golden):
    recorded = json.loads((golden / "hypencoder/retrieval/pmrr_golden.json").read_text())
    runs = [recorded[key] for key in ("og_run", "new_run", "og_qrels", "new_qrels")]
    assert p_mrr(p_mrr_per_query(*runs)) == pytest.approx(recorded["p_mrr_x100"], abs=1e-9)


def test_signs_and_missing_documents():
    before = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    fell = {"q": {"b": 3.0, "c": 2.0, "a": 1.0}}
    qrels, changed = {"q": {"a": 1, "b": 1}}, {"q": {"a": 0, "b": 1}}
    assert p_mrr_per_query(before, fell, qrels, changed) == {"q": pytest.approx(1 - 1 / 3)}
    assert p_mrr_per_query(fell, before, qrels, changed) == {"q": pytest.approx(1 / 3 - 1)}
    assert p_mrr_per_query(before, before, qrels, changed) == {"q": 0}
    gone = {"q": {"b": 3.0, "c": 2.0}}  # rank 3 = its length + 1
    assert p_mrr_per_query(before, gone, qrels, changed) == {"q": pytest.approx(1 - 1 / 3)}


def test_only_changed_documents_of_queries_that_both_runs_have(caplog):
    run = {"q": {"a": 1.0}}
    qrels, changed = {"q": {"a": 1}, "r": {"a": 1}}, {"q": {"a": 1}, "r": {"a": 0}}
    with caplog.at_level("WARNING"):
        assert p_mrr_per_query(run, run, qrels, changed) == {}
    assert "leaves out query r" in caplog.text
    with pytest.raises(InputError, match="at least one query"):
        p_mrr({})


def test_nothing_moves_unless_a_score_does():
    qrels, changed = {"q": {"a": 1, "c": 1}}, {"q": {"a": 0, "c": 1}}
    one, other = {"q": {"a": 1.0, "b": 1.0, "c": 0.5}}, {"q": {"b": 1.0, "c": 0.5, "a": 1.0}}
    assert p_mrr_per_query(one, other, qrels, changed) == {"q": 0}
    assert p_mrr_per_query(other, one, qrels, changed) == {"q": 0}
    # What ties in one run only stands where that run has it.
    assert p_mrr_per_query({"q": {"b": 2.0, "a": 1.0}}, {"q": {"a": 1.0, "b": 1.0}}, qrels, changed) == {"q": -0.5}


def test_only_relevance_counts_and_its_direction():
    high, low = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 2.0, "a": 1.0}}
    for nothing in ({}, {"a": 0}, {"a": -2}):
        for something in ({}, {"a": 0}, {"a": -1}):
            assert p_mrr_per_query(low, high, {"q": nothing}, {"q": something}) == {}
        gained, lost = ({"q": nothing}, {"q": {"a": 1}}), ({"q": {"a": 1}}, {"q": nothing})
        assert p_mrr_per_query(low, high, *gained) == {"q": 0.5}  # became relevant and rose
        assert p_mrr_per_query(high, low, *gained) == {"q": -0.5}
        assert p_mrr_per_query(high, low, *lost) == {"q": 0.5}
        assert p_mrr_per_query(low, high, *lost) == {"q": -0.5}
    assert p_mrr_per_query(high, low, {"q": {"a": 2}}, {"q": {"a": 1}}) == {"q": 0.5}
    assert p_mrr_per_query(low, high, {}, {"q": {"a": 1}}) == {"q": 0.5}  # judged under the changed instruction alone


def test_a_score_that_is_no_number():
    run = {"q": {"a": math.nan, "b": 1.0}}
    with pytest.raises(InputError, match="'a' is not a number"):
        p_mrr_per_query(run, run, {"q": {"a": 1}}, {"q": {"a": 0}})

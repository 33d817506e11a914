from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from hyperseek.errors import ConfigError, InputError, ProtocolError, UnknownNameError
from hyperseek.evaluation import Comparison, Slices, compare, holm, paired_test


def test_differences_tests_and_counts(make_evaluation):
    base, better = make_evaluation("base", [0.2, 0.4, 0.6, 0.8]), make_evaluation("better", [0.3, 0.4, 0.9, 0.7])
    section = compare([base, better], tests=("permutation", "t")).sections[0]
    row = section.row("better", "nDCG@10")
    assert (row.mean, row.difference) == pytest.approx((0.575, 0.075))
    assert (row.wins, row.ties, row.losses) == (2, 1, 1)
    differences = [0.1, 0.0, 0.3, -0.1]
    assert row.p_values == {name: pytest.approx(paired_test(name, differences)[0]) for name in ("permutation", "t")}
    assert row.p_corrected == row.p_values
    assert row.difference_interval[0] <= row.difference <= row.difference_interval[1]
    baseline = section.row("base", "nDCG@10")
    assert baseline.difference is None
    assert baseline.interval[0] < baseline.mean < baseline.interval[1]


def test_several_systems_are_corrected_and_the_baseline_leads(make_evaluation):
    systems = [make_evaluation(name, seed=seed) for seed, name in enumerate(("a", "b", "c"))]
    comparison = compare(systems, baseline="c")
    assert comparison.systems == ("c", "a", "b")
    rows = [comparison.sections[0].row(name, "nDCG@10") for name in ("a", "b")]
    expected = holm([row.p_values["permutation"] for row in rows])
    assert [row.p_corrected["permutation"] for row in rows] == expected
    assert comparison == compare(systems, baseline="c")


def test_one_system_has_intervals_only(make_evaluation):
    comparison = compare([make_evaluation("alone")])
    assert [row.difference for row in comparison.sections[0].rows] == [None]
    assert "difference" not in comparison.to_markdown()


@pytest.mark.parametrize("key", ["data", "split", "qrels", "k", "exclude_same_id"])
def test_unlike_protocols_are_refused_by_name(make_evaluation, key):
    value = {"k": 10, "exclude_same_id": True}.get(key, "other")
    pair = [make_evaluation("a"), make_evaluation("b", seed=1, **{key: value})]
    with pytest.raises(ProtocolError, match=f"differ in {key}:\n  {key}: a .*, b {value!r}"):
        compare(pair)
    comparison = compare(pair, allow_unlike=True)
    assert comparison.unlike == (key,)
    assert f"NOT MEASURED ALIKE: the results differ in {key}" in comparison.to_markdown()


def test_what_the_systems_are_may_differ_and_is_listed(make_evaluation):
    pair = [
        make_evaluation("a", system={"max_length": {"query": 32}, "dtype": "float32"}, dataset="one name"),
        make_evaluation("b", system={"max_length": {"query": 64}, "dtype": "float32"}, dataset="another"),
    ]
    comparison = compare(pair)
    assert comparison.recorded == {"system.max_length.query": {"a": 32, "b": 64}}
    assert "system.max_length.query: 32 (a), 64 (b)" in comparison.to_markdown()


def test_unlike_results_are_compared_over_what_they_share(make_evaluation):
    long, short = make_evaluation("long", queries=30), make_evaluation("short", queries=20, qrels="other")
    assert compare([long, short], allow_unlike=True).sections[0].queries == 20
    renamed = short.model_copy(update={"per_query": {"nDCG@10": {"other": 0.5}}})
    with pytest.raises(InputError, match="share no query"):
        compare([long, renamed], allow_unlike=True)
    renamed = short.model_copy(update={"per_query": {"AP": short.per_query["nDCG@10"]}})
    with pytest.raises(InputError, match="share no measure"):
        compare([long, renamed], allow_unlike=True)


def test_slices_are_sections_for_all_systems(make_evaluation):
    slices = Slices(all=("q0", "q1"), some=(), none=("q2", "q3", "q4"), without_relevant=(), trained_documents=9)
    frozen = make_evaluation("frozen")
    trained = make_evaluation("trained", seed=1).model_copy(update={"slices": slices, "notes": ("no such slice",)})
    comparison = compare([frozen, trained])
    assert [(section.title.split()[0], section.queries) for section in comparison.sections] == [
        ("all", 30),
        ("all", 2),
        ("none", 3),
    ]
    assert "(trained)" in comparison.sections[1].title
    expected = np.mean([trained.per_query["nDCG@10"][q] - frozen.per_query["nDCG@10"][q] for q in slices.none])
    assert comparison.sections[2].row("trained", "nDCG@10").difference == pytest.approx(expected)
    assert comparison.notes == ("trained: no such slice",)
    twin = trained.model_copy(update={"name": "twin"})
    assert "(trained, twin)" in compare([frozen, trained, twin]).sections[1].title


def test_a_slice_of_all_queries_is_a_note_and_no_second_table(make_evaluation):
    names = tuple(f"q{place}" for place in range(30))
    slices = Slices(all=(), some=(), none=names, without_relevant=(), trained_documents=9)
    comparison = compare([make_evaluation("a").model_copy(update={"slices": slices})])
    assert [section.title for section in comparison.sections] == ["all queries"]
    assert comparison.notes == ("for every query, none of the relevant documents were relevant in training (a)",)


def test_renderings_hold_the_numbers(make_evaluation, tmp_path):
    pair = [make_evaluation("base|line", [0.2] * 20), make_evaluation("[b]new", [0.4] * 20)]
    comparison = compare(pair)
    text = comparison.to_markdown()
    assert "**all queries: 20 queries**" in text
    assert r"| nDCG@10 | base\|line | 0.2000 |" in text
    assert "+0.2000" in text
    assert "<0.001" in text
    assert "20/0/0" in text
    console = Console(file=io.StringIO(), width=140)
    console.print(comparison)
    shown = console.file.getvalue()
    assert "[b]new" in shown
    assert "+0.2000" in shown
    comparison.save(tmp_path / "comparison.json")
    assert Comparison.from_mapping(json.loads((tmp_path / "comparison.json").read_text())) == comparison


def test_a_narrow_terminal_shows_fewer_columns(make_evaluation):
    comparison = compare([make_evaluation("base"), make_evaluation("new", seed=1)])

    def shown(width: int) -> str:
        console = Console(file=io.StringIO(), width=width)
        console.print(comparison)
        return console.file.getvalue()

    assert shown(120).count("95 %") == 2
    assert shown(85).count("95 %") == 1
    assert "win/tie/loss" in shown(85)
    assert "win/tie/loss" not in shown(70)
    assert all(f"{comparison.sections[0].rows[1].difference:+.4f}" in shown(width) for width in (70, 85, 120))


def test_only_systems_that_have_a_key_differ_in_it(make_evaluation):
    systems = [
        make_evaluation("words", system={"kind": "bm25"}),
        make_evaluation("a", system={"kind": "index", "max_length": 32}),
        make_evaluation("b", system={"kind": "index", "max_length": 64}),
    ]
    assert compare(systems).recorded == {
        "system.kind": {"words": "bm25", "a": "index", "b": "index"},
        "system.max_length": {"a": 32, "b": 64},
    }
    assert compare(systems[:2]).recorded == {"system.kind": {"words": "bm25", "a": "index"}}


def test_wrong_arguments(make_evaluation):
    a, b = make_evaluation("a"), make_evaluation("b")
    with pytest.raises(InputError, match="at least one"):
        compare([])
    with pytest.raises(InputError, match="a distinct name"):
        compare([a, a])
    with pytest.raises(UnknownNameError, match="unknown system 'c'"):
        compare([a, b], baseline="c")
    with pytest.raises(ConfigError, match="'permutation', 't' or 'wilcoxon'"):
        compare([a, b], tests="z")
    with pytest.raises(ConfigError, match="confidence"):
        compare([a, b], confidence=2)
    with pytest.raises(UnknownNameError, match="unknown row"):
        compare([a, b]).sections[0].row("a", "AP")

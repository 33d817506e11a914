"""The tests against scipy and against counting by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from hyperseek.errors import ConfigError, InputError, UnknownNameError
from hyperseek.evaluation import Statistics, bootstrap_intervals, holm, paired_test
from hyperseek.evaluation._significance import TESTS


@pytest.fixture(params=range(4))
def pairs(request) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(request.param)
    first = generator.random(60)
    return first, np.clip(first + generator.normal(0.03, 0.15, 60), 0, 1)


def test_t_and_wilcoxon_equal_scipy(pairs):
    first, second = pairs
    difference = second - first
    assert paired_test("t", difference) == pytest.approx([stats.ttest_rel(second, first).pvalue], rel=1e-9)
    expected = stats.wilcoxon(second, first).pvalue
    assert paired_test("wilcoxon", difference) == pytest.approx([expected], rel=1e-9)


def test_permutation_agrees_with_scipy(pairs):
    first, second = pairs
    expected = stats.permutation_test(
        (second, first),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).pvalue
    found = paired_test("permutation", second - first, resamples=20_000)[0]
    assert found == pytest.approx(expected, abs=4 * np.sqrt(max(expected, 1e-4) / 20_000))


def by_hand(differences: list[float]) -> float:
    bar = abs(sum(differences)) - 1e-12
    patterns = list(itertools.product((-1, 1), repeat=len(differences)))
    totals = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    return sum(total >= bar for total in totals) / len(patterns)


@pytest.mark.parametrize(
    "differences",
    [[0.1, 0.2, 0.3], [0.1, -0.2, 0.3, 0.05], [0.1, 0.1, 0.1, -0.1, 0.0, 0.0], [0.3, 0.1, 0.2, -0.6], [-1.0]],
)
def test_permutation_equals_exact_enumeration(differences):
    assert paired_test("permutation", differences)[0] == pytest.approx(by_hand(differences), abs=1e-12)


def test_random_patterns_approach_the_exact_value():
    differences = np.random.default_rng(5).normal(0.2, 1, 12)
    exact = by_hand(differences.tolist())
    drawn = paired_test("permutation", differences, resamples=4095)[0]  # one fewer than there are patterns
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact / 4095))


def test_more_queries_than_a_float_counts_patterns_of():
    assert paired_test("permutation", [1.0, -1.0] * 600, resamples=100)[0] == 1
    assert paired_test("permutation", [1.0] * 1200, resamples=99)[0] == 0.01


def test_p_values_are_uniform_where_nothing_differs():
    columns = np.random.default_rng(1).normal(size=(25, 400))
    for name in ("permutation", "t", "wilcoxon"):
        assert stats.kstest(paired_test(name, columns, resamples=2000), "uniform").pvalue > 0.001, name


@pytest.mark.parametrize("name", ["permutation", "t", "wilcoxon"])
def test_edges(name):
    assert paired_test(name, [0.0, 0.0, 0.0])[0] == 1
    assert paired_test(name, [0.5])[0] == 1
    assert 0 <= paired_test(name, [0.2] * 30)[0] < 0.001
    assert paired_test(name, [0.1] * 9 + [-0.1])[0] == paired_test(name, [-0.1] * 9 + [0.1])[0]


def test_a_column_gives_the_same_answer_in_any_company():
    columns = np.random.default_rng(2).normal(size=(40, 3))
    together = paired_test("permutation", columns)
    assert [paired_test("permutation", columns[:, place])[0] for place in range(3)] == list(together)
    ends = bootstrap_intervals(columns)
    assert bootstrap_intervals(columns[:, 1])[0] == pytest.approx(ends[1])


def test_seeds_decide():
    differences = np.random.default_rng(0).normal(0.1, 1, 50)
    assert paired_test("permutation", differences, seed=1) == paired_test("permutation", differences, seed=1)
    assert paired_test("permutation", differences, seed=1) != paired_test("permutation", differences, seed=2)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(4).random(80)
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(9))
    found = bootstrap_intervals(values, confidence=0.95)[0]
    assert found == pytest.approx([expected.confidence_interval.low, expected.confidence_interval.high], abs=0.003)
    assert bootstrap_intervals([0.3, 0.3])[0] == pytest.approx([0.3, 0.3])


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(6).normal(size=(100, 500))
    ends = bootstrap_intervals(samples, confidence=0.9, resamples=1000)
    inside = np.mean((ends[:, 0] < 0) & (ends[:, 1] > 0))
    assert 0.85 < inside < 0.95


def test_large_inputs_are_drawn_in_chunks(monkeypatch):
    values = np.random.default_rng(7).normal(size=(30, 2))
    whole = paired_test("permutation", values), bootstrap_intervals(values)
    monkeypatch.setattr("hyperseek.evaluation._significance._CHUNK", 999)
    assert paired_test("permutation", values) == pytest.approx(whole[0], abs=0.03)
    assert bootstrap_intervals(values) == pytest.approx(whole[1], abs=0.03)


def test_holm_against_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_wrong_arguments():
    with pytest.raises(UnknownNameError, match="did you mean 'permutation'"):
        paired_test("permutations", [0.1])
    with pytest.raises(InputError, match="at least one query"):
        paired_test("t", [])
    with pytest.raises(InputError, match="resamples"):
        paired_test("permutation", [0.1], resamples=0)
    with pytest.raises(InputError, match="confidence"):
        bootstrap_intervals([0.1], confidence=95)


def test_every_test_can_be_asked_for_in_a_comparison():
    assert Statistics(tests=tuple(TESTS)).tests == tuple(TESTS)
    with pytest.raises(ConfigError, match="tests"):
        Statistics.from_mapping({"tests": ["sign"]})


def test_rounding_is_no_difference():
    values = np.array([0.2, 0.1, -0.3, 0.4, 0.15, -0.05, 0.0, 0.25])
    noise = np.array([0, 0, 0, 0, 0, 0, 5e-17, 0])
    for test in ("permutation", "t", "wilcoxon"):
        clean = paired_test(test, values, resamples=500)
        for scale in (1, -1, 20):
            assert paired_test(test, values + scale * noise, resamples=500) == pytest.approx(clean, abs=1e-12), test
        assert paired_test(test, [5e-17, -3e-17, 1e-16, 4e-17]) == 1
    assert paired_test("wilcoxon", values + noise)[0] == pytest.approx(stats.wilcoxon(values[values != 0]).pvalue)


def test_sizes_that_are_equal_on_paper_share_a_rank():
    rough = np.array([0.1 + 0.2, 0.3, -0.3, 0.7 - 0.4, 0.1, -0.2, 0.8 - 0.7])
    clean = np.array([0.3, 0.3, -0.3, 0.3, 0.1, -0.2, 0.1])
    assert paired_test("wilcoxon", rough) == pytest.approx(paired_test("wilcoxon", clean), abs=1e-12)


def test_differences_must_be_numbers():
    with pytest.raises(InputError, match=r"query 1 \(from 0\) has \[nan\]"):
        paired_test("t", [0.1, np.nan])

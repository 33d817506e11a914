"""Suites of systems and collections: what is measured, what is kept, and what is computed from it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import open_dataset
from hyperseek.errors import ConfigError, DataError, InputError, UnknownNameError
from hyperseek.evaluation import Evaluation, holm
from hyperseek.evaluation.suite import (
    Suite,
    SuiteResult,
    drifts,
    list_suites,
    publish_results,
    read_result,
    read_results,
    read_suite,
    read_table,
    run_suite,
    suite_table,
)
from hyperseek.evaluation.suite._systems import fused

TINY = Path(__file__).parent.parent / "fixtures" / "saved"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two collections and a recipe on the tiny trunk."""
    folder = tmp_path_factory.mktemp("suite")
    for name in ("one", "two"):
        shutil.copytree(TINY / "collection", folder / name)
    recipe = (TINY / "train.yaml").read_text().replace("trunk: trunk", f"trunk: {TINY / 'trunk'}")
    (folder / "net.yaml").write_text(recipe.replace("collection:", f"{folder / 'one'}:"))
    return folder


def values(place: Path) -> dict[str, Any]:
    split = open_dataset(place / "one").splits[-1]
    own = {"split": split}
    return {
        "name": "tiny",
        "baseline": "trunk",
        "collections": {"one": {"dataset": str(place / "one"), **own}, "two": {"dataset": str(place / "two"), **own}},
        "systems": {
            "bm25": {"bm25": {}},
            "trunk": {"model": str(TINY / "trunk"), "about": "as it is"},
            "net": {"recipe": str(place / "net.yaml")},
            "both": {"fusion": {"of": ["trunk", "bm25"]}},
        },
        "training": {"train": {"max_steps": 4}},
        "document_length": 16,
        "query_length": 16,
        "timed": 2,
    }


class Heard(list[str]):
    """What a run says."""

    def measured(self) -> list[str]:
        return [line.split(":")[0] for line in self if " on " in line]


@pytest.fixture(scope="module")
def ran(place: Path) -> Path:
    """The suite, run once."""
    run_suite(Suite.from_mapping(values(place)), output=place / "out")
    return place / "out"


@pytest.fixture
def again(ran: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    shutil.copytree(ran, tmp_path / "out")
    return tmp_path / "out"


def test_every_system_is_measured_on_every_collection_once(place: Path, ran: Path) -> None:
    results = read_results(ran)
    assert {(one.system, one.collection, one.seed) for one in results} == {
        (system, collection, 0 if system == "net" else None)
        for system in ("bm25", "trunk", "net", "both")
        for collection in ("one", "two")
    }
    heard = Heard()
    run_suite(Suite.from_mapping(values(place)), output=ran, tell=heard.append)
    assert not heard.measured()
    for name in ("comparison.md", "comparison.csv", "comparison.json", "comparison.html"):
        assert (ran / name).stat().st_size > 100


def test_models_of_one_document_side_share_one_index(ran: Path) -> None:
    assert len([item for item in (ran / "indexes" / "one").iterdir() if item.is_dir()]) == 1
    table = read_table(ran)
    assert table.row("net").shares_index
    assert table.row("net").training_seconds is not None
    assert not table.row("bm25").shares_index


def test_only_what_changed_is_measured_again(place: Path, again: Path) -> None:
    changed = values(place)
    changed["systems"]["bm25"] = {"bm25": {"k1": 1.5}}
    heard = Heard()
    run_suite(Suite.from_mapping(changed), output=again, tell=heard.append)
    assert heard.measured() == ["bm25 on one", "bm25 on two", "both on one", "both on two"]
    changed["training"]["train"]["max_steps"] = 5
    heard.clear()
    run_suite(Suite.from_mapping(changed), output=again, tell=heard.append)
    assert heard.measured() == ["net, seed 0 on one", "net, seed 0 on two"]


def test_a_touched_collection_is_measured_again(place: Path, again: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "two", tmp_path / "two")
    changed = values(place)
    changed["collections"]["two"]["dataset"] = str(tmp_path / "two")
    heard = Heard()
    run_suite(Suite.from_mapping(changed), output=again, tell=heard.append)
    assert not heard.measured()  # another place, the same content
    [qrels] = [
        file for file in (tmp_path / "two" / "qrels").iterdir() if file.stem == changed["collections"]["two"]["split"]
    ]
    lines = qrels.read_text().splitlines()
    qrels.write_text("\n".join([*lines[:-1], re.sub(r"\d+$", "7", lines[-1])]) + "\n")
    table = run_suite(Suite.from_mapping(changed), output=again, tell=heard.append)
    assert set(heard.measured()) == {"bm25 on two", "trunk on two", "net, seed 0 on two", "both on two"}
    assert [column.title for column in table.columns] == ["one", "two"]


def test_a_run_that_was_stopped_goes_on(place: Path, tmp_path: Path) -> None:
    suite = Suite.from_mapping({**values(place), "collections": {"one": values(place)["collections"]["one"]}})

    def stop(line: str) -> None:
        if line.startswith("trunk on one"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run_suite(suite, output=tmp_path / "out", tell=stop)
    assert [one.system for one in read_results(tmp_path / "out")] == ["bm25"]
    heard = Heard()
    run_suite(suite, output=tmp_path / "out", tell=heard.append)
    assert heard.measured() == ["trunk on one", "net, seed 0 on one", "both on one"]


def test_an_encoding_that_another_system_left_unfinished_is_no_obstacle(place: Path, again: Path) -> None:
    result = again / "results" / "one" / "net.0.json.gz"
    before = read_result(result)
    result.unlink()
    for marker in (again / "indexes" / "one").glob("*.json"):  # written when an encoding has ended
        marker.unlink()
    run_suite(Suite.from_mapping(values(place)), output=again, systems=["net"])
    now = read_result(result)
    for query, ranking in before.run().items():  # bfloat16 rounds before or after vectors are normalised
        assert now.run()[query] == pytest.approx(ranking, abs=0.01)
    assert read_result(result).costs.encoding_seconds is None


def test_times_are_measured_again_and_nothing_else(place: Path, again: Path) -> None:
    before = {one.file_name: one for one in read_results(again)}
    for one in before.values():
        one.model_copy(update={"costs": one.costs.model_copy(update={"search_ms": (9e6,), "compile_ms": ()})}).write(
            again / "results"
        )
    heard = Heard()
    table = run_suite(Suite.from_mapping(values(place)), output=again, retime=True, tell=heard.append)
    assert not heard.measured()
    assert all(row.query_ms is not None and row.query_ms < 1e6 for row in table.rows)
    for one in read_results(again):
        assert one.rankings == before[one.file_name].rankings
        assert len(one.costs.search_ms) == 2


def test_a_damaged_result_is_measured_again(place: Path, again: Path) -> None:
    file = again / "results" / "one" / "bm25.json.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="delete it, and it is measured again"):
        read_result(file)
    heard = Heard()
    run_suite(Suite.from_mapping(values(place)), output=again, tell=heard.append)
    assert heard.measured() == ["bm25 on one"]


def test_values_are_those_of_the_rankings_and_other_measures_are_computed_from_them(place: Path, again: Path) -> None:
    result = read_result(again / "results" / "one" / "trunk.json.gz")
    qrels = open_dataset(place / "one").qrels(values(place)["collections"]["one"]["split"])
    for measure, by_query in result.measured(qrels, list(result.values)).items():
        assert [by_query[query] for query in result.queries] == pytest.approx(result.values[measure])
    heard = Heard()
    wider = Suite.from_mapping({**values(place), "measures": ["nDCG@10", "P@5"]})
    table = run_suite(wider, output=again, tell=heard.append)
    assert not heard.measured()
    assert table.measures == ("nDCG@10", "P@5")


def test_a_collection_that_is_missing_is_left_out_and_the_table_says_why(
    place: Path, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    changed = values(place)
    changed["collections"]["three"] = {"dataset": "$NOWHERE/three"}
    table = run_suite(Suite.from_mapping(changed), output=again)
    assert "NOWHERE" in table.left_out["three"]
    assert "left out: three" in table.to_markdown()
    assert read_table(again).left_out == table.left_out
    with pytest.raises(DataError, match="none of the suite's collections"):
        run_suite(Suite.from_mapping({**changed, "collections": {"three": {"dataset": "$NOWHERE/x"}}}), output=again)


def test_a_part_of_a_collection_is_another_column(place: Path, again: Path) -> None:
    whole = read_results(again)
    cut = values(place)
    cut["collections"] = {"one": {**cut["collections"]["one"], "max_documents": 3}}
    run_suite(Suite.from_mapping(cut), output=again, systems=["trunk", "bm25"])
    parts = [one for one in read_results(again) if one.collection == "one"]
    table = suite_table([*whole, *(one for one in parts if one.column["max_documents"])], baseline="trunk")
    titles = [column.title for column in table.columns]
    assert len(titles) == 3
    assert sum(title.startswith("one (") for title in titles) == 2


def test_p_values_are_corrected_for_all_systems_and_collections(make_evaluation: Any) -> None:
    results = [
        _result(make_evaluation(system, seed=place, queries=40), collection)
        for place, (system, collection) in enumerate((s, c) for s in ("base", "a", "b", "c") for c in ("x", "y"))
    ]
    table = suite_table(results, baseline="base", resamples=500)
    compared = [cell for cell in table.cells if cell.system != "base"]
    assert len(compared) == 6
    raw = [(cell.p_values or {})["permutation"] for cell in compared]
    assert [cell.p for cell in compared] == holm(raw)


def test_seeds_are_averaged_and_their_spread_is_shown(make_evaluation: Any) -> None:
    low, high = np.full(10, 0.2), np.full(10, 0.4)
    results = [
        _result(make_evaluation("base", np.full(10, 0.1).tolist()), "x"),
        _result(make_evaluation("a", low.tolist()), "x", seed=0),
        _result(make_evaluation("a", high.tolist()), "x", seed=1),
    ]
    row = suite_table(results, baseline="base", resamples=100).row("a")
    assert row.means["nDCG@10"] == pytest.approx(0.3)
    assert row.seeds == 2
    assert row.spread is not None
    assert row.spread["nDCG@10"] == pytest.approx(np.std([0.2, 0.4], ddof=1))


def test_what_validation_kept_of_a_training_is_shown(make_evaluation: Any) -> None:
    made = {"a": {"changed": True, "share": None}, "b": {"changed": True, "share": 0.5}, "c": {"changed": False}}
    results = [_result(make_evaluation("base", [0.1] * 4), "x")]
    for name, training in made.items():
        result = _result(make_evaluation(name, [0.1] * 4), "x", seed=0)
        results.append(result.model_copy(update={"training": {"recipe": "r", **training}}))
    report = suite_table(results, baseline="base", resamples=100).to_markdown()
    for name, kept in (("a", "all"), ("b", "0.5"), ("c", "nothing")):
        assert re.search(rf"\| {name} \| r \|.*\| {kept} \| 1 \|", report)


def _result(evaluation: Evaluation, collection: str, seed: int | None = None, **costs: Any) -> SuiteResult:
    return SuiteResult(
        suite="made up", baseline="base", system=evaluation.name, collection=collection, seed=seed, key="k",
        column={"data": collection, "split": "test"}, protocol=evaluation.protocol, queries=evaluation.queries,
        values={name: tuple(by.values()) for name, by in evaluation.per_query.items()},
        costs={"documents": 10, **costs},
    )  # fmt: skip


def test_losses_and_jobs_are_what_the_numbers_say(make_evaluation: Any) -> None:
    rng = np.random.default_rng(0)
    base = rng.random(60) * 0.5
    made = {"base": base, "good": base + 0.3, "bad": base * 0.2, "same": base + rng.normal(0, 0.01, 60)}
    costs = {"base": (5.0, 400), "good": (50.0, 4000), "bad": (60.0, 4000), "same": (1.0, 900)}
    results = [
        _result(make_evaluation(name, own.tolist()), "x", search_ms=(costs[name][0],) * 3, point_bytes=costs[name][1])
        for name, own in made.items()
    ]
    table = suite_table(results, baseline="base", resamples=1000)
    assert {name: cell.sign for name in made if (cell := table.cell(name, "x")) is not None} == {
        "base": 0, "good": 1, "bad": -1, "same": 0,
    }  # fmt: skip
    assert table.front("query_ms")[0] == "same"
    assert table.front("query_ms")[-1] == "good"
    assert "bad" not in table.front("query_ms") + table.front("bytes_per_document")
    assert table.jobs()[0][1] == "good"
    report = table.to_markdown()
    assert re.search(r"\| bad \| x \(-0\.\d+\) \| - \| - \|", report)


def test_the_page_is_whole_in_itself_and_escapes_names(ran: Path, make_evaluation: Any) -> None:
    page = (ran / "comparison.html").read_text()
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?(https?:)?//", page)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert all(f">{name}</text>" in picture for name in ("trunk", "net", "bm25", "both"))
    hostile = _result(make_evaluation("base"), "x").model_copy(
        update={"about": "a<script>", "notes": ("b<script>",), "suite": "c<script>"}
    )
    table = suite_table([hostile], baseline="base", resamples=10)
    assert "b&lt;script&gt;" in table.to_html()
    assert "<script>" not in table.to_html()
    report = re.sub(r"`[^`]*`", "", table.to_markdown())  # code is shown as it is
    assert "<script>" not in report.replace(r"\<script", "")


def test_a_fusion_is_that_of_its_parts(ran: Path) -> None:
    runs = [read_result(ran / "results" / "one" / f"{name}.json.gz").run() for name in ("trunk", "bm25")]
    both = read_result(ran / "results" / "one" / "both.json.gz").run()
    for query, ranking in both.items():
        sums: dict[str, float] = {}
        for run in runs:
            for rank, name in enumerate(run.get(query, {}), start=1):
                sums[name] = sums.get(name, 0) + 1 / (60 + rank)
        assert set(ranking) <= set(sums)
        assert list(ranking.values()) == pytest.approx(sorted(sums.values(), reverse=True)[: len(ranking)], rel=1e-5)
    unit = fused([{"q": {"a": 3.0, "b": 1.0}}, {"q": {"b": 9.0, "c": 8.0}}], 10, method="minmax")
    assert unit == {"q": {"a": 1.0, "b": 1.0, "c": 0.0}}


def test_outside_models_and_runs_are_systems(place: Path, again: Path, tmp_path: Path) -> None:
    source = read_result(again / "results" / "one" / "bm25.json.gz").run()
    lines = [
        f"{query} Q0 {name} {rank} {score} outside"
        for query, ranking in source.items()
        for rank, (name, score) in enumerate(ranking.items(), start=1)
    ]
    (tmp_path / "one.trec").write_text("\n".join(lines) + "\n")
    changed = values(place)
    changed["systems"]["outside"] = {"run": str(tmp_path / "{collection}.trec")}
    table = run_suite(Suite.from_mapping(changed), output=again)
    own, ours = table.cell("outside", "one"), table.cell("bm25", "one")
    assert own is not None
    assert ours is not None
    assert own.mean == pytest.approx(ours.mean)
    assert table.cell("outside", "two") is None
    assert "two.trec" in table.left_out["outside on two"]
    assert table.row("outside").query_ms is None


def test_published_results_are_small_and_drifts_are_found(ran: Path, tmp_path: Path) -> None:
    results = read_results(ran)
    sizes = publish_results(results, tmp_path / "published", rankings=["one"])
    assert len(sizes) == len(results)
    published = read_results(tmp_path / "published")
    assert {one.collection for one in published if one.rankings is not None} == {"one"}
    assert all(one.scores is None for one in published)
    assert read_table(tmp_path / "published").to_markdown() == read_table(ran).to_markdown()
    text = (tmp_path / "published" / "one" / "net.0.json.gz").read_bytes()
    assert not any(drift.drifted for drift in drifts(results, published))
    assert (
        text
        == results[[one.file_name for one in results].index("one/net.0.json.gz")]
        .published(rankings=True)
        .write(tmp_path / "same")
        .read_bytes()
    )
    moved = results[0].model_copy(update={"values": {"nDCG@10": tuple(0.0 for _ in results[0].queries)}})
    found = [drift for drift in drifts([moved, *results[1:]], published) if drift.drifted]
    assert {(drift.system, drift.collection) for drift in found} == {(moved.system, moved.collection)}
    with pytest.raises(InputError, match="no system and collection in common"):
        drifts([], published)


def test_results_name_no_folder_of_this_machine(place: Path, ran: Path) -> None:
    for result in read_results(ran):
        text = json.dumps(result.published(rankings=False).model_dump(mode="json"))
        assert str(ran) not in text
        if result.system == "net":
            assert result.training is not None
            assert result.training["steps"] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"systems": {"trunk": {"modle": "x"}}}, "did you mean 'model'"),
        ({"systems": {"trunk": {"model": "x", "bm25": {}}}}, "exactly one of"),
        ({"systems": {"trunk": {"model": "x", "changes": {"a": 1}}}}, "without effect on a system that is a model"),
        ({"baseline": "trunc"}, "did you mean 'trunk'"),
        ({"measures": ["nDCG@500"]}, "nDCG@500"),
        ({"systems": {"trunk": {"fusion": {"of": ["trunk", "trunk"]}}}}, "named twice"),
        ({"systems": {"trunk": {"bm25": {}}, "p": {"plan": {"stages": [{"kind": "exhaustive"}]}}}}, "needs `of`"),
        ({"collections": {"a/b": {"dataset": "pydocs"}}}, "pattern"),
    ],
)
def test_mistakes_in_a_suite_are_named(place: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        Suite.from_mapping({**values(place), **change})


def test_unknown_names_list_the_known_ones(place: Path, ran: Path) -> None:
    suite = Suite.from_mapping(values(place))
    with pytest.raises(UnknownNameError, match="bm25"):
        run_suite(suite, output=ran, systems=["bm52"])
    with pytest.raises(UnknownNameError, match="one"):
        run_suite(suite, output=ran, collections=["won"])
    with pytest.raises(UnknownNameError, match="mini"):
        read_suite("mimi")


def test_the_suites_of_this_project_are_valid() -> None:
    found = list_suites()
    assert {"mini", "small"} <= set(found)
    for name, described in found.items():
        assert described.endswith(".")
        suite = read_suite(name)
        for system, config in suite.systems.items():
            assert config.about, f"{name}: {system}"
            if config.recipe is not None:
                recipe = suite.recipe(system, 3)
                assert recipe.train.seed == 3
                assert set(recipe.data.sources) == set(suite.training["data"]["sources"])


def test_the_command(place: Path, again: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    published = [str(again), "--publish", "published", "--rankings", "one", "--markdown", "report.md"]
    result = CliRunner().invoke(app, ["evaluate", "--suite", *published], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Which one for which job" in result.stdout
    assert (tmp_path / "report.md").read_text().startswith("# Comparison")
    (tmp_path / "tiny.yaml").write_text(json.dumps(values(place)))
    arguments = ["evaluate", "--suite", "tiny.yaml", "--output", str(again), "--check", "published", "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["baseline"] == "trunk"
    (tmp_path / "mini").mkdir()  # a name is the suite's, also where a folder has it
    result = CliRunner().invoke(app, ["evaluate", "--suite", "mini", "--baseline", "x"])
    assert "a suite names its own" in str(result.exception)
    drifting = [*arguments[:3], "systems.bm25={bm25: {b: 1.0, k1: 0.0}}", *arguments[3:-1]]
    result = CliRunner().invoke(app, drifting, catch_exceptions=False)
    assert result.exit_code == 1
    assert "DRIFTED: bm25 on one" in result.stderr


def test_the_suite_of_the_guide_is_one(tmp_path: Path) -> None:
    guide = (Path(__file__).parent.parent.parent / "docs" / "suites.md").read_text()
    [block] = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "my.yaml").write_text(block)
    suite = read_suite(tmp_path / "my.yaml")
    assert suite.name == "my"
    assert {system.kind for system in suite.systems.values()} == {"bm25", "model", "recipe", "run", "fusion", "plan"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system": "../../outside"}, "system"),
        ({"collection": "a/b"}, "collection"),
        ({"queries": ["a", "a"], "values": {}, "rankings": None, "scores": None}, "twice"),
        ({"values": {"nDCG@10": [float("inf")]}}, "finite"),
    ],
)
def test_results_that_cannot_be_are_refused(ran: Path, change: dict[str, Any], said: str) -> None:
    given = read_result(ran / "results" / "one" / "bm25.json.gz").model_dump(mode="json")
    with pytest.raises(DataError, match=said):
        SuiteResult.from_mapping({**given, **change}, source="x", error=DataError)


def test_a_result_under_another_name_does_not_count_twice(again: Path) -> None:
    folder = again / "results" / "one"
    shutil.copy(folder / "trunk.json.gz", folder / "bm25.json.gz")
    with pytest.raises(DataError, match=r"is the result one/trunk\.json\.gz"):
        read_table(again)


def test_results_of_other_queries_are_no_column(ran: Path) -> None:
    results = read_results(ran)
    changed = results[0].model_copy(update={"queries": tuple(f"x{name}" for name in results[0].queries)})
    with pytest.raises(InputError, match="other queries"):
        suite_table([changed, *results[1:]], baseline="trunk")
    assert all(one.drifted for one in drifts([changed], results))


def test_pictures_of_measures_of_any_size(make_evaluation: Any) -> None:
    results = [
        _result(make_evaluation(name, [value, value]), "one", search_ms=(1.0, 2.0))
        for name, value in (("base", 3.0), ("other", 98_765.0))
    ]
    assert "<svg" in suite_table(results, baseline="base").to_html()


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        ({"both": {"fusion": {"of": ["both", "bm25"]}}}, "both needs both"),
        ({"both": {"fusion": {"of": ["bm25", "bm25"]}}}, "named twice"),
        ({"net.0": {"bm25": {}}}, "share the files of net"),
    ],
)
def test_systems_that_cannot_be_together(place: Path, systems: dict[str, Any], said: str) -> None:
    given = values(place)
    with pytest.raises(ConfigError, match=said):
        Suite.from_mapping({**given, "systems": {**given["systems"], **systems}})

"""The table of task cards: which queries are measured, what each row is, resuming, comparisons; a card per query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hyperseek._fingerprint import fingerprint_json
from hyperseek._relevance import text_key
from hyperseek.cards import GENERIC, Card
from hyperseek.cli import app
from hyperseek.data import Dataset, open_dataset, write_beir
from hyperseek.errors import ConfigError, InputError, UnknownNameError
from hyperseek.evaluation import (
    CardStudy,
    calculate,
    card_rows,
    evaluate_cards,
    p_mrr,
    p_mrr_per_query,
    rank_bm25,
    rank_index,
)
from hyperseek.evaluation import _cards as cards_module
from hyperseek.evaluation._card_rows import Session
from hyperseek.index import Index
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.plan import Exhaustive, Feedback
from hyperseek.types import Document, Query

TASKS = {
    "nature": ["cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf", "river", "stone"],
    "code": [
        "python",
        "module",
        "function",
        "class",
        "string",
        "list",
        "number",
        "file",
        "path",
        "error",
        "key",
        "date",
    ],
}
EXPONENTIAL = "nDCG(dcg='exp-log2')@10"


def make(trunk: str, family: str, **section: Any) -> Retriever:
    values = {"trunk": trunk, "family": family, "pooling": "mean", "normalize": True, **section}
    return build(ModelConfig.from_mapping(values), device="cpu")


def shaken(trunk: str, seed: int) -> Retriever:
    """A card model whose head changes vectors, as a trained one does."""
    model = make(trunk, "card", card={"width": 16, "rank": 4})
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.route("query")[-1].parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def study(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two tasks with an index each, a model with cards, and one that was trained without the first task."""
    folder = tmp_path_factory.mktemp("card-study")
    plain = make(tiny_encoder, "dense")
    plain.save(folder / "plain")
    plain = load(folder / "plain", device="cpu")
    for name, seed in (("trained", 1), ("without", 2)):
        shaken(tiny_encoder, seed).save(folder / name)
    tasks = {}
    for name, words in TASKS.items():
        place = folder / name
        (place / "qrels").mkdir(parents=True)
        rng = np.random.default_rng(len(name))
        documents = [{"_id": f"d{n}", "title": "", "text": f"the {word} and the {rng.choice(words)}"}
                     for n, word in enumerate(words)]  # fmt: skip
        queries = [{"_id": f"q{n}", "text": f"what is {word} {rng.choice(words)}"} for n, word in enumerate(words)]
        queries.append({"_id": "q-again", "text": queries[0]["text"].upper()})
        rows = [f"q{n}\td{n}\t{1 + n % 3}" for n in range(len(words))] + [f"q{n}\td{(n + 5) % 12}\t1" for n in range(4)]
        rows.append("q-again\td0\t1")
        (place / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
        (place / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
        (place / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows) + "\n")
        Index.build(folder / f"{name}.index", open_dataset(place).documents(), plain)
        Card(name=name, description=f"documents about {name}", query_examples=("leak",)).write(folder / f"{name}.yaml")
        tasks[name] = {key: str(folder / part) for key, part in
                       (("index", f"{name}.index"), ("dataset", name), ("card", f"{name}.yaml"))}  # fmt: skip
    tasks["nature"]["left_out"] = str(folder / "without")
    return {"tasks": tasks, "model": str(folder / "trained"), "pairs": [2, 4, 50], "seeds": 2}


@pytest.fixture(scope="module")
def sessions(study: dict[str, Any]) -> dict[str, Session]:
    asked = CardStudy.from_mapping(study)
    made = {name: Session(name, task, asked, ("nDCG@10",)) for name, task in asked.tasks.items()}
    for session in made.values():
        session.others = [other for other in made.values() if other is not session]
    return made


@pytest.fixture(scope="module")
def table(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    output = tmp_path_factory.mktemp("card-table")
    return evaluate_cards(study, output=output), output


def test_pairs_and_measured_queries_share_no_text(sessions: dict[str, Session]) -> None:
    session = sessions["nature"]
    measured, pool = ({text_key(query.text) for query in part} for part in (session.queries, session.pool))
    assert not measured & pool
    assert len(session.queries) + len(session.pool) == 13
    pairs = session.drawn(4, 0)
    assert pairs == session.drawn(50, 0)[:4] != session.drawn(4, 1)
    assert len({pair.query.id for pair in session.drawn(len(session.pool), 0)}) == len(session.pool)
    assert all(session.dataset.qrels("test")[pair.query.id][pair.document] == pair.grade for pair in pairs)


def test_a_split_of_pairs_loses_the_queries_that_are_measured(study: dict[str, Any]) -> None:
    task = {**study["tasks"]["code"], "pairs": "test"}
    asked = CardStudy.from_mapping({**study, "tasks": {"code": task}})
    session = Session("code", asked.tasks["code"], asked, ("nDCG@10",))
    assert len(session.queries) == 13
    assert session.pool == []


def test_the_rows_are_what_their_names_say(table: tuple[Any, Path], sessions: dict[str, Session]) -> None:
    found, _ = table
    session = sessions["nature"]

    def mean(run: Any) -> float:
        return float(np.mean(list(calculate(run, session.qrels, "nDCG@10")["nDCG@10"].values())))

    index, queries = session.index, session.queries
    frozen = mean(index.run(queries, k=10))
    expected = {
        "frozen": frozen,
        "feedback": mean(index.run(queries, k=10, plan=Exhaustive() >> Feedback())),
        "description + query": mean(index.run({q.id: f"documents about nature {q.text}" for q in queries}, k=10)),
    }
    for row, value in expected.items():
        assert found.result(row).means["nature"]["nDCG@10"] == pytest.approx(value, abs=1e-9)
    bm25 = rank_bm25(session.dataset, k=10).run
    assert found.result("BM25").means["nature"]["nDCG@10"] == pytest.approx(mean(bm25))
    model = load(str(session.study.model), device="cpu")
    opened = Index.open(index.path, model=model)
    for row, card in (
        ("card", Card(name="any", description="documents about nature")),
        ("generic card", Card(name="any", description=GENERIC)),
    ):
        value = mean(opened.run(queries, k=10, options={"card": card.to_json_text()}))
        assert found.result(row, regime="trained").means["nature"]["nDCG@10"] == pytest.approx(value)
    with_pairs = [
        mean(opened.run(queries, k=10, options={"card": session.with_pairs(session.drawn(4, seed)).to_json_text()}))
        for seed in range(2)
    ]
    result = found.result("card with pairs", pairs=4, regime="trained")
    assert result.means["nature"]["nDCG@10"] == pytest.approx(np.mean(with_pairs))
    assert result.seconds > 0


def test_every_row_is_there_or_said_to_be_missing(table: tuple[Any, Path]) -> None:
    found, _ = table
    assert {result.row for result in found.results} == set(card_rows()) - {"lora"}
    assert "slow" in found.left_out["lora"]
    assert "judged pairs" in found.left_out["card with pairs with 50 pairs (nature)"]
    assert set(found.result("card", regime="left out").means) == {"nature"}
    assert {result.regime for result in found.results if "card" not in result.row and result.row != "random text"} == {
        ""
    }
    assert found.measures == ("nDCG@10", EXPONENTIAL)
    assert any(result.mean("nDCG@10") != result.mean(EXPONENTIAL) for result in found.results)


def test_comparisons_are_paired_over_all_queries(table: tuple[Any, Path]) -> None:
    found, _ = table
    one = found.contrast("card (trained)", "frozen")
    assert one.queries == sum(found.tasks.values())
    means = [found.result("card", regime="trained").means, found.result("frozen").means]
    for task, count in found.tasks.items():
        assert one.by_task[task] == pytest.approx(means[0][task]["nDCG@10"] - means[1][task]["nDCG@10"])
        assert count > 4
    weighted = sum(one.by_task[task] * count for task, count in found.tasks.items()) / one.queries
    assert one.difference == pytest.approx(weighted)
    assert one.interval[0] <= one.difference <= one.interval[1]
    assert one.p_value <= one.p_corrected
    assert found.contrast("card with pairs (4 pairs, trained)", "another task's card (4 pairs, trained)")
    assert found.contrast("card (left out)", "generic card (left out)").queries == found.tasks["nature"]
    with pytest.raises(UnknownNameError):
        found.contrast("card (trained)", "generic card (left out)")


def test_an_interrupted_table_goes_on(
    table: tuple[Any, Path], study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, output = table
    assert (output / "cards.md").read_text() == found.to_markdown()
    study = {**study, "rows": ["feedback", "card with pairs", "generic card"]}
    ranked: list[str] = []
    real = calculate
    stop_after = 7

    def counted(*arguments: Any) -> Any:
        if len(ranked) == stop_after:
            raise KeyboardInterrupt
        ranked.append("one")
        return real(*arguments)

    monkeypatch.setattr(cards_module, "calculate", counted)
    with pytest.raises(KeyboardInterrupt, match=r"7 of .* rankings are measured; they are in"):
        evaluate_cards(study, output=tmp_path)
    stop_after = -1
    again = evaluate_cards(study, output=tmp_path)
    total = len(ranked)
    for result in again.results:
        assert result.means == found.result(result.row, pairs=result.pairs, regime=result.regime).means
    evaluate_cards(study, output=tmp_path)
    assert len(ranked) == total
    changed = {**study, "tasks": {**study["tasks"], "code": {**study["tasks"]["code"], "exclude_same_id": True}}}
    evaluate_cards({**changed, "rows": ["feedback"]}, output=tmp_path)
    assert len(ranked) == total + 2  # the changed task is measured again


def test_without_a_model_and_with_one_task(study: dict[str, Any]) -> None:
    lonely = {"tasks": {"code": study["tasks"]["code"]}, "pairs": [2], "seeds": 1}
    found = evaluate_cards({**lonely, "rows": ["card", "Rocchio", "lora"]})
    assert [result.label for result in found.results] == ["frozen", "Rocchio (2 pairs)", "lora (2 pairs)"]
    assert found.left_out == {"card (code)": "no model with cards was given (model)"}
    found = evaluate_cards({**lonely, "model": study["model"], "rows": ["another task's card", "random text"]})
    assert found.left_out == {"another task's card (code)": "there is one task only"}


def test_mistakes(study: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'generic card'"):
        evaluate_cards({**study, "rows": ["generic cart"]})
    with pytest.raises(ConfigError, match="tasks"):
        evaluate_cards({"model": "x"})
    with pytest.raises(ConfigError, match="sea/shore"):
        evaluate_cards({**study, "tasks": {"sea/shore": study["tasks"]["code"]}})


@pytest.fixture
def instructed(study: dict[str, Any]) -> tuple[Index, Dataset]:
    """Queries with two narratives each: the second leaves one document less relevant."""
    model = load(study["model"], device="cpu")
    documents = [Document(f"d{n}", f"the {word} in the {other}") for n, (word, other) in
                 enumerate(zip(TASKS["nature"], TASKS["code"], strict=True))]  # fmt: skip
    queries = [
        Query(
            f"q{n}", f"what is {word}", {"narrative": f"documents about the {word}", "changed": f"no {word}, but sea"}
        )
        for n, word in enumerate(TASKS["nature"][:4])
    ]
    qrels = {f"q{n}": {f"d{n}": 1, f"d{n + 1}": 1} for n in range(4)}
    changed = {f"q{n}": {f"d{n}": 1, f"d{n + 1}": 0} for n in range(4)}
    dataset = Dataset.from_records("told", documents, queries=queries, qrels={"test": qrels, "changed": changed})
    index = Index.build(Path(study["model"]).parent / "told.index", dataset.documents(), model)
    return index, dataset


def test_each_query_of_a_run_has_a_card_of_its_own(instructed: tuple[Index, Dataset]) -> None:
    index, dataset = instructed
    ranking = rank_index(index, dataset, k=12, card_field="narrative")
    assert ranking.protocol.options is not None
    assert ranking.protocol.options["card_field"] == "narrative"
    for query in dataset.queries("test"):
        card = Card(name="narrative", description=query.metadata["narrative"])
        alone = index.run([query], k=12, options={"card": card})[query.id]
        assert list(alone) == list(ranking.run[query.id])
        np.testing.assert_allclose(list(alone.values()), list(ranking.run[query.id].values()), atol=1e-5)
    changed = rank_index(index, dataset, k=12, card_field="changed")
    moved = p_mrr_per_query(ranking.run, changed.run, dataset.qrels("test"), dataset.qrels("changed"))
    assert set(moved) == {"q0", "q1", "q2", "q3"}
    assert p_mrr(moved) != 0
    assert p_mrr(p_mrr_per_query(ranking.run, ranking.run, dataset.qrels("test"), dataset.qrels("changed"))) == 0
    assert fingerprint_json(ranking.protocol.model_dump(mode="json")) != fingerprint_json(
        changed.protocol.model_dump(mode="json")
    )


def test_a_query_without_a_narrative(instructed: tuple[Index, Dataset], study: dict[str, Any]) -> None:
    index, dataset = instructed
    with pytest.raises(InputError, match=r"query 'q0' has no text in the field 'instruction'.*narrative"):
        rank_index(index, dataset, card_field="instruction")
    told = Dataset.from_records(
        "long", [Document("d0", "sea")], queries=[Query("q0", "sea", {"narrative": "not the sea " * 1000})],
        qrels={"test": {"q0": {"d0": 1}}},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"(?s)card of query 'q0', from its 'narrative'.*at most 10000 characters"):
        rank_index(index, told, card_field="narrative")
    plain = Index.open(study["tasks"]["code"]["index"])
    with pytest.raises(UnknownNameError, match="card"):
        rank_index(Index.open(index.path, model=plain.model), dataset, card_field="narrative")


def test_the_command(study: dict[str, Any], instructed: tuple[Index, Dataset], tmp_path: Path) -> None:
    asked = {**study, "rows": ["card", "random text"], "pairs": [2]}
    (tmp_path / "study.yaml").write_text(json.dumps(asked))
    result = CliRunner().invoke(
        app, ["evaluate", "--cards", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out"), "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "out/cards.json").read_text())
    assert {row["row"] for row in found["results"]} == {"frozen", "card", "random text"}
    assert "nDCG@10, 2 tasks" in result.stderr
    for more in (["--bm25"], ["--split", "dev"], ["-k", "3"], ["--confidence", "0.9"]):
        refused = CliRunner().invoke(app, ["evaluate", *more, "--cards", str(tmp_path / "study.yaml")])
        assert refused.exit_code == 2
        assert f"No such option: {more[0]}" in refused.output
    missing = CliRunner().invoke(app, ["evaluate", f"--cards={tmp_path}/none.yaml"])
    assert "no such file" in str(missing.exception)
    index, dataset = instructed
    write_beir(dataset, tmp_path / "told")
    result = CliRunner().invoke(
        app, ["evaluate", str(index.path), str(tmp_path / "told"), "--card-field", "narrative", "-m", "RR@10", "--json"]
    )
    assert result.exit_code == 0, result.output
    evaluation = json.loads(result.stdout)["evaluations"][0]
    expected = rank_index(index, dataset, k=10, card_field="narrative").evaluate(
        dataset.qrels("test"), measures="RR@10"
    )
    assert evaluation["aggregate"]["RR@10"] == pytest.approx(expected.aggregate["RR@10"])

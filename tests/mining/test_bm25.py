from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest

from hyperseek._order import best_places
from hyperseek.errors import ConfigError, InputError, UnknownNameError
from hyperseek.evaluation import aggregate, calculate
from hyperseek.mining import BM25, BM25Settings
from hyperseek.types import Document, Query

TEXTS = {
    "a": "the cat sat on the mat",
    "b": "cats and dogs",
    "c": "dogs dogs dogs bark",
    "d": "nothing of the kind here",
    "e": "a cat, a dog and a bird",
}
DOCUMENTS = [Document(name, text) for name, text in TEXTS.items()]


def test_scores_equal_lucenes_formula():
    plain = BM25Settings(stemmer=None, stop_words=None, k1=1.2, b=0.7)
    found = BM25(DOCUMENTS, settings=plain).run({"q": "dogs bark"})["q"]
    terms = {
        name: [word.strip(",") for word in text.split() if len(word.strip(",")) > 1] for name, text in TEXTS.items()
    }
    mean = sum(map(len, terms.values())) / len(terms)
    expected = {}
    for name, words in terms.items():
        for term in ("dogs", "bark"):
            holding = sum(term in other for other in terms.values())
            count = words.count(term)
            if count:
                idf = math.log(1 + (len(terms) - holding + 0.5) / (holding + 0.5))
                weight = count / (count + 1.2 * (1 - 0.7 + 0.7 * len(words) / mean))
                expected[name] = expected.get(name, 0) + idf * weight
    assert found == {name: pytest.approx(score, rel=1e-5) for name, score in expected.items()}
    assert list(found) == sorted(expected, key=expected.__getitem__, reverse=True)


@pytest.mark.parametrize(
    ("variant", "idf"),
    [
        ("lucene", lambda total, holding: math.log(1 + (total - holding + 0.5) / (holding + 0.5))),
        ("robertson", lambda total, holding: math.log(max((total - holding + 0.5) / (holding + 0.5), 1))),
        ("atire", lambda total, holding: math.log(total / holding)),
    ],
)
def test_query_terms_are_weighted_as_those_of_a_document(variant, idf):
    plain = BM25Settings(stemmer=None, stop_words=None, k1=1.2, b=0.7, variant=variant)
    counted, weighted = (
        BM25(DOCUMENTS, settings=plain.model_copy(update={"query_weights": how})) for how in ("count", "bm25")
    )
    query = "dogs bark the the the unheard"
    terms = {
        name: [word.strip(",") for word in text.split() if len(word.strip(",")) > 1] for name, text in TEXTS.items()
    }
    mean = sum(map(len, terms.values())) / len(terms)
    expected: dict[str, float] = {}
    for term, count in {"dogs": 1, "bark": 1, "the": 3}.items():
        holding = sum(term in other for other in terms.values())
        weight = idf(len(terms), holding) * count * 2.2 / (count + 1.2 * (1 - 0.7 + 0.7 * 5 / mean))
        for name, score in counted.run({"q": term})["q"].items():
            expected[name] = expected.get(name, 0) + weight * score
    found = weighted.run({"q": query})["q"]
    assert found == {name: pytest.approx(score, rel=1e-5) for name, score in expected.items()}
    assert found != counted.run({"q": query})["q"]


def test_weighted_queries_break_ties_by_single_letters_and_may_find_nothing():
    index = BM25(
        [Document("v", "vitamins of fish"), Document("c", "vitamin C of fish")],
        settings=BM25Settings(query_weights="bm25"),
    )
    run = index.run({"q": "vitamin c", "r": "c", "s": "unheard"})
    assert {query: list(ranking) for query, ranking in run.items()} == {"q": ["c", "v"], "r": ["c"], "s": []}


def test_stems_and_stop_words():
    index = BM25(DOCUMENTS)
    assert set(index.run({"q": "the cats"})["q"]) == {"a", "b", "e"}
    assert index.run({"q": "of the", "r": "unheard words"}) == {"q": {}, "r": {}}
    assert set(index.run({"q": "dogged"})["q"]) == {"b", "c", "e"}  # a form that the corpus lacks
    whole = BM25(DOCUMENTS, settings=BM25Settings(stemmer=None))
    assert set(whole.run({"q": "cats"})["q"]) == {"b"}
    assert len(index) == 5


def test_documents_are_streamed_once_and_queries_may_be_records():
    run = BM25(document for document in DOCUMENTS).run([Query("q", "bark"), Query("r", "bird")], k=1)
    assert {query: list(ranking) for query, ranking in run.items()} == {"q": ["c"], "r": ["e"]}


def test_own_document_is_left_out_on_request():
    assert set(BM25(DOCUMENTS).run({"c": "dogs"})["c"]) == {"b", "c", "e"}
    assert set(BM25(DOCUMENTS).run({"c": "dogs"}, k=2, exclude_same_id=True)["c"]) == {"b", "e"}


def test_ties_keep_the_corpus_order_at_any_k():
    same = [Document(name, "one same text") for name in "zyxwvu"]
    for k in range(1, 8):
        assert list(BM25(same).run({"q": "same"}, k=k)["q"]) == list("zyxwvu")[:k]


def test_best_equals_a_full_sort():
    scores = np.random.default_rng(0).integers(0, 6, 200).astype(np.float32)
    full = sorted(range(200), key=lambda place: (-scores[place], place))
    for k in (1, 5, 50, 199, 500):
        assert best_places(scores, k).tolist() == full[:k]


def test_nothing_is_logged(caplog):
    with caplog.at_level("DEBUG"):
        BM25(DOCUMENTS).run({"q": "dogs"})
    assert caplog.text == ""


def test_wrong_arguments():
    with pytest.raises(InputError, match="no term in the 0 given documents"):
        BM25([])
    with pytest.raises(InputError, match="no term in the 1 given documents"):
        BM25([Document("a", "the of")])
    with pytest.raises(InputError, match="k must be at least 1"):
        BM25(DOCUMENTS).run({"q": "cat"}, k=0)
    with pytest.raises(UnknownNameError, match="did you mean 'english'"):
        BM25(DOCUMENTS, settings=BM25Settings(stemmer="englisch"))
    with pytest.raises(InputError, match="stop_words='klingon'"):
        BM25(DOCUMENTS, settings=BM25Settings(stop_words="klingon"))
    with pytest.raises(ConfigError, match="did you mean 'k1'"):
        BM25Settings.from_mapping({"k2": 1})


def measured(folder, split: str, names: str) -> dict[str, float]:
    with gzip.open(folder / "corpus.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    documents = (Document(row["_id"], row["text"], row.get("title", "")) for row in rows)
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / f"qrels/{split}.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    rows = map(json.loads, (folder / "queries.jsonl").read_text().splitlines())
    queries = {row["_id"]: row["text"] for row in rows if row["_id"] in qrels}
    return aggregate(calculate(BM25(documents).run(queries), qrels, names))


@pytest.mark.slow
def test_scifact(collections):
    values = measured(collections / "scifact", "test", "nDCG@10 R@100")
    assert values == {"nDCG@10": pytest.approx(0.676, abs=5e-4), "R@100": pytest.approx(0.913, abs=5e-4)}


def test_cranfield(collections):
    values = measured(collections / "cranfield", "test", "nDCG@10 R@100")
    assert values == {"nDCG@10": pytest.approx(0.343, abs=5e-4), "R@100": pytest.approx(0.722, abs=5e-4)}

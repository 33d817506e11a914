from __future__ import annotations

import gzip
import random
import re

import pytest

from hyperseek.data import Dataset, open_dataset
from hyperseek.errors import DataError, InputError, UnknownNameError
from hyperseek.evaluation import (
    PerturbedQueries,
    measure_robustness,
    perturb,
    perturbed_dataset,
    rank_bm25,
    register_perturbation,
)
from hyperseek.evaluation._perturbations import PERTURBATIONS
from hyperseek.types import Document, Query

TEXTS = [
    "What is the boundary layer of a wing?",
    "heat transfer",
    "Überschallströmung am Flügel",
    "क्या मौसम अच्छा है",
    "翼",
    "42",
]
QUERIES = [Query(f"q{place}", text, {"year": 1}) for place, text in enumerate(TEXTS)]


def texts(kind: str, **given) -> list[str]:
    found = perturb(QUERIES, kind, **given)
    assert [(query.id, query.metadata) for query in found] == [(query.id, query.metadata) for query in QUERIES]
    return [query.text for query in found]


def edits(old: str, new: str) -> int:
    """Count edits by Levenshtein, of which swapped neighbours take two."""
    row = list(range(len(new) + 1))
    for i, a in enumerate(old, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(new, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@pytest.mark.parametrize(("kind", "longer", "distance"), [
    ("typo-insert", 1, 1), ("typo-delete", -1, 1), ("typo-substitute", 0, 1), ("typo-swap", 0, 2),
    ("typo-qwerty", 0, 1),
])  # fmt: skip
def test_each_typo_is_one_edit_of_one_word(kind, longer, distance):
    for seed in range(20):
        for old, new in zip(TEXTS[:3], texts(kind, seed=seed)[:3], strict=True):
            assert (len(new) - len(old), edits(old, new)) == (longer, distance), (old, new)
            changed = [a for a, b in zip(old.split(), new.split(), strict=True) if a != b]
            assert len(changed) == 1
            assert len(re.sub(r"\W", "", changed[0])) >= 4, "short words are left alone beside longer ones"


def test_typos_keep_case_scripts_and_keys():
    for seed in range(30):
        swapped = texts("typo-substitute", seed=seed)
        assert swapped[3].isascii() is False  # letters of the query's own script
        assert not re.search("[a-z]", swapped[3])
        assert swapped[5] == "42"  # no letters
        near = texts("typo-qwerty", seed=seed)[1]
        old, new = next((a, b) for a, b in zip("heat transfer", near, strict=True) if a != b)
        rows = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
        (r1, p1), (r2, p2) = ((r, row.index(c)) for c in (old, new) for r, row in enumerate(rows) if c in row)
        assert abs(r1 - r2) <= 1
        assert abs((p1 + r1 / 2) - (p2 + r2 / 2)) <= 1


def test_the_same_seed_gives_the_same_queries_in_any_company():
    assert texts("typos", seed=3) == texts("typos", seed=3) != texts("typos", seed=4)
    alone = perturb([QUERIES[2]], "typos", seed=3)[0].text
    assert alone == texts("typos", seed=3)[2]
    assert edits(TEXTS[0], texts("typos:3", seed=1)[0]) >= 3


def test_orders_keep_the_words():
    for kind in ("order", "word-swap"):
        found = texts(kind)
        assert [sorted(text.split()) for text in found] == [sorted(text.split()) for text in TEXTS]
        assert found[0] != TEXTS[0]
        assert found[1] == "transfer heat"
        assert found[4] == "翼"
    moved = [a != b for a, b in zip(TEXTS[0].split(), texts("word-swap")[0].split(), strict=True)]
    assert sum(moved) == 2


def test_keywords_drop_stop_words_of_a_language():
    assert texts("keywords")[0] == "What boundary layer wing?"
    assert perturb([Query("q", "Was ist der Flügel?")], "keywords:de")[0].text == "Flügel?"
    assert perturb([Query("q", "to be or not")], "keywords")[0].text.strip()
    with pytest.raises(InputError, match="stop_words='xx'"):
        perturb(QUERIES, "keywords:xx")


def test_synonyms_and_paraphrases_come_from_files(tmp_path):
    (tmp_path / "words.tsv").write_text("boundary layer\tskin\nHEAT\twarmth\tHeat\n")
    assert texts(f"synonyms:{tmp_path / 'words.tsv'}")[:2] == ["What is the skin of a wing?", "warmth transfer"]
    with gzip.open(tmp_path / "others.jsonl.gz", "wt") as file:
        file.write('{"_id": "q1", "text": "how warmth moves"}\n')
    assert texts(f"paraphrases:{tmp_path / 'others.jsonl.gz'}")[:2] == [TEXTS[0], "how warmth moves"]
    (tmp_path / "none.tsv").write_text("heat\n")
    with pytest.raises(DataError, match="has no synonyms; write a word"):
        perturb(QUERIES, f"synonyms:{tmp_path / 'none.tsv'}")


@pytest.mark.parametrize(("kind", "message"), [
    ("typo", "did you mean 'typos'"), ("typos:0", "as in typos:2"), ("order:3", "takes nothing"),
    ("synonyms", "synonyms:FILE"), ("paraphrases:", "paraphrases:FILE"),
])  # fmt: skip
def test_mistakes_are_found_without_queries(kind, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        perturb((), kind)


def test_a_registered_perturbation():
    @register_perturbation("shout")
    def shout(argument):
        return lambda query, draw: query.text.upper() if argument is None else 7

    try:
        assert perturb(QUERIES[1:2], "shout")[0].text == "HEAT TRANSFER"
        with pytest.raises(InputError, match="must return a text, not int"):
            perturb(QUERIES, "shout:x")
    finally:
        PERTURBATIONS.unregister("shout")


def test_a_perturbed_dataset_has_the_same_documents_and_judgements():
    dataset = Dataset.from_records(
        "toys", [Document("d1", "cat")], queries=[Query("q1", "the cat sat"), Query("q2", "42")],
        qrels={"test": {"q1": {"d1": 1}, "q2": {"d1": 1}}},
    )  # fmt: skip
    changed, done = perturbed_dataset(dataset, "order")
    assert (done.queries, done.changed) == (2, 1)
    assert done.examples[0][0] == "the cat sat"
    assert [query.text for query in changed.queries("test")][1] == "42"
    assert changed.qrels("test") == dataset.qrels("test")
    assert [document.id for document in changed.documents()] == ["d1"]
    numbers = Dataset.from_records(
        "numbers",
        [Document("d1", "x")],
        queries=[Query("q1", "1"), Query("q2", "2")],
        qrels={"test": dataset.qrels("test")},
    )
    with pytest.raises(InputError, match="changes none of the 2 queries of numbers"):
        perturbed_dataset(numbers, "typos")


def test_drops_are_relative_and_paired(make_evaluation):
    draw = random.Random(0)
    values = [draw.random() for _ in range(40)]
    steady, weak = make_evaluation("steady", values), make_evaluation("weak", values)
    after = [make_evaluation("steady", values), make_evaluation("weak", [value / 2 for value in values])]
    done = {"typos": PerturbedQueries(queries=40, changed=40, examples=(("a", "b"),))}
    robust = measure_robustness([steady, weak], {"typos": after}, done, resamples=500)
    first, second = robust.drops
    assert (first.drop, first.p_values["permutation"], first.more) == (0.0, 1.0, None)
    assert second.drop == pytest.approx(0.5)
    assert second.interval == pytest.approx((0.5, 0.5))  # every query loses half
    assert second.p_values["permutation"] < 0.01
    assert second.more == pytest.approx(0.5)
    shown = robust._repr_html_()
    assert "50.0 %" in shown
    assert "typos: 40 of 40 queries changed" in shown
    assert set(robust.to_pandas()["system"]) == {"steady", "weak"}
    with pytest.raises(InputError, match=r"are of \['steady'\]"):
        measure_robustness([steady, weak], {"typos": after[:1]}, done)
    nothing = make_evaluation("none", [0.0] * 40)
    only = measure_robustness([nothing], {"typos": [nothing]}, done, resamples=50).drops[0]
    assert (only.drop, only.interval) == (None, None)


def test_bm25_loses_by_typos_and_nothing_by_order(collections):
    dataset = open_dataset(collections / "cranfield")
    qrels = dataset.qrels("test")
    found, done = {}, {}
    for kind in ("typos", "order"):
        changed, done[kind] = perturbed_dataset(dataset, kind)
        found[kind] = [rank_bm25(changed, k=10).evaluate(qrels, measures="nDCG@10")]
    robust = measure_robustness(
        [rank_bm25(dataset, k=10).evaluate(qrels, measures="nDCG@10")], found, done, resamples=200
    )
    typos, order = robust.drops
    assert typos.drop is not None
    assert typos.drop > 0.05
    assert typos.p_values["permutation"] < 0.01
    assert order.drop == pytest.approx(0, abs=1e-9)  # words are all that BM25 reads


def test_two_words_of_a_long_query_are_swapped_without_making_all_pairs():
    text = " ".join(f"w{number}" for number in range(30_000))
    (swapped,) = perturb([Query("q", text)], "word-swap")
    assert sum(a != b for a, b in zip(text.split(), swapped.text.split(), strict=True)) == 2
    assert perturb([Query("q", "same same")], "word-swap")[0].text == "same same"

"""Mining and filtering, with scores that can be read off the texts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mining_fakes import ReadableRetriever, ReadableTeacher, documents, example

from hyperseek.data import open_dataset, prepare, read_examples, write_examples
from hyperseek.errors import ConfigError, DataError, InputError, UnknownNameError
from hyperseek.index import Index
from hyperseek.mining import ConsistencyOptions, MiningOptions, RefineOptions, TeacherOptions, refine
from hyperseek.mining._negatives import score_bound

TEXTS = {
    "p": "0.8@0 the answer",
    "a": "0.9@0 better than the answer",
    "b": "0.77@0 nearly as good",
    "c": "0.7@0 wrong",
    "d": "0.5@0 more wrong",
    "e": "0.1@0 unrelated",
    "f": "0.05@0 more unrelated",
}


def build(folder, texts=TEXTS, name="c", model=None):
    return Index.build(folder, documents(texts), model or ReadableRetriever(), name=name)


def mined(tmp_path, examples, *, texts=TEXTS, mine=None, teacher=None, judged=None, **options):
    """Refine examples with an index of some texts; returns the report and the negatives' ids by query."""
    write_examples(examples, tmp_path / "plain", overwrite=True)
    if mine is None and set(options) - {"teacher"}:
        mine = build(tmp_path / "index", texts)
    info = refine(
        tmp_path / "plain", tmp_path / "out", mine=mine, teacher=teacher, judged=judged, overwrite=True,
        options=RefineOptions(**options),
    )  # fmt: skip
    found = {
        one.query.id.partition("/")[2]: [item.id.partition("/")[2] for item in one.negatives]
        for one in read_examples(tmp_path / "out")
    }
    return info, found


def counts(info):
    return info.refined[-1].dropped["counts"]


def test_what_scores_near_the_positive_is_no_negative(tmp_path):
    one = example("about 0", {"p": TEXTS["p"]})
    info, found = mined(tmp_path, [one], mining=MiningOptions(negatives=3))
    assert found == {"q": ["c", "d", "e"]}
    assert counts(info) == {"relevant_document": 1, "above_margin": 2}
    assert (info.negatives, info.refined[-1].mined, info.refined[-1].short) == (3, 3, 0)
    assert "c/a scores 0.9, the limit is 0.76" in info.refined[-1].dropped["examples"]["above_margin"][0]
    (result,) = read_examples(tmp_path / "out")
    assert [item.text for item in result.negatives] == [TEXTS["c"], TEXTS["d"], TEXTS["e"]]
    assert all(item.score is None and item.grade is None for item in result.negatives)


@pytest.mark.parametrize(
    ("options", "expected", "reasons"),
    [
        ({"margin": None}, "ab", {}),
        ({"margin": None, "skip_top": 3}, "de", {"skipped_top": 3}),
        ({"margin": 1.0}, "bc", {"above_margin": 1}),
        ({"margin": None, "max_score": 0.6}, "de", {"above_maximum": 3}),
        ({"margin": None, "skip_top": 2, "min_score": 0.6}, "c", {"skipped_top": 2, "below_minimum": 3}),
        ({"margin": None, "depth": 1}, "a", {}),
        ({"margin": 0.95, "depth": 2}, "", {"above_margin": 2}),
        ({"skip_top": 1, "depth": 2}, "c", {"skipped_top": 1, "above_margin": 1}),
    ],
)
def test_limits(tmp_path, options, expected, reasons):
    one = example("about 0", {"p": TEXTS["p"]})
    info, found = mined(tmp_path, [one], mining=MiningOptions(**({"negatives": 2} | options)))
    assert found == {"q": list(expected)}
    assert counts(info) == {"relevant_document": 1} | reasons
    assert info.refined[-1].short == (len(expected) < 2)


def test_margins_hold_for_scores_of_either_sign(tmp_path):
    assert score_bound([0.8, 2.0], 0.95) == pytest.approx(0.76)
    assert score_bound([-2.0], 0.95) == pytest.approx(-2.1)
    assert score_bound([0.0], 0.5) == 0.0
    assert score_bound([-2.0], None) == float("inf")
    texts = {"p": "-2@0 p", "a": "-2.05@0 a", "b": "-2.2@0 b", "c": "-9@0 c"}
    _, found = mined(tmp_path, [example("about 0", {"p": texts["p"]})], texts=texts, mining=MiningOptions())
    assert found == {"q": ["b", "c"]}


def test_the_lowest_of_several_positives_counts(tmp_path):
    one = example("about 0", {"p": TEXTS["p"], "d": TEXTS["d"]})
    _, found = mined(tmp_path, [one], mining=MiningOptions())
    assert found == {"q": ["e", "f"]}


def test_nothing_that_is_known_to_be_relevant_is_mined(tmp_path):
    texts = TEXTS | {"twin": "0.8@0 The  ANSWER", "self": "About 0", "g": "0.2@0 other", "g2": "0.2@0 other"}
    examples = [
        example("about 0", {"p": texts["p"]}, name="q1", relevant=["c"]),
        example(" ABOUT  0", {"d": texts["d"]}, name="q2"),
        example("about 1", {"d": texts["d"]}, name="self"),
    ]
    info, found = mined(
        tmp_path,
        examples,
        texts=texts,
        mining=MiningOptions(negatives=20, margin=None),
        judged={"c": {"q1": {"e": 1, "f": 0}}},
    )
    assert sorted(found["q1"]) == sorted(found["q2"]) == ["a", "b", "f", "g"]
    assert "self" not in found["self"]
    assert counts(info)["text_of_positive"] == 2
    assert counts(info)["query_itself"] == 3
    assert counts(info)["negative_twice"] == 4  # g2 three times, and the twin of p where p is no positive


def test_a_text_that_is_judged_relevant_elsewhere_in_the_corpus_is_no_negative(tmp_path):
    texts = {"p": "0.8@0 p", "r": "0.7@0 same words", "copy": "0.7@0 Same Words", "n": "0.6@0 n"}
    one = example("about 0", {"p": texts["p"]}, relevant=["r"])
    info, found = mined(tmp_path, [one], texts=texts, mining=MiningOptions())
    assert found == {"q": ["n"]}
    assert counts(info) == {"relevant_document": 2, "text_of_positive": 1}


def test_own_negatives(tmp_path):
    own = {"a": TEXTS["a"], "elsewhere": "0.79@0 not in the index", "c": TEXTS["c"]}
    one = example("about 0", {"p": TEXTS["p"]}, own)
    info, found = mined(tmp_path, [one], mining=MiningOptions(negatives=1))
    assert found == {"q": ["c", "d"]}
    assert counts(info) == {"relevant_document": 1, "above_margin": 4, "negative_twice": 1}
    judged = example("about 0", {"p": TEXTS["p"]}, own, grade=0)
    assert mined(tmp_path, [judged], mining=MiningOptions(negatives=1))[1] == {"q": ["a", "elsewhere", "c", "d"]}
    info, found = mined(tmp_path, [judged], mining=MiningOptions(negatives=1, keep_negatives=False))
    assert found == {"q": ["c"]}
    assert counts(info)["replaced_negative"] == 3


def test_positives_that_are_not_in_the_index_are_encoded(tmp_path):
    model = ReadableRetriever()
    index = build(tmp_path / "index", model=model)
    model.encoded.clear()
    one = example("about 0", {"p": TEXTS["p"], "new": "0.6@0 new"})
    _, found = mined(tmp_path, [one], mine=index, mining=MiningOptions(negatives=1))
    assert found == {"q": ["d"]}
    assert model.encoded == ["0.6@0 new"]


def test_drawing_from_the_candidates_depends_on_the_seed_alone(tmp_path):
    texts = {"p": "1@0 p"} | {f"d{n}": f"0.{90 - n}@0 {n}" for n in range(60)}
    examples = [example("about 0", {"p": "1@0 p"}, name=f"q{n}") for n in range(3)]
    index = build(tmp_path / "index", texts)
    draw = {"negatives": 5, "depth": 20, "sampling": "random"}
    runs = [
        mined(tmp_path, examples, mine=index, mining=MiningOptions(**draw, seed=seed))[1] for seed in (0, 0, 1)
    ]  # fmt: skip
    assert runs[0] == runs[1] != runs[2]
    assert runs[0]["q0"] != runs[0]["q1"]
    names = {f"d{n}" for n in range(20)}
    assert all(set(ids) <= names and len(ids) == 5 for ids in runs[0].values())


def test_consistent_positives(tmp_path):
    texts = {"p": "0.5@0 p", "r": "0.9@0 r", "x": "0.8@0 x", "y": "0.7@0 y", "z": "0.1@0 z", "twin": "0.9@0 R"}
    one = example("about 0", {name: texts[name] for name in ("p", "r", "z")})
    info, found = mined(tmp_path, [one], texts=texts, consistency=ConsistencyOptions(top=2))
    assert counts(info) == {"inconsistent_positive": 2}
    (result,) = read_examples(tmp_path / "out")
    assert [item.id for item in result.positives] == ["c/r"]
    assert sorted(result.relevant) == ["c/p", "c/z"]
    assert found == {"q": []}
    info, _ = mined(tmp_path, [one], texts=texts, consistency=ConsistencyOptions(top=3))
    assert counts(info) == {}
    # What was dropped is still no negative.
    _, found = mined(
        tmp_path, [one], texts=texts, consistency=ConsistencyOptions(top=2), mining=MiningOptions(margin=None)
    )
    assert found == {"q": ["x", "y"]}


def test_an_example_without_a_consistent_positive_is_dropped(tmp_path):
    good, bad = example("about 0", {"a": TEXTS["a"]}, name="good"), example("about 0 !", {"f": TEXTS["f"]}, name="bad")
    info, found = mined(tmp_path, [bad, good], consistency=ConsistencyOptions(top=1))
    assert list(found) == ["good"]
    assert counts(info) == {"inconsistent_positive": 1, "no_consistent_positive": 1}
    assert info.examples == 1
    with pytest.raises(InputError, match="no training example is left; dropped: 1 inconsistent_positive"):
        mined(tmp_path, [bad], consistency=ConsistencyOptions(top=1))


def test_consistency_in_a_pool(tmp_path):
    texts = {"p": "0.5@0 p"} | {f"d{n}": f"0.{60 + n if n < 10 else 10}@0 {n}" for n in range(100)}
    one = example("about 0", {"p": texts["p"]})
    with pytest.raises(InputError, match="no training example is left"):
        mined(tmp_path, [one], texts=texts, consistency=ConsistencyOptions(top=2))
    kept = []
    for seed in range(6):
        options = ConsistencyOptions(top=2, pool=10, seed=seed)
        drawn = random.Random(seed).sample(range(101), 10)
        try:
            mined(tmp_path, [one], texts=texts, consistency=options)
            kept.append(True)
        except InputError:
            kept.append(False)
        assert kept[-1] == (sum(1 <= row <= 10 for row in drawn) < 2)
    assert len(set(kept)) == 2


def test_a_teacher_filters_and_scores(tmp_path):
    texts = {
        "p": "0.9@0 !4",
        "a": "0.8@0 !3.9",
        "b": "0.7@0 !1",
        "c": "0.6@0 !5",
        "d": "0.5@0 !-2",
        "e": "0.4@0 !0",
        "f": "0.3@0 !0",
    }
    teacher = ReadableTeacher()
    one = example("about 0", {"p": texts["p"]}, {"x": "0@0 !8"})
    info, found = mined(
        tmp_path, [one], texts=texts, mining=MiningOptions(negatives=2, margin=None, min_score=0.1), teacher=teacher
    )
    assert found == {"q": ["b", "d"]}
    assert counts(info) == {"relevant_document": 1, "teacher_above_margin": 3}
    (result,) = read_examples(tmp_path / "out")
    assert [item.score for item in (*result.positives, *result.negatives)] == [4, 1, -2]
    assert (info.scored, info.refined[-1].teacher) == (3, "readable teacher")
    # No more is asked than is needed: two candidates, then one for each that was dropped.
    assert [text for _, text in teacher.asked] == [texts["p"], "0@0 !8", *(texts[name] for name in "abcd")]


def test_a_teacher_alone_filters_negatives_that_nobody_judged(tmp_path):
    negatives = {"a": "!0.99", "b": "!0.9", "c": "!0.2"}
    examples = [
        example("q1", {"p": "!1"}, negatives, name="q1"),
        example("q2", {"p2": "!1 other"}, negatives, name="q2", grade=0),
    ]
    info, found = mined(tmp_path, examples, teacher=ReadableTeacher())
    assert found == {"q1": ["b", "c"], "q2": ["a", "b", "c"]}
    assert (info.refined[-1].corpora, info.refined[-1].mined, info.scored) == ((), 0, 7)
    write_examples(examples, tmp_path / "plain", overwrite=True)
    options = RefineOptions(teacher=TeacherOptions(margin=None, max_score=0.5))
    info = refine(tmp_path / "plain", tmp_path / "out", teacher=ReadableTeacher(), options=options, overwrite=True)
    assert counts(info) == {"teacher_above_maximum": 2}


class BrokenTeacher(ReadableTeacher):
    def __init__(self, scores):
        self.scores = scores

    def score_pairs(self, pairs):
        return self.scores


@pytest.mark.parametrize(
    ("scores", "message"), [([], "scored 0 of 1 pairs"), ([float("nan")], "gave nan for the query")]
)
def test_a_teacher_that_does_not_answer(tmp_path, scores, message):
    with pytest.raises(InputError, match=message):
        mined(tmp_path, [example("q", {"p": "p"})], teacher=BrokenTeacher(scores))


def test_a_plan_finds_and_the_model_measures(tmp_path):
    texts = TEXTS | {"words": "0.02@0 cheap flights", "near": "0.79@0 cheap flights again"}
    one = example("axis0 cheap flights", {"p": texts["p"]})
    plan = {"stages": [{"kind": "full_text", "n": 10}]}
    info, found = mined(tmp_path, [one], texts=texts, mining=MiningOptions(plan=plan))
    assert found == {"q": ["words"]}
    assert counts(info)["above_margin"] == 1
    with pytest.raises(ConfigError, match="the plan of mining does not validate"):
        mined(tmp_path, [one], texts=texts, mining=MiningOptions(plan={"stages": [{"kind": "words"}]}))


def test_equal_input_gives_equal_bytes_and_settings_count(tmp_path):
    examples = [example("about 0", {"p": TEXTS["p"]}, name=f"q{n}") for n in range(3)]
    first, _ = mined(tmp_path, examples, mining=MiningOptions(negatives=2))
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    second, _ = mined(tmp_path, examples, mining=MiningOptions(negatives=2))
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    other, found = mined(tmp_path, examples, mining=MiningOptions(negatives=2, depth=50))
    assert found == {f"q{n}": ["c", "d"] for n in range(3)}
    assert first.fingerprint == second.fingerprint != other.fingerprint
    corpus = first.refined[0].corpora[0]
    assert (corpus.name, corpus.sources, corpus.documents, corpus.model) == ("c", ("c",), 7, "readable")
    again = refine(tmp_path / "out", tmp_path / "twice", mine=build(tmp_path / "index"))
    assert [part.before for part in again.refined][1] == other.fingerprint


def test_an_interrupted_run_leaves_nothing(tmp_path):
    class Interrupting(ReadableTeacher):
        def score_pairs(self, pairs):
            raise KeyboardInterrupt

    write_examples([example("about 0", {"p": TEXTS["p"]})], tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        refine(tmp_path / "plain", tmp_path / "out", teacher=Interrupting())
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_what_cannot_be_done(tmp_path):
    write_examples([example("about 0", {"p": TEXTS["p"]})], tmp_path / "plain")
    folders = tmp_path / "plain", tmp_path / "out"
    with pytest.raises(InputError, match="there is nothing to do"):
        refine(*folders)
    with pytest.raises(InputError, match="mining and consistency filtering search a corpus"):
        refine(*folders, options=RefineOptions(mining=MiningOptions()))
    with pytest.raises(InputError, match="filtering by a teacher needs one"):
        refine(*folders, mine=build(tmp_path / "index"), options=RefineOptions(teacher=TeacherOptions()))
    with pytest.raises(UnknownNameError, match="unknown source of examples 'd'"):
        refine(*folders, mine=build(tmp_path / "index"), judged={"d": {}})
    with pytest.raises(DataError, match=r"has no prepared\.json"):
        refine(tmp_path, tmp_path / "out", mine=build(tmp_path / "index"))


def test_a_prepared_collection_is_mined_again_and_again(beir, tmp_path):
    index = Index.build(tmp_path / "index", open_dataset(beir).documents(), ReadableRetriever(), name="fruit")
    (beir / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "what grows 0"}\n{"_id": "q2", "text": "what is yellow 0"}\n'
    )
    prepare(tmp_path / "plain", [f"{beir}:train"])
    options = RefineOptions(mining=MiningOptions(margin=None))
    info = refine(tmp_path / "plain", tmp_path / "out", mine=index, options=options)
    (one,) = read_examples(tmp_path / "out")
    assert [item.id for item in one.negatives] == ["fruit/d1", "fruit/d3"]
    assert one.negatives[0].text == "Apple grows on trees"
    assert info.sources[0].split == "train"
    assert {path.name for path in tmp_path.iterdir()} == {"fruit", "index", "plain", "out"}
    with pytest.raises(InputError, match="is already prepared; mine or filter it with `hyperseek mine"):
        prepare(tmp_path / "again", [tmp_path / "out"])
    again = refine(tmp_path / "out", tmp_path / "again", mine=index)
    assert again.refined[0] == info.refined[0]


scores = st.integers(0, 20).map(lambda value: value / 20)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(scores, min_size=3, max_size=15),
    positives=st.sets(st.integers(0, 2), min_size=1),
    negatives=st.integers(1, 5),
    skip=st.integers(0, 2),
    margin=st.sampled_from([None, 0.5, 0.9, 1.0]),
)
def test_against_an_oracle(tmp_path_factory, texts, positives, negatives, skip, margin):
    folder = tmp_path_factory.mktemp("oracle")
    corpus = {f"d{n}": f"{score}@0 number {n}" for n, score in enumerate(texts)}
    one = example("about 0", {f"d{n}": corpus[f"d{n}"] for n in sorted(positives)})
    options = MiningOptions(negatives=negatives, skip_top=skip, margin=margin)
    _, found = mined(folder, [one], texts=corpus, mining=options)

    ranked = sorted((n for n in range(len(texts)) if n not in positives), key=lambda n: (-texts[n], n))[skip:]
    lowest = min(texts[n] for n in positives)
    expected = [n for n in ranked if margin is None or texts[n] <= margin * lowest + 1e-7][:negatives]
    assert found == {"q": [f"d{n}" for n in expected]}

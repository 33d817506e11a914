"""What is relevant to a query is never its negative, however it is written and whatever leaves it out."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mining_fakes import ReadableRetriever, example

from hyperseek import Document, Query
from hyperseek._relevance import Relevance, key_name, key_of_name, normal_text, rows_of_themselves, text_key
from hyperseek.data import (
    Dataset,
    ExampleItem,
    PrepareOptions,
    QrelsOptions,
    TrainingExample,
    examples_from_qrels,
    prepare,
    read_examples,
    read_prepared,
    write_beir,
    write_examples,
)
from hyperseek.errors import DataError
from hyperseek.index import Index
from hyperseek.mining import MiningOptions, RefineOptions, refine


@settings(max_examples=200, deadline=None)
@given(st.text(), st.sampled_from(["NFC", "NFD"]))
def test_a_text_and_its_other_forms_share_a_key(text, form):
    other = f" \n{unicodedata.normalize(form, text)}\t"
    assert normal_text(other) == normal_text(text) == normal_text(normal_text(text))
    assert text_key(other) == text_key(text) == key_of_name(key_name(text_key(text)))


def test_every_letter_meets_its_other_forms_and_cases():
    # Dotless i is a letter of its own, though its capital is that of i.
    for letter in map(chr, range(0x20000)):
        own = normal_text(letter)
        forms = [unicodedata.normalize("NFD", letter), letter.lower()] + (
            [letter.upper()] if letter != "\u0131" else []
        )
        assert {normal_text(form) for form in forms} == {own}, letter


def test_what_only_looks_alike_differs():
    assert len({text_key(text) for text in ("x2", "x²", "x 2", "x_2", "", "ﬁ", "é", "e")}) == 8
    assert text_key("ﬁx") != text_key("fìx")


def test_keys_are_the_same_everywhere():
    assert key_name(text_key("The  CAFÉ")) == key_name(text_key("the cafe\u0301")) == "9a36b27af2d03727"
    for name in ("", "zz", "g" * 16, "0" * 15):
        with pytest.raises(ValueError, match=r"digits|literal"):
            key_of_name(name)


def test_the_query_itself_is_told_by_its_id_where_documents_are_queries():
    assert rows_of_themselves(["b", "x"], ["a", "b"]) == [1, -1]


def small(documents, queries, qrels):
    return Dataset.from_records(
        "c",
        [Document(name, text) for name, text in documents.items()],
        queries=[Query(name, text) for name, text in queries.items()],
        qrels={"train": qrels},
    )


ISSUE = small(
    {"a": "cat", "b": "cat dog", "c": "moon"},
    {"q1": "one", "q2": "two"},
    {"q1": {"a": 2, "b": 1}, "q2": {"c": 2, "b": 2}},
)


def relevant(dataset, **options):
    """What each query knows to be relevant beyond its positives, by text; and the relevance of queries without one."""
    texts = {text_key(document.full_text): normal_text(document.full_text) for document in dataset.documents()}
    rest = Relevance()
    found = {
        one.query.id.removeprefix("c/"): sorted(texts[key] for key in one.relevant_texts)
        for one in examples_from_qrels(dataset, "train", options=QrelsOptions(**options), relevance=rest)
    }
    return found, {query: sorted(texts[key] for key in keys) for query, keys in rest}


def test_documents_below_the_minimum_or_over_the_maximum_stay_relevant():
    assert relevant(ISSUE, minimum_grade=2) == ({"q1": ["cat dog"], "q2": []}, {})
    assert relevant(ISSUE, maximum_positives=1) == ({"q1": ["cat dog"], "q2": ["cat dog"]}, {})
    listed = relevant(ISSUE, drop_documents=frozenset({"b"}))
    assert listed == ({"q1": ["cat dog"], "q2": ["cat dog"]}, {})
    assert relevant(ISSUE, minimum_grade=3) == (
        {},
        {text_key("one"): ["cat", "cat dog"], text_key("two"): ["cat dog", "moon"]},
    )


def test_queries_of_one_text_are_one_query_and_documents_of_one_text_one_document():
    dataset = small(
        {"a": "cat", "b": "dog", "c": "moon", "d": "DOG ", "e": "Who\u0301", "f": "CAT"},
        {"q1": "who\u0301", "q2": " WHÓ ", "q3": "else"},
        {"q1": {"a": 1, "c": 0, "d": 0, "e": 0, "f": 0}, "q2": {"b": 1, "a": 0}, "q3": {"e": 0, "c": 1}},
    )
    found = {one.query.id: one for one in examples_from_qrels(dataset, "train")}
    assert [item.id for item in found["c/q1"].negatives] == ["c/c"]
    assert [item.id for item in found["c/q2"].negatives] == []
    assert [item.id for item in found["c/q3"].negatives] == ["c/e"]
    assert relevant(dataset) == ({"q1": ["dog"], "q2": ["cat"], "q3": []}, {})


def test_documents_that_are_queries():
    dataset = small(
        {"q1": "title who", "a": "cat", "q2": "title else"},
        {"q1": "who", "q2": "else"},
        {"q1": {"q1": 1, "a": 1}, "q2": {"q2": 0, "q1": 1}},
    )
    plain = {one.query.id: one for one in examples_from_qrels(dataset, "train")}
    assert [item.id for item in plain["c/q1"].positives] == ["c/q1", "c/a"]
    assert [item.id for item in plain["c/q2"].negatives] == ["c/q2"]
    options = QrelsOptions(exclude_same_id=True)
    found = {one.query.id: one for one in examples_from_qrels(dataset, "train", options=options)}
    assert [item.id for item in found["c/q1"].positives] == ["c/a"]
    assert found["c/q1"].relevant_texts == (text_key("title who"),)
    assert found["c/q2"].negatives == ()
    assert found["c/q2"].relevant == ("c/q2",)


def test_prepared_folders_carry_what_is_relevant_and_those_of_before_still_open(tmp_path):
    write_beir(ISSUE, tmp_path / "c")
    options = PrepareOptions(qrels=QrelsOptions(minimum_grade=2, maximum_positives=1))
    prepare(tmp_path / "out", [f"{tmp_path / 'c'}:train"], options=options)
    read = {one.query.id: one for one in read_examples(tmp_path / "out")}
    assert read["c/q1"].relevant_texts == read["c/q2"].relevant_texts == (text_key("cat dog"),)
    assert len(read_prepared(tmp_path / "out").relevance()) == 0
    # Of a folder of before, the text is known where it is anybody's item.
    one = TrainingExample(Query("c/q", "q"), (ExampleItem("c/a", "cat"),), (), "c", relevant=("c/b", "c/gone"))
    two = TrainingExample(Query("c/r", "r"), (ExampleItem("c/b", "Cat  dog"),), (), "c")
    write_examples([one, two], tmp_path / "old")
    (tmp_path / "old" / "relevant.jsonl.gz").unlink()
    assert next(read_examples(tmp_path / "old")).relevant_texts == (text_key("cat dog"),)
    assert len(read_prepared(tmp_path / "old").relevance()) == 0


def test_queries_that_lost_their_example_are_remembered(tmp_path):
    write_beir(ISSUE, tmp_path / "c")
    dataset = small({"a": "cat", "b": "dog"}, {"q1": "one", "q2": "two"}, {"q1": {"a": 1}, "q2": {"b": 2}})
    write_beir(dataset, tmp_path / "d")
    options = PrepareOptions(qrels=QrelsOptions(minimum_grade=2))
    info = prepare(tmp_path / "out", [f"d={tmp_path / 'd'}:train"], options=options)
    assert (info.examples, info.relevant) == (1, 1)
    prepared = read_prepared(tmp_path / "out")
    assert dict(prepared.relevance()) == {text_key("one"): {text_key("cat")}}
    (tmp_path / "out" / "relevant.jsonl.gz").unlink()
    with pytest.raises(DataError):
        prepared.relevance()


def test_refining_keeps_what_it_drops_from_becoming_a_negative(tmp_path):
    from hyperseek.mining import ConsistencyOptions

    texts = {"p": "0.1@0 p", "q": "0.9@0 q", "r": "0.8@0 r", "s": "0.7@0 s"}
    examples = [example("about 0", {"p": texts["p"], "q": texts["q"]}), example("about 1", {"p": texts["p"]}, name="x")]
    examples += [example("about 0 again", {"p": texts["p"]}, name="y")]
    write_examples(examples, tmp_path / "plain")
    index = Index.build(
        tmp_path / "index", [Document(name, text) for name, text in texts.items()], ReadableRetriever(), name="c"
    )
    refine(
        tmp_path / "plain", tmp_path / "out", mine=index, options=RefineOptions(consistency=ConsistencyOptions(top=1))
    )
    kept = {one.query.id: one for one in read_examples(tmp_path / "out")}
    assert set(kept) == {"c/q", "c/x"}
    assert kept["c/q"].relevant_texts == (text_key(texts["p"]),)
    assert dict(read_prepared(tmp_path / "out").relevance()) == {text_key("about 0 again"): {text_key(texts["p"])}}
    # A second round knows it too.
    write_examples([one for one in kept.values() if one.query.id == "c/q"], tmp_path / "one")
    refine(tmp_path / "one", tmp_path / "mined", mine=index, options=RefineOptions(mining=MiningOptions(margin=None)))
    (one,) = read_examples(tmp_path / "mined")
    assert [item.id for item in one.negatives] == ["c/r", "c/s"]


def written(draw, text):
    """One text in another case, spacing or Unicode form."""
    form = unicodedata.normalize(draw.choice(["NFC", "NFD"]), draw.choice([text, text.upper(), text.title()]))
    return draw.choice(["", " "]) + form.replace(" ", draw.choice([" ", "  ", "\t"]))


def test_random_collections_never_prepare_or_mine_a_relevant_negative(tmp_path):
    draw = random.Random(5)
    for number in range(12):
        words = [f"{draw.random():.2f}@{draw.randrange(4)} é{place}" for place in range(6)]
        documents = {f"d{place}": written(draw, draw.choice(words)) for place in range(12)}
        queries = {f"q{place}": written(draw, f"about {draw.randrange(3)} ö") for place in range(6)}
        documents |= {name: text for name, text in queries.items() if draw.random() < 0.3}
        qrels = {
            query: {name: draw.choice([-1, 0, 0, 1, 1, 2, 3]) for name in draw.sample(sorted(documents), 6)}
            for query in queries
        }
        dataset = small(documents, queries, qrels)
        write_beir(dataset, tmp_path / f"{number}" / "c")
        options = {"minimum_grade": draw.choice([1, 1, 2]), "maximum_positives": draw.choice([None, 1, 2])}
        options["exclude_same_id"] = draw.random() < 0.5
        index = Index.build(
            tmp_path / f"{number}" / "index", list(dataset.documents()), ReadableRetriever(), name="c"
        )  # fmt: skip
        prepare(
            tmp_path / f"{number}" / "plain",
            [f"{tmp_path / str(number) / 'c'}:train"],
            options=PrepareOptions(qrels=QrelsOptions(**options)),
        )
        refine(
            tmp_path / f"{number}" / "plain",
            tmp_path / f"{number}" / "out",
            mine=index,
            options=RefineOptions(mining=MiningOptions(negatives=20, margin=None)),
        )
        known = {normal_text(text): set() for text in queries.values()}
        for query, judged in qrels.items():
            known[normal_text(queries[query])] |= {
                normal_text(documents[d]) for d, grade in judged.items() if grade > 0
            }
        for one in read_examples(tmp_path / f"{number}" / "out"):
            text = normal_text(one.query.text)
            for item in one.negatives:
                assert normal_text(item.text) not in known[text] | {text}
                assert not (options["exclude_same_id"] and item.id == one.query.id)
            # And all that may be one is one.
            found = {normal_text(item.text) for item in one.negatives}
            allowed = {normal_text(documents[name]) for name in documents if f"c/{name}" != one.query.id}
            assert found >= {other for other in allowed if "@" in other} - known[text] - {text}

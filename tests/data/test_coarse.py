"""Coarse positives: what each rule finds, what it leaves alone, and their way through prepared folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperseek._ancestors import path_parts
from hyperseek.data import (
    CoarseOptions,
    Dataset,
    ErrorReport,
    ExampleItem,
    PrepareOptions,
    QrelsOptions,
    TrainingExample,
    examples_from_qrels,
    prepare,
    read_prepared,
    write_examples,
)
from hyperseek.data.examples import COARSE_RULES, first_sentence, truncated, with_coarse, without_instruction
from hyperseek.errors import HyperseekError
from hyperseek.types import Document, Query

DOG = Document("dog", "A tame animal, e.g. a poodle. It barks.", "Dog", {"path": ["animal", "canine", "Dog"]})


def example(*positives: ExampleItem, negatives: tuple[ExampleItem, ...] = ()) -> TrainingExample:
    return TrainingExample(Query("s/q", "what barks"), positives, negatives, "s")


def found(rules: list[str], *positives: ExampleItem, most: int = 60) -> list[str]:
    options = CoarseOptions(rules=tuple(rules), coarse_max_chars=most)
    return [item.text for item in with_coarse(example(*positives), options, {"s/dog": DOG}).coarse]


def test_each_rule_finds_what_is_coarser() -> None:
    dog = ExampleItem("s/dog", DOG.full_text)
    assert found(["title"], dog) == ["Dog"]
    assert found(["first_sentence"], dog) == ["A tame animal, e.g. a poodle."]
    assert found(["path"], dog) == ["animal > canine"]
    assert found(["truncated"], dog, most=20) == ["Dog A tame animal,"]
    others = ExampleItem("s/a", "short"), ExampleItem("s/b", "much longer"), ExampleItem("s/c", "the longest of all")
    assert found(["shorter"], *others) == ["short", "much longer"]
    assert found(["parent"], ExampleItem("s/poodle", "a dog")) == [DOG.full_text]
    assert found(["parent", "far", "shorter"], dog) == []


def test_the_first_rule_that_finds_something_is_taken() -> None:
    plain = ExampleItem("s/x", "one. Two three")
    assert found(["title", "first_sentence", "truncated"], plain, most=3) == ["one."]
    assert found(["truncated", "first_sentence"], plain, most=3) == ["one"]


def test_far_ancestors_are_ordered_by_hops_or_else_by_grade() -> None:
    by_hops = [ExampleItem(f"s/{hops}", f"at {hops}", None, 1, hops) for hops in (2, 9, 1, 5)]
    assert found(["far"], *by_hops) == ["at 9", "at 5", "at 2"]
    by_grade = [ExampleItem(f"s/{grade}", f"of {grade}", None, grade) for grade in (3, 1, 2)]
    assert found(["far"], *by_grade) == ["of 1", "of 2"]
    assert found(["far"], *by_grade, ExampleItem("s/n", "unjudged")) == []


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("See e.g. Smith. Then more.", "See e.g. Smith."),
        ("Dr. J. R. Brown came. He left.", "Dr. J. R. Brown came."),
        ("Is it? Yes.", "Is it?"),
        ('He said "no." Then he left.', 'He said "no."'),
        ("About 3.5 mm. long ones exist. Others do not.", "About 3.5 mm. long ones exist."),
        ("1. Wash. 2. Dry.", "1. Wash."),
        ("\u4e2d\u6587\u53e5\u5b50\u3002\u7b2c\u4e8c\u53e5", "\u4e2d\u6587\u53e5\u5b50\u3002"),
        ("A heading\n\nand text", "A heading"),
        ("Only one.", "Only one."),
        ("no end", "no end"),
        ("", ""),
    ],
)
def test_a_first_sentence_is_not_cut_at_abbreviations(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_truncation_keeps_whole_words_and_drops_the_instruction() -> None:
    assert truncated("one two three", 8) == "one two"
    assert truncated("one two three", 7) == "one two"
    assert truncated("unbroken", 3) == "unb"
    assert truncated("short", 60) == "short"
    assert without_instruction("Instruct: Retrieve.\nQuery: What is it? ") == "What is it?"
    assert without_instruction(" A query: what? ") == "A query: what?"
    assert found(["first_sentence"], ExampleItem("s/x", "Instruct: Find. Query: What? Why?")) == ["What?"]


def test_paths_are_lists_or_texts() -> None:
    assert path_parts("a > b c > d") == ["a", "b c", "d"]
    assert path_parts("a/b/") == ["a", "b"]
    assert path_parts(["a", 3, " ", "b"]) == ["a", "3", "b"]
    assert path_parts(7) == ["7"]
    assert path_parts(None) == []


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(HyperseekError, match="title"):
        PrepareOptions.from_mapping({"coarse": {"rules": ["titles"]}}, source="here")


CHAIN = Dataset.from_records(
    "chain",
    [("root", "everything"), ("mid", "some"), ("low", "few"), ("leaf", "one"), ("x", "else")],
    queries=[("q-leaf", "which one"), ("free", "another")],
    qrels={"train": {"q-leaf": {"low": 2, "root": 1}, "free": {"leaf": 3, "low": 1, "x": 0}}},
)


@pytest.mark.parametrize("rule", COARSE_RULES)
def test_queries_without_a_positive_are_left_out_whatever_the_rule(rule: str) -> None:
    qrels = {"train": {"q-leaf": {"low": 2}, "free": {"x": 0}}}
    dataset = Dataset.from_records("some", CHAIN.documents(), queries=CHAIN.queries(), qrels=qrels)
    report = ErrorReport()
    (one,) = examples_from_qrels(dataset, "train", coarse=CoarseOptions(rules=(rule,)), report=report)
    assert one.query.id == "some/q-leaf"
    assert report.counts == {"no_positive": 1}


@pytest.fixture
def edges(tmp_path: Path) -> str:
    path = tmp_path / "edges.tsv"
    path.write_text("child\tparent\nmid\troot\nlow\tmid\nleaf\tlow\n")
    return str(path)


def test_judged_documents_get_hops_and_what_is_above_them(edges: str) -> None:
    options = QrelsOptions(hierarchy=edges, node_prefix="q-")
    coarse = CoarseOptions(rules=("parent", "far"))
    own, free = examples_from_qrels(CHAIN, "train", options=options, coarse=coarse)
    assert {item.id: item.hops for item in own.positives} == {"chain/low": 1, "chain/root": 3}
    assert {item.id: item.hops for item in free.positives} == {"chain/leaf": 1, "chain/low": 2}
    assert [item.text for item in own.coarse] == ["some"]
    assert free.negatives[0].hops is None
    Path(edges).write_text("a\tb\n")
    with pytest.raises(HyperseekError, match="none of the judged documents"):
        list(examples_from_qrels(CHAIN, "train", options=options))


def test_coarse_positives_and_hops_survive_prepared_folders(tmp_path: Path, edges: str) -> None:
    folder = tmp_path / "prepared"
    given = example(ExampleItem("s/fine", "fine", hops=1), ExampleItem("s/far", "far", hops=4))
    coarse = (ExampleItem("s/far", "far", hops=4), ExampleItem("s/fine#title", "f"))
    negatives = (ExampleItem("s/n", "other"), ExampleItem("s/n2", "f"))
    made = TrainingExample(given.query, given.positives, negatives, "s", coarse=coarse)
    info = write_examples([made], folder)
    (read,) = read_prepared(folder).examples()
    assert (read.positives, read.coarse, info.coarse) == (given.positives, coarse, 1)
    assert [item.id for item in read.negatives] == ["s/n"], "a coarse positive is no negative"


def test_preparing_reports_and_reads_coarse_positives(tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    rows = [{"query": "q", "positive": ["A long answer. With more.", "short"]}]
    table = write_lines("rows.jsonl", rows)
    options = PrepareOptions(coarse=CoarseOptions(rules=("shorter",)))
    info = prepare(tmp_path / "prepared", [f"columns:{table}"], options=options)
    (read,) = read_prepared(tmp_path / "prepared").examples()
    assert [item.text for item in read.coarse] == ["short"]
    assert info.coarse == 1
    assert info.options["coarse"] == {"rules": ["shorter"]}

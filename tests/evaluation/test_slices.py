from __future__ import annotations

import pytest

from hyperseek.data import Dataset, open_dataset
from hyperseek.errors import DataError, InputError, UnknownNameError
from hyperseek.evaluation import (
    Protocol,
    Ranking,
    SliceTask,
    SliceValues,
    check_slices,
    compare,
    rank_bm25,
    register_slice,
    slice_queries,
)
from hyperseek.evaluation.query_slices import SLICERS
from hyperseek.types import Document, Query

QRELS = {f"q{number}": {f"d{number}": 1, "d0": 0} for number in range(1, 7)}
DATASET = Dataset.from_records(
    "toys",
    [Document(f"d{number}", "cat " * number + "dog") for number in range(7)],
    queries=[
        Query(
            f"q{number}", "cat " * (number % 3 + 1), {"year": 2000 + number // 3, "kind": "odd" if number % 2 else None}
        )
        for number in range(1, 7)
    ],
    qrels={"test": QRELS},
)


def titles(by: str, **given) -> dict[str, tuple[str, ...]]:
    given = {"dataset": DATASET, **given}
    return {part.title: part.queries for part in slice_queries(by, QRELS, **given)}


def test_numbers_are_split_at_quantiles_with_their_bounds():
    assert titles("length") == {
        "length: 1 (words)": ("q3", "q6"),
        "length: 2 (words)": ("q1", "q4"),
        "length: 3 (words)": ("q2", "q5"),
    }
    assert titles("documents", bins=2) == {
        "documents: 2 to 4 (words in a relevant document)": ("q1", "q2", "q3"),
        "documents: 5 to 7 (words in a relevant document)": ("q4", "q5", "q6"),
    }
    assert list(titles("relevant")) == ["relevant: 1 (documents)"]  # equal numbers are never split


def test_fields_and_files_name_parts_by_their_values(tmp_path):
    assert titles("field:kind") == {"field:kind: odd": ("q1", "q3", "q5"), "field:kind: unknown": ("q2", "q4", "q6")}
    assert list(titles("field:year", bins=2)) == ["field:year: 2000 to 2001", "field:year: 2002"]
    (tmp_path / "hard.txt").write_text("q2\nq9\nq4\n")
    found = titles(f"file:{tmp_path / 'hard.txt'}", dataset=None)
    assert [name.rpartition(": ")[2] for name in found] == ["not listed", "listed"]
    (tmp_path / "kinds.tsv").write_text("q2\tlong\nq4\tlong\nq1\tshort\n")
    found = titles(f"file:{tmp_path / 'kinds.tsv'}")
    assert [(name.rpartition(": ")[2], len(own)) for name, own in found.items()] == [
        ("not listed", 3), ("long", 2), ("short", 1),
    ]  # fmt: skip


def test_many_values_leave_the_rare_ones_together():
    queries = [Query(f"q{number}", "cat", {"name": f"n{number // 2}"}) for number in range(24)]
    qrels = {query.id: {"d1": 1} for query in queries}
    dataset = Dataset.from_records("many", [Document("d1", "cat")], queries=queries, qrels={"test": qrels})
    parts = slice_queries("field:name", qrels, dataset=dataset)
    assert len(parts) == 9
    assert parts[-1].title == "field:name: other values"
    assert sum(len(part.queries) for part in parts) == 24


def ranking(name: str, run) -> Ranking:
    return Ranking(name, run, Protocol(qrels="x"))


def test_hardness_is_the_rank_of_the_first_relevant_document():
    run = {
        f"q{number}": {f"x{place}": -place for place in range(number - 1)} | {f"d{number}": -99} for number in (1, 2, 3)
    }
    run["q4"] = {f"x{place}": -place for place in range(10)} | {"d4": -99}
    parts = slice_queries(["hardness"], QRELS, rankings=[ranking("mine", run)])
    assert [(part.title.partition(",")[0], part.queries) for part in parts] == [
        ("hardness: easy", ("q1",)),
        ("hardness: medium", ("q2", "q3")),
        ("hardness: hard", ("q4", "q5", "q6")),
    ]
    assert "favour other systems" in parts[0].note
    assert not slice_queries("hardness:BM25", QRELS, dataset=DATASET, rankings=[ranking("mine", run)])[0].note
    with pytest.raises(UnknownNameError, match="did you mean 'mine'"):
        slice_queries("hardness:nine", QRELS, rankings=[ranking("mine", run)])


def test_overlap_weighs_rare_words(collections):
    documents = [Document("d1", "the heron waits"), *(Document(f"x{place}", "the road") for place in range(30))]
    queries = [Query("rare", "the heron"), Query("common", "the barge"), Query("whole", "heron waits")]
    qrels = {query.id: {"d1": 1} for query in queries}
    dataset = Dataset.from_records("birds", documents, queries=queries, qrels={"test": qrels})
    low, high = slice_queries("overlap", qrels, dataset=dataset)
    assert low.queries == ("common",)  # "the" is in every document and says little
    assert high.title.startswith("overlap: 1 (share of the query's words")
    cranfield = open_dataset(collections / "cranfield")
    parts = slice_queries("overlap", cranfield.qrels("test"), dataset=cranfield)
    assert sum(len(part.queries) for part in parts) == 225
    assert min(len(part.queries) for part in parts) > 60
    found = rank_bm25(cranfield, k=10).evaluate(cranfield.qrels("test"), measures="RR@10")
    means = [found.over(part.queries)["RR@10"] for part in parts]
    assert means[0] < means[-1]  # BM25 needs words in common


def test_slices_are_sections_of_a_comparison_and_small_ones_are_said_to_be(make_evaluation):
    first, second = (make_evaluation(name, seed=seed) for seed, name in enumerate(("a", "b")))
    qrels = {query: {"d": 1, **({"e": 1} if place < 7 else {})} for place, query in enumerate(first.queries)}
    comparison = compare([first, second], slices=slice_queries("relevant", qrels, bins=2))
    assert [section.title for section in comparison.sections] == [
        "all queries", "relevant: 1 (documents)", "relevant: 2 (documents)",
    ]  # fmt: skip
    assert [section.queries for section in comparison.sections] == [30, 23, 7]
    assert "relevant: 2 (documents): 7 queries, too few to conclude from" in comparison.notes
    assert "p-values are not corrected for the number of slices" in comparison.notes
    part = comparison.sections[2]
    assert part.row("b", "nDCG@10").difference == pytest.approx(
        second.over(first.queries[:7])["nDCG@10"] - first.over(first.queries[:7])["nDCG@10"]
    )


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        ("lenght", UnknownNameError, "did you mean 'length'"),
        ("length:3", InputError, "takes nothing after a colon"),
        ("field", InputError, "as in field:year"),
        ("field:yaer", UnknownNameError, "did you mean 'year'"),
        ("file", InputError, "as in file:hard.txt"),
        ("file:/nowhere/ids.txt", DataError, "ids.txt"),
    ],
)
def test_mistakes(by, error, message):
    with pytest.raises(error, match=message):
        slice_queries(by, QRELS, dataset=DATASET)


def test_mistakes_of_files_bins_and_missing_texts(tmp_path):
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="names none of the 6 judged queries, whose ids are like 'q1'"):
        slice_queries(f"file:{tmp_path / 'ids.txt'}", QRELS)
    with pytest.raises(InputError, match="at least 2 bins"):
        slice_queries("length", QRELS, bins=1)
    with pytest.raises(InputError, match="give INDEX and DATASET"):
        slice_queries("length", QRELS)
    with pytest.raises(UnknownNameError):
        check_slices(["length", "depth"])
    check_slices(["hardness", "hardness:BM25", "hardness:mine"], ["mine"])
    with pytest.raises(UnknownNameError, match="unknown ranking to slice hardness by"):
        check_slices(["hardness:other"], ["mine"])
    known = {"qrels": QRELS, "dataset": DATASET}
    check_slices(["length", "relevant", "hardness", "overlap"], **known)
    with pytest.raises(UnknownNameError, match="field of the queries' metadata"):
        check_slices(["field:nothing"], **known)
    with pytest.raises(DataError, match="names none of the 6 judged queries"):
        check_slices([f"file:{tmp_path / 'ids.txt'}"], qrels=QRELS)


def test_a_registered_slice():
    @register_slice("parity")
    def parity(task: SliceTask) -> SliceValues:
        return SliceValues({query: "odd" if int(query[1:]) % 2 else "even" for query in task.qrels})

    try:
        assert set(titles("parity")) == {"parity: odd", "parity: even"}
    finally:
        SLICERS.unregister("parity")

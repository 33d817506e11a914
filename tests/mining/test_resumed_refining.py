"""A pass that mines or filters goes on where it was killed, and its batches do not depend on one another."""

from __future__ import annotations

import pytest
from mining_fakes import ReadableRetriever, ReadableTeacher, documents, example

from hyperseek.data import read_examples, write_examples
from hyperseek.data.prepared import PREPARED_FILES
from hyperseek.errors import DataError
from hyperseek.index import Index
from hyperseek.mining import MiningOptions, RefineOptions, TeacherOptions, refine

TEXTS = {f"d{n}": f"0.{n}@{n % 4} 0.2@{(n + 1) % 4} text !0.{n}" for n in range(1, 9)}
OPTIONS = RefineOptions(mining=MiningOptions(negatives=2, margin=None), teacher=TeacherOptions(margin=0.9))


class Dying(ReadableTeacher):
    """Is killed after some calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def score_pairs(self, pairs):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().score_pairs(pairs)


@pytest.fixture
def plain(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperseek.mining._refine._BATCH", 2)
    examples = [
        example(f"about {n % 4} {n}", {f"d{n}": TEXTS[f"d{n}"]}, {f"d{9 - n}": TEXTS[f"d{9 - n}"]}, name=f"q{n}")
        for n in range(1, 9)
    ]
    write_examples(examples, tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def index(tmp_path):
    return Index.build(tmp_path / "index", documents(TEXTS), ReadableRetriever(), name="c")


def content(folder):
    return {name: (folder / name).read_bytes() for name in PREPARED_FILES}


def killed(plain, index, folder, calls):
    """Let a pass die; returns the folder of its work."""
    with pytest.raises(KeyboardInterrupt):
        refine(plain, folder, mine=index, options=OPTIONS, teacher=Dying(calls))
    assert not folder.exists()
    work = folder.parent / f".{folder.name}.mining"
    assert [*folder.parent.glob(f".{folder.name}.*")] in ([work], [])
    return work


@pytest.mark.parametrize(("calls", "batches"), [(0, 0), (4, 0), (8, 1), (14, 2)])
def test_a_killed_pass_is_resumed_to_the_same_bytes(plain, index, tmp_path, calls, batches):
    whole = ReadableTeacher()
    info = refine(plain, tmp_path / "whole", mine=index, options=OPTIONS, teacher=whole)
    work = killed(plain, index, tmp_path / "out", calls)
    assert len([*work.rglob("*.jsonl.gz")]) == batches
    second = ReadableTeacher()
    assert refine(plain, tmp_path / "out", mine=index, options=OPTIONS, teacher=second) == info
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    # What was asked of a batch that did not end is asked again, nothing else.
    assert whole.asked[-len(second.asked) :] == second.asked
    assert len(second.asked) < len(whole.asked) or not batches
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "out", "plain", "whole"]
    assert info.refined[-1].dropped["counts"]
    assert info.refined[-1].mined > 0


def test_work_for_another_aim_is_not_taken(plain, index, tmp_path):
    killed(plain, index, tmp_path / "out", 9)
    other = RefineOptions(mining=MiningOptions(negatives=1, margin=None), teacher=TeacherOptions(margin=0.9))
    refine(plain, tmp_path / "fresh", mine=index, options=other, teacher=(fresh := ReadableTeacher()))
    refine(plain, tmp_path / "out", mine=index, options=other, teacher=(again := ReadableTeacher()))
    assert again.asked == fresh.asked
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    killed(plain, index, tmp_path / "next", 9)
    judged = {"c": {"q1": {"d5": 1}}}
    refine(
        plain, tmp_path / "next", mine=index, options=OPTIONS, teacher=(asked := ReadableTeacher()), judged=judged
    )  # fmt: skip
    assert ("about 1 1", TEXTS["d1"]) in asked.asked
    assert not list(tmp_path.glob(".*"))


def test_work_of_another_teacher_of_the_same_name_is_not_taken(plain, index, tmp_path):
    class Retrained(ReadableTeacher):
        fingerprint = "2" * 32

    killed(plain, index, tmp_path / "out", 9)
    info = refine(plain, tmp_path / "out", mine=index, options=OPTIONS, teacher=(again := Retrained()))
    assert info.refined[-1].teacher_fingerprint == "2" * 32
    refine(plain, tmp_path / "fresh", mine=index, options=OPTIONS, teacher=(fresh := ReadableTeacher()))
    assert again.asked == fresh.asked


def test_damaged_work_is_named(plain, index, tmp_path):
    work = killed(plain, index, tmp_path / "out", 9)
    path = next(work.rglob("000000.jsonl.gz"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"000000\.jsonl\.gz"):
        refine(plain, tmp_path / "out", mine=index, options=OPTIONS, teacher=ReadableTeacher())


@pytest.mark.parametrize("order", [1, -1])
def test_what_one_collection_judges_counts_in_all_whatever_comes_first(tmp_path, order):
    texts = {
        "a": {"1": "0.9@0 good", "2": "0.8@0 a TWIN"},
        "b": {"1": "0.9@0 fine", "2": "0.8@0 a twin", "3": "0.1@0 x"},
    }
    examples = [
        example("about 0", {"1": texts["a"]["1"]}, source="a", relevant=["2"]),
        example("about 0", {"1": texts["b"]["1"]}, source="b"),
    ]
    write_examples(examples[::order], tmp_path / "plain")
    indexes = [
        Index.build(tmp_path / name, documents(own), ReadableRetriever(), name=name) for name, own in texts.items()
    ]
    options = RefineOptions(mining=MiningOptions(negatives=1, margin=None))
    refine(tmp_path / "plain", tmp_path / "out", mine=indexes, options=options)
    found = {one.source: [item.id for item in one.negatives] for one in read_examples(tmp_path / "out")}
    assert found == {"a": [], "b": ["b/3"]}

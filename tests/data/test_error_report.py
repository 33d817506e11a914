from __future__ import annotations

from hyperseek.data import ErrorReport


def test_counts_and_first_examples():
    report = ErrorReport()
    assert not report
    for number in range(5):
        report.add("bad", f"line {number}")
    report.add("worse", "line 9", count=10)
    assert report.total == 15
    assert report.examples == {"bad": ["line 0", "line 1", "line 2"], "worse": ["line 9"]}
    assert report.lines() == ["10 worse (first: line 9)", "5 bad (first: line 0)"]


def test_merge_and_plain_values():
    first, second = ErrorReport(), ErrorReport()
    first.add("bad", "a")
    second.add("bad", "b")
    second.add("new", "c")
    first.merge(second)
    assert first.to_dict() == {"counts": {"bad": 2, "new": 1}, "examples": {"bad": ["a", "b"], "new": ["c"]}}
    assert ErrorReport.from_dict(first.to_dict()) == first

from __future__ import annotations

from hyperseek.evaluation import slice_by_training

QRELS = {
    "both": {"a": 1, "b": 2},
    "one": {"a": 1, "c": 1},
    "neither": {"c": 1, "d": 1},
    "graded": {"a": 1, "c": 0},
    "empty": {"a": 0},
}


def test_queries_go_to_all_some_or_none():
    slices = slice_by_training(QRELS, {"a", "b", "z"})
    assert slices.all == ("both", "graded")
    assert slices.some == ("one",)
    assert slices.none == ("neither",)
    assert slices.without_relevant == ("empty",)
    assert slices.trained_documents == 3
    assert slices.empty() == ()


def test_empty_slices_are_named():
    assert slice_by_training(QRELS, set()).empty() == ("all", "some")
    assert slice_by_training({"both": QRELS["both"]}, ["a", "b"]).empty() == ("some", "none")

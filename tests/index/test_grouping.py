"""Hits grouped by their place in a hierarchy, or by any field."""

from __future__ import annotations

from typing import Any

import pytest

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.index import grouped
from hyperseek.types import Document, Hit


def hits(*values: Any, name: str = "path") -> list[Hit]:
    found = []
    for rank, value in enumerate(values, start=1):
        metadata = {} if value is None else {name: value}
        found.append(Hit(f"d{rank}", 1 / rank, rank, Document(f"d{rank}", "text", metadata=metadata)))
    return found


def shape(groups: list[Any]) -> list[tuple[tuple[str, ...], list[int]]]:
    return [(group.path, [hit.rank for hit in group.hits]) for group in groups]


@pytest.mark.parametrize("form", ["list", " > ", "/"])
def test_paths_are_cut_at_a_depth_and_groups_come_in_the_order_of_their_best_hits(form: str) -> None:
    paths = [["animal", "dog"], ["plant", "tree"], ["animal", "cat"], ["animal", "dog", "poodle"]]
    given = hits(*(path if form == "list" else form.join(path) for path in paths))
    assert shape(grouped(given, depth=1)) == [(("animal",), [1, 3, 4]), (("plant",), [2])]
    assert shape(grouped(given, depth=2))[0] == (("animal", "dog"), [1, 4])
    assert [group.path for group in grouped(given)] == [tuple(path) for path in paths]


def test_any_field_groups_and_hits_without_it_stay_together() -> None:
    given = hits(2015, None, 2016, 2015, name="year")
    assert shape(grouped(given, by="year")) == [(("2015",), [1, 4]), ((), [2]), (("2016",), [3])]
    assert grouped([]) == []


def test_what_cannot_be_grouped_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"paht.*known: path"):
        grouped(hits("a/b"), by="paht")
    with pytest.raises(InputError, match="carry no documents"):
        grouped([Hit("d", 1.0, 1, None)])
    with pytest.raises(InputError, match="depth must be"):
        grouped(hits("a/b"), depth=0)

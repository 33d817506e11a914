"""What a document holds comes back as it went in, or is refused by name."""

from __future__ import annotations

import datetime
import decimal
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_fakes import FakeRetriever

from hyperseek.errors import InputError
from hyperseek.index import Index
from hyperseek.types import Document

RESERVED = [
    "_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "_row_last_updated_at_version", "_score",
    "_distance", "key", "id", "title", "text", "metadata", "vector", "text_checksum", "vector_checksum", "Key", "ID",
    "KEY", "_ROWID", "field:n", "digits:n", "n", "N", "a.b", "a`b", 'a"b', "a'b",
    "", " ", "line\nend", "größe", "x" * 3000, "\x00",
    "select", "NULL", "true", "数", "a b ", "-", "_", "_n",
]  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(2**50, 2**70) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
METADATA = st.dictionaries(st.sampled_from(RESERVED) | TEXT, VALUES, max_size=5)


@settings(max_examples=5, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(METADATA, min_size=1, max_size=6))
def test_metadata_come_back_as_they_were_given(tmp_path_factory: pytest.TempPathFactory, given: list[Any]) -> None:
    documents = [Document(f"d{place}", "river", metadata=metadata) for place, metadata in enumerate(given)]
    half = len(documents) // 2
    model: Any = FakeRetriever()
    index = Index.build(tmp_path_factory.mktemp("metadata") / "index", documents[:half], model)
    index.add(documents[half:])
    assert list(index.documents()) == documents
    for name, kind in index.fields.items():
        if kind == "number" and "`" not in name:
            values = [metadata.get(name) for metadata in given]
            middle = next(value for value in values if value is not None)
            if abs(middle) != float("inf"):
                hits = index.search("river", k=9, where=f"`{name}` >= {middle!r}")
                wanted = {f"d{place}" for place, v in enumerate(values) if v is not None and v >= middle}
                assert {hit.id for hit in hits} == wanted


def test_every_reserved_name_can_be_indexed_and_is_filtered_by_or_said(tmp_path: Path) -> None:
    metadata = {name: place for place, name in enumerate(RESERVED)}
    model: Any = FakeRetriever()
    index = Index.build(tmp_path / "index", [Document("d", "river", metadata=metadata)], model)
    index.add([Document("e", "river", metadata=dict.fromkeys(RESERVED, 2**60 + 1))])
    assert next(dict(document.metadata) for document in index.documents()) == metadata
    for name in index.fields:
        assert [hit.id for hit in index.search("river", where=f"`{name}` = {metadata[name]}")] == ["d"], name
        assert [hit.id for hit in index.search("river", where=f"`{name}` = {2**60 + 1}")] == ["e"], name
    said = [name for names in index.unusable_fields.values() for name in names]
    assert len(said) == len(RESERVED) - len(index.fields)
    assert {"id", "title", "text", "a.b"} <= {*said}
    assert {"_rowid", "_score", "key", "Key", "n", "N", "select", "größe", "数"} <= {*index.fields}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value, value]
    return value


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
REFUSED: list[Any] = [
    datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2), decimal.Decimal("1.5"), (1, 2), {1, 2}, b"x", {1: 2},
    [{"a": {None: 1}}], namedtuple("Pair", "a b")(1, 2), np.int64(3), np.ones(2), 1j, object(), Path("x"), "\ud800",
    ["\udfff"], {"\ud800": 1}, 10**4000, [-(10**5000)], CIRCLE, nested(30), nested(70), float,
]  # fmt: skip


@pytest.mark.timeout(100)
def test_other_values_are_refused_by_name(tmp_path: Path) -> None:
    model: Any = FakeRetriever()
    index = Index.build(tmp_path / "index", [Document("d", "river")], model)
    for value in REFUSED:
        documents = [Document("e", "river"), Document("f", "river", metadata={"odd": value})]
        with pytest.raises(InputError, match=r"(?=.*document 'f')(?=.*metadata 'odd').*position 1\b"):
            index.add(documents)
        with pytest.raises(InputError, match=r"(?=.*document 'f')(?=.*metadata 'odd').*position 1\b"):
            Index.build(tmp_path / "other", documents, model, overwrite=True)
    for document in (Document("\ud800", "a"), Document("e", "\ud800"), Document("e", "a", "\ud800")):
        with pytest.raises(InputError, match=r"document .* has (id|text|title) that is not valid Unicode \(position 0"):
            index.add([document])
    with pytest.raises(InputError, match=r"document 'e' has metadata '.+ud800' that"):
        index.add([Document("e", "a", metadata={"\ud800": 1})])
    assert len(index) == 1


def test_ids_of_any_kind_are_found_replaced_and_deleted(tmp_path: Path) -> None:
    names = [
        "'",
        "''",
        '"',
        "a\nb",
        "\x00",
        " a ",
        "a",
        "%",
        "--",
        ";",
        "`",
        "\\",
        "é",
        "e\u0301",
        "d" * 5000,
        "0",
        "00",
        "🙂",
    ]
    model: Any = FakeRetriever()
    index = Index.build(tmp_path / "index", [Document(name, "river") for name in names], model)
    with pytest.raises(InputError, match="stored already"):
        index.add([Document("\x00", "stone")])
    index.add([Document(name, "stone") for name in names[:9]], replace=True)
    assert [document.id for document in index.documents()] == names[9:] + names[:9]
    for place, name in enumerate(names):
        assert index.delete([name, name, "nowhere"]) == 1
        assert len(index) == len(names) - place - 1
    for wrong in ("\ud800", 1, None):
        with pytest.raises(InputError, match="id"):
            index.delete([wrong])  # type: ignore[list-item]
    index.add([Document("'", "river")])
    assert [hit.id for hit in index.search("river", where="id = ''''")] == ["'"]

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperseek import Document, Retriever, load
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.index._splitting import SEPARATOR, Part, Splitter, _blocks, as_passages

pytest.importorskip("semantic_text_splitter", reason="needs semantic-text-splitter")

PIECES = st.sampled_from(
    [
        "river",
        "stone ",
        "abcabcabc",
        "x" * 40,
        "😀",
        "👩‍👩‍👧",
        "é",
        "中文",
        ". ",
        "\r\n",
        "\n",
        "\n\n",
        "\t",
        " ",
        "\x00",
        "\u2028",
        "# ",
        "\n# river\n",
        "\n## stone road\n",
        "\nmusic\n===\n",
        "```\n",
        "> ",
        "- ",
        "---\n",
        "[a](b)",
        "*",
    ]
)
TEXTS = st.lists(PIECES, max_size=120).map("".join) | st.text(max_size=400)


@pytest.fixture(scope="module")
def model(tiny_encoder: str) -> Retriever:
    return load(tiny_encoder)


def check(splitter: Splitter, document: Document) -> list[Part]:
    """The passages are the text, in order, and the model reads each whole."""
    parts = splitter.split(document)
    assert parts[0].start == 0
    assert parts[-1].end == len(document.text)
    for one, other in pairwise(parts):
        assert one.start < other.start <= one.end < other.end
        if not splitter.overlap:
            assert other.start == one.end
    if len(parts) > 1:
        read = [f"{part.title} {document.text[part.start : part.end]}".strip() for part in parts]
        assert max(splitter.lengths(read)) <= splitter.tokens
    return parts


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXTS,
    title=st.sampled_from(["", "river", "stone road " * 30, "y" * 300]),
    overlap=st.sampled_from([0, 8]),
    metadata=st.sampled_from([{}, {"format": "markdown"}, {"format": [1]}, {"suffix": ".py"}, {"suffix": 1}]),
)
def test_passages_tile_any_text(
    model: Retriever, text: str, title: str, overlap: int, metadata: dict[str, Any]
) -> None:
    splitter = Splitter(model, tokens=40, overlap=overlap)
    document = Document("d", text, title, metadata)
    assert check(splitter, document) == check(Splitter(model, tokens=40, overlap=overlap), document)


MARKDOWN = """---
title: river
---
river river river river river river river river river river river river river river river river river river river river

# Music

stone stone stone stone stone stone stone stone stone stone stone stone stone stone

```
# not a heading
```

> # nor this one

House of *stone*
----------------

road road road road road road road road road road road road road road road road road

### `door` & window

window window window window window window window window window window window window window window window window

# City #

string string string string string string string string string string string string string string string string
"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_headings(model: Retriever, line_end: str) -> None:
    text = MARKDOWN.replace("\n", line_end)
    document = Document("d", text, "The guide", {"format": "markdown"})
    parts = check(Splitter(model, tokens=40), document)

    def headings_of(words: str) -> tuple[str, ...]:
        [found] = {part.headings for part in parts if words in text[part.start : part.end]}
        return found

    assert headings_of("river river") == ()
    assert headings_of("stone stone") == ("Music",)
    assert headings_of("road road road") == ("Music", "House of stone")
    assert headings_of("window window") == ("Music", "House of stone", "door & window")
    assert headings_of("string string") == ("City",)
    assert {part.title for part in parts if part.headings == ("City",)} == {f"The guide{SEPARATOR}City"}


def test_a_heading_stays_with_what_follows(model: Retriever) -> None:
    text = "# Music\n\n" + "river stone city. " * 60 + "\n\n## road\n\n" + "house door window. " * 60
    for markdown in (True, False):
        for overlap in (0, 8):
            document = Document("d", text, "", {"format": "markdown"} if markdown else {})
            splitter = Splitter(model, tokens=40, overlap=overlap)
            found = [text[part.start : part.end].split() for part in check(splitter, document)]
            assert found[0][:3] == ["#", "Music", "river"]
            assert not markdown or any(words[:3] == ["##", "road", "house"] for words in found)
            assert not any(words in (["#", "Music"], ["##", "road"]) for words in found)


def test_a_title_is_shortened_from_the_outside(model: Retriever) -> None:
    text = "# stone\n\n## road\n\n" + "river " * 60
    splitter = Splitter(model, tokens=40)
    parts = check(splitter, Document("d", text, "city " * 8 + "house", {"format": "markdown"}))
    assert parts[-1].headings == ("stone", "road")
    assert parts[-1].title == f"stone{SEPARATOR}road"
    assert check(splitter, Document("d", text, "stone", {"format": "markdown"}))[-1].title == f"stone{SEPARATOR}road"
    [long] = {part.title for part in check(splitter, Document("d", text, "city " * 30))}
    assert long.split() == ["city"] * 10


def test_a_document_that_fits_is_one_passage_as_it_is(model: Retriever) -> None:
    document = Document("d", "# Music\n\nriver stone", "city " * 20, {"format": "markdown"})
    assert Splitter(model, tokens=40).split(document) == [Part(0, len(document.text), document.title)]
    assert Splitter(model, tokens=40).split(Document("d", "")) == [Part(0, 0, "")]


@pytest.mark.parametrize("unit", ["x", " ", "\n", "river ", "river\n\n"])
def test_a_long_line_is_seen_in_blocks(model: Retriever, unit: str) -> None:
    text = unit * (50_000 // len(unit))
    blocks = list(_blocks(text, [], 16_384))
    assert "".join(text[start:end] for start, end in blocks) == text
    assert all(0 < end - start <= 16_384 for start, end in blocks)
    assert len(blocks) == 4
    check(Splitter(model, tokens=64), Document("d", text, "", {"format": "markdown"}))


def test_what_cannot_be_split(model: Retriever) -> None:
    assert as_passages(None, model) is None
    assert as_passages(False, model) is None
    assert as_passages(True, model) == {"tokens": 64, "overlap": 0}
    assert as_passages({"overlap": 8}, model) == {"tokens": 64, "overlap": 8}
    with pytest.raises(InputError, match="reads 64 of a document"):
        as_passages({"tokens": 65}, model)
    with pytest.raises(InputError, match="no room for a text, or not for an overlap of 40"):
        as_passages({"overlap": 40}, model)
    with pytest.raises(UnknownNameError, match="known: overlap, tokens"):
        as_passages({"size": 4}, model)
    for wrong in ("auto", 256, {"tokens": 2.5}, {"tokens": True}, {"overlap": -1}, {"tokens": 3}):
        with pytest.raises(InputError, match="passages"):
            as_passages(wrong, model)

"""What `prepare` takes as a source."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from hyperseek._text_files import PathLike, path_text
from hyperseek.data._open import is_pydocs
from hyperseek.data._pydocs import SPLITS as PYDOCS_SPLITS

_NAMED = re.compile(r"([\w.-]+)=(.+)")


@dataclass(frozen=True, slots=True)
class ParsedSource:
    """A source as `prepare` understands it: `[NAME=][hypencoder:|columns:]PLACE[:SPLIT]`.

    Attributes:
        given: The whole text.
        name: The name asked for, or None.
        kind: How its content becomes examples.
        place: What to open.
        split: The split asked for, or None.
    """

    given: str
    name: str | None
    kind: Literal["qrels", "hypencoder", "columns"]
    place: str
    split: str | None


def parse_source(source: PathLike) -> ParsedSource:
    """Take a source apart.

    Args:
        source: A collection for `open_dataset`, or `hypencoder:` or `columns:` and a table; `:SPLIT` may follow
            collections and Hub tables, `NAME=` may stand before all.

    Returns:
        Its parts.
    """
    text = given = path_text(source)
    name = None
    if (named := _NAMED.fullmatch(text)) and not os.path.exists(text):
        name, text = named.groups()
    for kind in ("hypencoder", "columns"):
        if text.startswith(f"{kind}:"):
            place = text.removeprefix(f"{kind}:")
            place, split = _without_split(place) if place.startswith("hub:") else (place, None)
            return ParsedSource(given, name, kind, place, split)
    place, split = _without_split(text)
    return ParsedSource(given, name, "qrels", place, split)


def _without_split(text: str) -> tuple[str, str | None]:
    if is_pydocs(text):
        place, _, last = text.rpartition(":")
        return (place, last) if last in PYDOCS_SPLITS else (text, None)
    if text.startswith(("hub:", "ir_datasets:")):
        catalogue, _, rest = text.partition(":")
        identity, _, split = rest.partition(":")
        return f"{catalogue}:{identity}", split or None
    place, _, split = text.rpartition(":")
    # A split is no path; with one after the colon, as in C:/data, the colon belongs to the place.
    if not place or not split or set(split) & {"/", "\\"} or os.path.exists(text):
        return text, None
    return place, split

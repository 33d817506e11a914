"""Human-readable output: texts of unknown origin made safe for a terminal, and sizes and times with units."""

from __future__ import annotations

import json
import re
from typing import Any

# C0, DEL and C1; marks and overrides of direction; ends of lines and paragraphs; zero-width and tag characters, which
# hide what follows; halves of surrogate pairs, which no terminal can be sent. Joiners that scripts need are left.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, *, lines: bool = False, mark: str | None = None) -> str:
    r"""Return a text that is safe to show on a terminal, whoever wrote it.

    Args:
        text: Any text.
        lines: Whether line ends are kept; otherwise they become marks, so that one line cannot pass for two.
        mark: Replacement of each such character; None for its picture (`␛` for escape) or escape (`\u202e`).

    Returns:
        The text, with marks in place of control characters.
    """
    return _UNSEEN.sub(lambda found: "\n" if lines and found[0] == "\n" else mark or _mark(found[0]), text)


def printable_json(value: Any, *, indent: int | None = None) -> str:
    """Return plain values as JSON without control characters."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: "\n" if found[0] == "\n" else _escapes(found[0]), text)


def _mark(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else _escapes(character)


def _escapes(character: str) -> str:
    """Write a character as JSON does, in UTF-16."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def size_in_words(count: float) -> str:
    """Return a number of bytes with a suitable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def time_in_words(seconds: float) -> str:
    """Return a time with a suitable unit."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

"""Folders of ours as a stranger, a bad disk or a hand that slipped would leave them."""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hyperseek import HyperseekError

LONGEST_SECONDS = 5.0
LARGEST_BYTES = 1 << 30
LONGEST_MESSAGE = 20_000

_DEEP: Any = "x"
for _ in range(60):
    _DEEP = [_DEEP]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 10**9, 10**18, -(10**18), 10**30, 0.5, -0.5, 1e300, "", "x", "../../x", "/etc",
    "a\0b", "x" * 5000, [], [[]], {}, {"a": 1}, [1, "x", None], ["x"], {"": {}}, _DEEP, [0] * 3000,
)  # fmt: skip
TEXTS = ("[" * 5000, '{"a":' * 5000, "9" * 5000, "NaN", "", "null", "[]", "\x00", '"\\ud800"', "{}", "[1, 2]", "3")


def check_survives(folder: Path, action: Callable[[], object], *, times: int, seed: int = 0) -> int:
    """Damage a folder in many ways, one at a time, and do something with it.

    Args:
        folder: Damaged and restored.
        action: May raise our own errors and nothing else, within five seconds and a gigabyte.
        times: How often.
        seed: Of the damage.

    Returns:
        How often the action ended without an error.
    """
    draw, survived = random.Random(seed), 0
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    action()
    for number in range(times):
        path = draw.choice(list(whole))
        kinds = [_flip, _flip, _truncate, _remove, _folder, _insert]
        if path.suffix in (".json", ".yaml"):
            kinds += [_text, *[_value] * 8]
        what = f"{number}: {draw.choice(kinds)(path, whole[path], draw)} of {path}"
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            action()
            survived += 1
        except HyperseekError as error:
            if len(str(error)) > LONGEST_MESSAGE:
                raise AssertionError(f"{what} gives an endless message") from error
        except BaseException as error:
            raise AssertionError(f"{what} ends in a {type(error).__name__}: {error}") from error
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        assert time.process_time() - start < LONGEST_SECONDS, f"{what} takes too long"
        assert grown < LARGEST_BYTES, f"{what} takes {grown} bytes"
        _restore(folder, whole)
    return survived


def _restore(folder: Path, whole: dict[Path, bytes]) -> None:
    # New files, since the old ones may be mapped into memory.
    shutil.rmtree(folder)
    for path, content in whole.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _flip(path: Path, whole: bytes, draw: random.Random) -> str:
    content = bytearray(whole)
    for _ in range(draw.choice((1, 1, 3, 20))):
        if content:
            content[draw.randrange(len(content))] = draw.randrange(256)
    _replace(path, bytes(content))
    return "bytes changed"


def _truncate(path: Path, whole: bytes, draw: random.Random) -> str:
    _replace(path, whole[: draw.choice((0, len(whole) // 2, max(0, len(whole) - 1), draw.randrange(len(whole) + 1)))])
    return "truncation"


def _remove(path: Path, whole: bytes, draw: random.Random) -> str:
    path.unlink()
    return "removal"


def _folder(path: Path, whole: bytes, draw: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder in place"


def _insert(path: Path, whole: bytes, draw: random.Random) -> str:
    place = draw.randrange(len(whole) + 1)
    _replace(path, whole[:place] + draw.randbytes(draw.choice((1, 8, 300))) + whole[place:])
    return "insertion"


def _text(path: Path, whole: bytes, draw: random.Random) -> str:
    text = draw.choice(TEXTS)
    _replace(path, text.encode())
    return f"the text {text[:10]!r} in place"


def _value(path: Path, whole: bytes, draw: random.Random) -> str:
    try:
        values = json.loads(whole)
    except ValueError:
        return _flip(path, whole, draw)
    places = list(_places(values))
    if not places:
        return _text(path, whole, draw)
    holder, key = draw.choice(places)
    change = draw.random()
    if change < 0.15:
        del holder[key]
        what = f"{key!r} removed"
    elif change < 0.25 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
        what = f"{key!r} renamed"
    else:
        value = draw.choice(VALUES)
        holder[key] = value
        what = f"{key!r}: {str(value)[:20]!r}"
    _replace(path, json.dumps(values).encode())
    return what


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(pairs)[:50]:
        yield values, key
        yield from _places(value)

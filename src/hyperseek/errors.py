"""Every exception of the library, and what makes texts of any origin fit for a message or a terminal.

```
HyperseekError
├── InputError (ValueError)        an argument, a text or a tensor that cannot be used
│   ├── ConfigError                a recipe or an override: unknown key, wrong type, out of range
│   ├── ArgumentError (TypeError)   a keyword that a function does not accept, or too many positions
│   ├── MissingDocumentError (KeyError)  an id that is not in an index
│   ├── DataError                  a corpus, queries, qrels or run file; names the file and the line
│   └── UnknownNameError (LookupError)  a name that is not registered; lists those that are
├── ModelError                     a checkpoint that cannot be read or does not fit
│   └── FingerprintError           a model and an index that do not match
├── StoreError                     an index folder that is missing, damaged or in use
├── ServerError                    a server that cannot be reached, refuses, is busy, or failed
├── ProtocolError                  two results that were measured differently
├── WriteError                     a file that cannot be written: no space, read-only, no permission
└── MissingExtraError (ImportError)  an optional dependency; names the pip command that brings it
```

A message says what was given, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
import reprlib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

__all__ = [
    "ArgumentError",
    "ConfigError",
    "DataError",
    "FingerprintError",
    "HyperseekError",
    "InputError",
    "MissingDocumentError",
    "MissingExtraError",
    "ModelError",
    "ProtocolError",
    "ServerError",
    "StoreError",
    "UnknownNameError",
    "WriteError",
]  # the functions below are internal

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxset = 4, 8, 20, 20, 20
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

_LONGEST_NAME = 100  # characters of a given name that a message repeats

_SOURCE = re.compile(r"(, | at | in )?\S*[/\\]\S+\.(rs|c|cc|cpp|h|hpp)(:\d+)+")


# C0, DEL and C1; marks and overrides of direction; ends of lines and paragraphs; zero-width and tag characters, which
# hide what follows; halves of surrogate pairs, which no terminal can be sent. Joiners that scripts need are left.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


class HyperseekError(Exception):
    """Base of every error this library raises on purpose."""


class InputError(HyperseekError, ValueError):
    """An argument, a text or a tensor that cannot be used."""


class ConfigError(InputError):
    """A recipe or an override that does not validate."""


class ArgumentError(InputError, TypeError):
    """A keyword that a function does not accept, or too many positional arguments."""


class MissingDocumentError(InputError, KeyError):
    """An id that is not in an index."""

    __str__ = Exception.__str__  # that of KeyError quotes the message


class DataError(InputError):
    """A data file that does not have the format it should have.

    Args:
        message: What is wrong and what to do.
        path: The file.
        line: Its line, counted from 1.
    """

    path: object = None
    line: int | None = None

    def __init__(self, message: str, *, path: object = None, line: int | None = None) -> None:
        self.path = path
        self.line = line
        place = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(place + message)


class UnknownNameError(InputError, LookupError):
    """A name that is not registered.

    Args:
        kind: Expected kind of the name, as in "loss".
        name: The name, or other value, that was given; None for whichever there is.
        known: The names that exist.
        hint: Advice for when there are none.
    """

    name: object = None
    known: Sequence[str] = ()

    def __init__(self, kind: str, name: object, known: Iterable[str], *, hint: str = "") -> None:
        self.name = name
        self.known = sorted(known)
        names = f"known: {', '.join(self.known)}" if self.known else hint or "there are none"
        if isinstance(name, str):
            given = f"{shortened(name, _LONGEST_NAME)!r}{suggestion(name, self.known)}"
        else:
            given = shown(name)  # not a name, so there is no suggestion
        nothing = name is None and not self.known
        super().__init__(f"there is no {kind}; {names}" if nothing else f"unknown {kind} {given}; {names}")


class ModelError(HyperseekError):
    """A checkpoint that cannot be read or does not fit what it is loaded into."""


class FingerprintError(ModelError):
    """A model whose document side is not the one that built an index."""


class StoreError(HyperseekError):
    """An index folder that is missing, damaged or in use."""


class ServerError(HyperseekError):
    """A server that cannot be reached, refuses a request, is busy for too long, or failed."""


class ProtocolError(HyperseekError):
    """Two results that were measured differently and cannot be compared."""


class WriteError(HyperseekError):
    """A file or a folder that cannot be written: no space, read-only media, no permission."""


class MissingExtraError(HyperseekError, ImportError):
    """An optional dependency that is not installed."""


def error_named(kind: str, message: str) -> HyperseekError | None:
    """Return the error of a class of this module, which another process raised; None if there is no such class."""
    known = globals()[kind] if kind in __all__ else None
    if known is None:
        return None
    error: HyperseekError = known.__new__(known)
    error.args = (message,)  # of which names and files are a part already
    return error


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    spelled = {other.casefold(): other for other in known}
    # No name is that long, and the time of a comparison grows with the length.
    closest = difflib.get_close_matches(name[:_LONGEST_NAME].casefold(), list(spelled), n=1, cutoff=0.5)
    return f"; did you mean {spelled[closest[0]]!r}?" if closest else ""


def shortened(text: str, longest: int = 300) -> str:
    """Return a text of at most `longest` characters, with an ellipsis if it was shortened."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def brief(error: BaseException, longest: int = 300) -> str:
    """Return the first line of a foreign error's message, shortened to `longest` characters, for use in ours.

    Positions in a library's source code are omitted: they do not help the user.
    """
    lines = str(error).strip().splitlines()
    # Cut first: the pattern's time grows with the square of a text without blanks.
    return shortened(_SOURCE.sub("", lines[0][: longest + 1000] if lines else type(error).__name__), longest)


def shown(value: object, longest: int = 80) -> str:
    """Return a value, shortened, for an error message."""
    try:
        if isinstance(value, list | tuple | dict | set | frozenset):
            # A collection with heavily shared parts is small in memory but endless in print.
            text = _SHORT.repr(value)
        else:
            text = repr(value if not isinstance(value, str | bytes) else value[: longest + 1])
    except Exception as error:  # a foreign __repr__ may raise anything, and so does an integer of thousands of digits
        text = f"<a {type(value).__name__} that cannot be shown: {type(error).__name__}>"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def is_panic(error: BaseException) -> bool:
    """Whether `error` is a panic of a library written in Rust, which does not derive from `Exception`."""
    return type(error).__name__ == "PanicException"


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: The module's import name.
        extra: The extra of this package that installs it.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}, which could not be imported ({error}); "
            f"install it with: pip install 'hyperseek[{extra}]'"
        ) from error


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

"""Kinds of files and what reads them: a registry by suffix, so that another package can add a kind."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from hyperseek._registry import Registry
from hyperseek.data.files._converter import Converter
from hyperseek.data.reading import ErrorReport, base_suffix
from hyperseek.errors import DataError, InputError, MissingExtraError, require, shown
from hyperseek.types import Document

LARGEST_FILE = 1 << 28
"""Most bytes of a file that is read as a whole, unpacked."""

_HASH_LENGTH = 32  # hexadecimal digits, as of fingerprints
_SAMPLE = 1 << 16  # bytes that an encoding is guessed from
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_MOST_CONTROL = 50  # characters of a text for each control character; some manual pages have a few
_NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_NO_NAME = re.compile(r"[A-Z][A-Z0-9_-]*|[Rr]eadme|[Mm]akefile|[Cc]opyright|[Cc]hangelog|[Tt]odo|[Nn]ews")


class FileError(DataError):
    """A file that cannot be read, with a short stable name of the reason.

    Args:
        reason: The name, as in `"damaged"`.
        message: What is wrong.
        path: The file.
    """

    def __init__(self, reason: str, message: str, *, path: object) -> None:
        super().__init__(message, path=path)
        self.reason = reason


@dataclass
class File:
    """A file that a reader reads.

    Attributes:
        path: Where it is.
        name: Its path below the folder, with `/`; the id of its document.
        report: Takes notes, as of a guessed encoding, and what is left out of it.
        converter: Converts foreign formats to Markdown.
    """

    path: Path
    name: str
    report: ErrorReport = field(default_factory=ErrorReport)
    converter: Converter = field(default_factory=Converter)

    @property
    def suffix(self) -> str:
        """Its suffix in lower case, not counting `.gz`, as in `".md"`."""
        return base_suffix(self.path)

    @property
    def stem(self) -> str:
        """Its name without suffixes."""
        return Path(self.path.name.removesuffix(".gz")).stem

    @cached_property
    def hash(self) -> str:
        """Fingerprint of its bytes, 32 hexadecimal digits; of those that were read, once `content` was."""
        with opened(self.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_LENGTH]

    @cached_property
    def content(self) -> bytes:
        """Its bytes, unpacked if its name ends in `.gz`; FileError if there are too many."""
        with opened(self.path) as file:
            raw = _bounded(file.read(LARGEST_FILE + 1), self.path)
        self.__dict__["hash"] = hashlib.sha256(raw).hexdigest()[:_HASH_LENGTH]
        if not self.path.name.lower().endswith(".gz"):
            return raw
        unpacked, rest = bytearray(), raw
        try:
            while rest.strip(b"\0"):  # a gzip file may have several parts
                part = zlib.decompressobj(wbits=31)
                unpacked += part.decompress(rest, LARGEST_FILE + 1 - len(unpacked))
                _bounded(unpacked, self.path)
                if not part.eof:
                    raise zlib.error("it ends too early")
                rest = part.unused_data
        except zlib.error as error:
            raise FileError("damaged", f"damaged gzip file ({error}); fetch it again", path=self.path) from None
        return bytes(unpacked)

    @property
    def text(self) -> str:
        r"""Its text, with `\n` at the ends of lines; FileError if it is not text."""
        return self.decoded(self.content)

    def decoded(self, content: bytes, declared: str | None = None) -> str:
        r"""Decode a text: as UTF-8, as its mark or `declared` says, or else as what it looks like, which is noted.

        Args:
            content: The bytes.
            declared: The encoding that a header names, if any.

        Returns:
            The text, with `\n` at the ends of lines.

        Raises:
            FileError: It is not text.
        """
        text = self._decoded(content, declared)
        sample = text[:_SAMPLE]
        if "\0" in text or _MOST_CONTROL * len(_NOT_TEXT.findall(sample)) > len(sample):
            raise FileError("not_text", "is not text: it has control characters", path=self.path)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def _decoded(self, content: bytes, declared: str | None) -> str:
        marked = next((encoding for mark, encoding in _BOMS if content.startswith(mark)), None)
        for encoding in filter(None, (marked, "utf-8", declared)):
            try:
                return content.decode(encoding).removeprefix("\ufeff")
            except (UnicodeError, LookupError):  # an unknown name, or one such as `undefined`
                if encoding == marked:
                    raise FileError(
                        "bad_encoding", f"begins as {marked} and goes on otherwise", path=self.path
                    ) from None
        if b"\0" in content:
            raise FileError("not_text", "is not text: it has zero bytes", path=self.path)
        guesser = require("charset_normalizer", extra="files")
        # The sample is of the bytes that decide: those that are not ASCII, with what is around them.
        place = next((found.start() for found in re.finditer(rb"[\x80-\xff]", content)), 0)
        guess = guesser.from_bytes(content[max(0, place - 1_000) : place + _SAMPLE]).best()
        for encoding in filter(None, (guess and guess.encoding, "cp1252", "latin-1")):
            try:
                text = content.decode(encoding)
            except (UnicodeDecodeError, LookupError):
                continue
            self.report.note(f"{self.path}: not UTF-8; read as {encoding}, which is a guess")
            return text
        raise FileError("bad_encoding", "its encoding is unknown; save it as UTF-8", path=self.path)  # pragma: no cover

    def converted(self, suffix: str, content: bytes) -> tuple[str, str]:
        """Return title and Markdown of bytes of a foreign format; FileError if they are damaged."""
        from hyperseek.data.files._converter import ConversionError

        try:
            return self.converter.convert(suffix, content)
        except ConversionError as error:
            raise FileError(error.reason, str(error), path=self.path) from None
        except MissingExtraError as error:
            raise FileError("needs_an_extra", str(error), path=self.path) from error


Read: TypeAlias = str | Iterable[Document]
"""What a reader returns: the text of the file's one document, or documents whose ids are within the file."""


@dataclass(frozen=True, slots=True)
class ReaderKind:
    """What reads files of a suffix.

    Attributes:
        read: Returns what a file says.
        rows: Whether it opens the file by itself and yields its rows one by one.
    """

    read: Callable[[File], Read]
    rows: bool = False


def _check(name: str, value: object) -> None:
    if not isinstance(value, ReaderKind) and not callable(value):
        raise InputError(f"the reader of .{name} files must be a function of a file, not {shown(value)}")


_SUFFIXES = {
    "TEXT": """
        txt text log rst org adoc asciidoc tex bib cfg conf ini toml yaml yml json xml proto cmake mk
        py pyi pyx c h cc cpp cxx hpp hh cs java kt scala swift go rs rb php pl pm r jl lua erl dart m f90 asm s vb
        js mjs cjs jsx ts tsx vue css scss sh bash zsh fish ps1 bat sql hs ml fs clj el ex
    """,
    "MARKDOWN": "md markdown mdx",
    "HTML": "html htm xhtml",
    "CONVERTED": "docx epub",
    "PDF": "pdf",
    "MANUAL": "1 2 3 4 5 6 7 8",
    "MAIL": "eml",
    "MAILBOX": "mbox",
    "NOTEBOOK": "ipynb",
    "ROWS": "csv tsv jsonl parquet arrow",
}
_OURS = {
    suffix: f"hyperseek.data.files.formats:{name}" for name, listed in _SUFFIXES.items() for suffix in listed.split()
}
READERS: Registry[Any] = Registry("reader of files", "hyperseek.readers", _OURS, check=_check)


def register_reader(suffix: str, reader: Callable[[File], Read] | None = None) -> Any:
    """Register what reads files of a suffix.

    Args:
        suffix: The suffix, as in `".xyz"`.
        reader: A function of a `File` that returns its text, or documents whose ids are within the file (an empty one
            for the file as a whole), with `{"format": "markdown"}` as metadata of those whose texts are Markdown. What
            it raises is reported as that file's fault. None to use the result as a decorator.

    Returns:
        The reader, or a decorator.

    Raises:
        InputError: The suffix cannot be used or is taken, or the reader is not a function.
    """
    if not isinstance(suffix, str) or not suffix.startswith(".") or suffix.lower() != suffix:
        raise InputError(f"a reader is registered for a suffix in lower case, as '.xyz', not for {shown(suffix)}")
    return READERS.register(suffix[1:], reader)


def reader_of(path: Path) -> ReaderKind | None:
    """Return what reads a file of this name, or None; files without a suffix may be texts."""
    suffix = base_suffix(path)[1:]
    if not suffix or (suffix not in READERS and _NO_NAME.fullmatch(path.name.partition(".")[0])):
        suffix = "txt"
    if suffix not in READERS:
        return None
    value = READERS[suffix]
    return value if isinstance(value, ReaderKind) else ReaderKind(value)


def opened(path: Path) -> io.BufferedReader:
    """Open a file for reading; FileError if it cannot be opened, or is a pipe or a device, which is not waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags)
    except FileNotFoundError:
        if os.path.islink(path):
            raise FileError("broken_link", "is a link to nothing", path=path) from None
        raise FileError("vanished", "does not exist", path=path) from None
    except PermissionError:
        raise FileError("no_permission", "may not be read; check its permissions", path=path) from None
    except (OSError, ValueError) as error:
        reason = "link_in_a_circle" if getattr(error, "errno", None) == errno.ELOOP else "unreadable"
        raise FileError(reason, f"cannot be read ({getattr(error, 'strerror', error)})", path=path) from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise FileError("pipe_or_device", "is a pipe, a socket or a device", path=path)
    return os.fdopen(number, "rb")


_Bytes = TypeVar("_Bytes", bytes, bytearray)


def _bounded(content: _Bytes, path: Path) -> _Bytes:
    if len(content) > LARGEST_FILE:
        raise FileError("too_large", f"has more than {LARGEST_FILE:,} bytes, and is read as a whole", path=path)
    return content

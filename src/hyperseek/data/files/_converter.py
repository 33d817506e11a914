"""Conversion of foreign formats to Markdown, in a process of its own with limits of time and memory.

Converters read files of strangers: one that crashes, hangs or fills the memory costs that file and nothing else. The
process is this file, started as a program. It gets bytes and returns JSON, opens no file and no connection, and is not
`multiprocessing`, which would run the main program of the user again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from typing import IO, Any

from hyperseek.errors import require

SECONDS = 120.0
"""Most seconds that the conversion of one file may take."""

LARGEST_RESULT = 1 << 27
"""Most bytes of Markdown of one file, and of what a packed file holds."""

_MEMORY = 4 << 30  # bytes of address space; a large library maps half of one
_START = 120.0  # seconds, added to the first file's: imports on a busy machine
_DEEPEST = 5_000  # levels of Python's stack; deep HTML needs more than the default
PACKED = (".docx", ".epub")
"""Suffixes of converted files that are archives."""


class ConversionError(Exception):
    """A file that could not be converted.

    Args:
        reason: A short stable name.
        message: What happened.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Converter:
    """Converts files one after the other; the process starts with the first file and again after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def convert(self, suffix: str, content: bytes) -> tuple[str, str]:
        """Convert a file.

        Args:
            suffix: What kind of file it is, as in `".pdf"`.
            content: Its bytes.

        Returns:
            Its title, which may be empty, and its text as Markdown.

        Raises:
            ConversionError: It is damaged, takes too long, or needs too much memory.
            MissingExtraError: There is no converter.
        """
        if importlib.util.find_spec("markitdown") is None:
            require("markitdown", extra="files")  # says how to install it; importing it takes seconds
        seconds = SECONDS if self._process else SECONDS + _START
        process = self._process = self._process or _started()
        expired = threading.Event()

        def stop() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([suffix, len(content)]).encode() + b"\n" + content)
            process.stdin.flush()
            line = process.stdout.readline(8 * LARGEST_RESULT)
            answer = json.loads(line)
            timer.cancel()
        except (OSError, ValueError):
            timer.cancel()
            self.close()
            if expired.is_set():
                raise ConversionError("time_limit", f"its conversion took more than {SECONDS:.0f} s") from None
            code = process.returncode
            raise ConversionError("damaged", f"its conversion ended the converter (exit status {code})") from None
        except BaseException:  # Ctrl-C: the answer to this file must not be taken for that to the next
            timer.cancel()
            self.close()
            raise
        if "reason" in answer:
            raise ConversionError(answer["reason"], answer["message"])
        return answer["title"], answer["text"]

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def __enter__(self) -> Converter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _started() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=os.name == "posix",  # Ctrl-C is for the parent
    )


# In the process.


def _serve(given: IO[bytes], answers: IO[bytes]) -> None:
    _limit()
    while header := given.readline(1_000):
        suffix, size = json.loads(header)
        content = given.read(size)
        if len(content) < size:
            return
        try:
            title, text = _converted(suffix, content)
            answer = {"title": title, "text": text}
        except ConversionError as error:
            answer = {"reason": error.reason, "message": str(error)}
        except MemoryError:
            answer = {"reason": "too_large", "message": "its conversion needs too much memory"}
        except Exception as error:  # a converter may raise anything
            lines = str(error).strip().splitlines()
            message = f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__
            answer = {"reason": "damaged", "message": f"is damaged, or not a file of {suffix} ({message})"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _limit() -> None:
    import socket

    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError("converters open no connections")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        setattr(socket.socket, name, refused)
    sys.setrecursionlimit(_DEEPEST)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # the system has no such limit
        pass


def _converted(suffix: str, content: bytes) -> tuple[str, str]:
    import io

    from markitdown import StreamInfo, converters

    if suffix in PACKED:
        _check_archive(content)
    # By suffix: `MarkItDown` itself takes a damaged file for text. It would also load a model to guess kinds.
    converter = {
        ".html": converters.HtmlConverter,
        ".docx": converters.DocxConverter,
        ".epub": converters.EpubConverter,
        ".pdf": converters.PdfConverter,
    }[suffix]()
    charset = "utf-8" if suffix == ".html" else None
    result = converter.convert(io.BytesIO(content), StreamInfo(extension=suffix, charset=charset))
    text = result.markdown
    if len(text) > LARGEST_RESULT:
        raise ConversionError("too_large", f"has {len(text):,} characters of text; the limit is {LARGEST_RESULT:,}")
    title = result.title or (_pdf_title(content) if suffix == ".pdf" else "")
    return " ".join(str(title).split()), text.encode(errors="replace").decode()


def _check_archive(content: bytes) -> None:
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST_RESULT:
        raise ConversionError("too_large", f"is an archive of {size:,} bytes; the limit is {LARGEST_RESULT:,}")


def _pdf_title(content: bytes) -> str:
    import io

    from pdfminer.pdfdocument import PDFDocument
    from pdfminer.pdfparser import PDFParser
    from pdfminer.utils import decode_text

    try:
        title = PDFDocument(PDFParser(io.BytesIO(content))).info[0].get("Title", b"")
        return decode_text(title) if isinstance(title, bytes) else ""
    except Exception:  # it is only a title
        return ""


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not an answer
    _serve(sys.stdin.buffer, own)

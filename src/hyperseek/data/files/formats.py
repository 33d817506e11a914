"""Readers of the kinds of files that are known without another package."""

from __future__ import annotations

import csv
import email
import email.policy
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any

from hyperseek._bounded import json_value
from hyperseek._documents import ID_KEYS, TEXT_KEYS, TITLE_KEYS, find_key, id_of, plain_values
from hyperseek.data.files.readers import LARGEST_FILE, File, FileError, ReaderKind
from hyperseek.data.reading import Faults, Row
from hyperseek.data.tables import file_rows
from hyperseek.errors import brief
from hyperseek.types import MARKDOWN_TEXT, Document

_HEAD = 4_000  # characters in which a title is looked for
_MARKED_HEADING = re.compile(r"^(?:#\+title:|=|#)\s+(\S.*?)[\s#=]*$", re.IGNORECASE | re.MULTILINE)
_FRONT_TITLE = re.compile(r"\A---\n(?:.*\n)*?title:[ \t]*(\S.*)\n(?:.*\n)*?---\n")
_QUOTED = re.compile(r"[\"']?(.+?)[\"']?[ \t]*")
_LINED_HEADING = re.compile(r"^(?:([=\-~*#^\"+])\1{2,}\n)?[ \t]*(\S.*)\n([=\-~*#^\"+])\3{2,}[ \t]*$", re.MULTILINE)
_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_DEEPEST_MAIL = 20
_MOST_COLUMNS = 100_000


def _text(file: File) -> Iterator[Document]:
    text = file.text
    if file.suffix in (".rst", ".adoc", ".asciidoc", ".org"):
        found = _LINED_HEADING.search(text, 0, _HEAD)
        title = found[2] if found else _marked(text)
    else:
        title = ""
    yield Document("", text, title.strip() or (file.path.name if file.suffix not in (".txt", ".text", "") else ""))


def _markdown(file: File) -> Iterator[Document]:
    text = file.text
    found = _LINED_HEADING.match(text.lstrip()[:_HEAD])
    title = _front_title(text) or _marked(text) or (found[2].strip() if found else "")
    yield Document("", text, title, MARKDOWN_TEXT)


def _front_title(text: str) -> str:
    front = _FRONT_TITLE.search(text[:_HEAD])
    value = front and _QUOTED.fullmatch(front[1])
    return value[1] if value else ""


def _marked(text: str) -> str:
    found = _MARKED_HEADING.search(text[:_HEAD])
    return found[1] if found else ""


def _html(file: File) -> Iterator[Document]:
    content = file.content
    declared = _CHARSET.search(content[:2_000])
    yield _html_document(file, file.decoded(content, declared[1].decode() if declared else None))


def _html_document(file: File, source: str) -> Document:
    title, text = file.converted(".html", source.encode(errors="replace"))
    return Document("", text, title or _marked(text), MARKDOWN_TEXT)


def _converted(file: File) -> Iterator[Document]:
    title, text = file.converted(file.suffix, file.content)
    yield Document("", text, title or _marked(text), MARKDOWN_TEXT)


def _pdf(file: File) -> Iterator[Document]:
    # Not marked as Markdown: its headings look like any other line, and `# ` begins a comment in a program.
    title, text = file.converted(file.suffix, file.content)
    yield Document("", text.replace("\f", "\n\n"), title)


# Manual pages.

_ESCAPES: tuple[tuple[str, str], ...] = (
    (r"\\f(?:\[\w*\]|\(..|.)|\\s[-+]?\d|\\[&|^/,:%)c]|\\[mM]\[[^\]]{0,40}\]|\\d|\\u", ""),
    (r"\\\*?\((?:lq|rq)|\\\*?\[(?:lq|rq)\]|\\\(dq|\\\[dq\]", '"'),
    (r"\\\((?:aq|cq|oq)|\\\[(?:aq|cq|oq)\]", "'"),
    (r"\\(?:\((?:em|en|hy|mi)|\[(?:em|en|hy|mi)\]|-)", "-"),
    (r"\\\((?:bu|ci)|\\\[(?:bu|ci)\]", "*"),
    (r"\\(?:\(ha|\[ha\])", "^"),
    (r"\\(?:\(ti|\[ti\])", "~"),
    (r"\\(?:\(rs|\[rs\]|e|\\)", r"\\"),
    (r"\\(?:~|0| |\()?(?=\s)|\\[~0 ]", " "),
    (r"\\\[u([0-9A-F]{4,6})\]", ""),
    (r"\\[\[(*$n]?\[?[\w.]{0,20}\]?", ""),
)
_HEADINGS = {"SH": "## ", "Sh": "## ", "SS": "### ", "Ss": "### "}
_DROPPED = re.compile(
    r"^['.]\s*(?:\\\"|TH|Dd|Dt|Os|de|\.|ie|el|if|nr|ds|ad|na|hy|nh|so|ft|ns|ne|ta|tr|UR|UE|in|sp \d)(?!\w)"
)


def _manual(file: File) -> Iterator[Document]:
    source = file.text
    blocks: list[list[str]] = [[]]  # paragraphs and headings
    heading = skipping = literal = False  # the next line is a heading's text; a macro is defined; lines are kept
    for line in source.split("\n"):
        if skipping or re.match(r"[.']\s*(?:de|am|ig)\b", line):
            skipping = not re.match(r"\.\s*\.\s*$", line)
            continue
        if not line.startswith((".", "'")):
            blocks[-1] += ["\n" if literal else " ", _unescaped(line)]
            if not line or heading:
                blocks.append([])
            heading = False
            continue
        macro, _, rest = line[1:].strip().partition(" ")
        words = [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', rest)]
        literal = macro in ("nf", "EX") or (literal and macro not in ("fi", "EE"))
        if macro in _HEADINGS:
            blocks += [[_HEADINGS[macro] + _unescaped(" ".join(words))]] + ([[]] if words else [])
            heading = not words
        elif macro in _BREAKS:
            blocks.append(
                [_unescaped(" ".join(words if macro == "It" else words[:1]))] if macro in ("IP", "It") else []
            )
        elif words and not _DROPPED.match(line):
            joined = ("" if macro in _JOINED else " ").join(words)
            blocks[-1] += ["\n" if literal else " ", _unescaped(joined)]
    text = "\n\n".join(block for each in blocks if (block := "".join(each).strip()))
    metadata = {**MARKDOWN_TEXT}
    if "\n## " not in f"\n{text}":
        text, metadata = source, {}  # no manual page, but a file such as `notes.1`
    named = re.search(r"^## NAME\s+(.+)$", text, re.MULTILINE | re.IGNORECASE)
    yield Document("", text, named[1] if named else "", metadata)


_JOINED = ("BR", "RB", "IR", "RI", "BI", "IB")
_BREAKS = ("PP", "P", "LP", "Pp", "TP", "IP", "HP", "It", "br", "sp", "nf", "fi", "EX", "EE", "RS", "RE", "TQ")


def _unescaped(line: str) -> str:
    if "\\" in line:
        line = re.sub(r"\\\".*", "", line)
        for pattern, text in _ESCAPES:
            line = re.sub(pattern, text, line)
    return line


# E-mail.


def _mail(file: File) -> Iterator[Document]:
    yield _message(file, file.content, "")


def _mailbox(file: File) -> Iterator[Document]:
    # A message begins at a line "From " behind an empty one.
    places = [found.start() for found in re.finditer(rb"(?:\A|(?<=\n\n)|(?<=\r\n\r\n))From [^\n]*\n", file.content)]
    if not places or places[0]:
        raise FileError("damaged", "is not a mailbox: it begins otherwise than with 'From '", path=file.path)
    for number, (start, end) in enumerate(zip(places, [*places[1:], None], strict=True), start=1):
        content = file.content[start:end].partition(b"\n")[2]
        try:
            yield _message(file, re.sub(rb"^>(>*From )", rb"\1", content, flags=re.MULTILINE), str(number))
        except FileError as error:
            file.report.add(error.reason, f"{error}, message {number}")


def _message(file: File, content: bytes, identity: str) -> Document:
    try:
        message = email.message_from_bytes(content, policy=email.policy.compat32)
        if not message.keys():
            raise FileError("damaged", "is not an e-mail: it has no headers", path=file.path)
        parts: list[str] = []
        left: Counter[str] = Counter()
        _collect(file, message, parts, left, 0)
    except RecursionError:
        raise FileError("damaged", "its parts are nested too deeply", path=file.path) from None
    headers = {name: _header(message, name) for name in ("From", "To", "Cc", "Date", "Subject")}
    for kind, count in left.items():
        file.report.add(f"attachment {kind}", f"{file.path}: an attachment of {kind} is not read", count=count)
    lines = [f"{name}: {value}" for name, value in headers.items() if value]
    metadata = {name.lower(): value for name, value in headers.items() if value and name in ("From", "To", "Date")}
    return Document(identity, "\n\n".join(["\n".join(lines), *filter(None, parts)]), headers["Subject"], metadata)


def _header(message: Message, name: str) -> str:
    try:
        value = EmailMessage(email.policy.default)
        value[name] = " ".join(str(message.get(name, "")).split())
        return str(value[name]).encode(errors="replace").decode()
    except Exception:  # the library's parsers of headers raise many kinds
        return " ".join(str(message.get(name, "")).split()).encode(errors="replace").decode()


def _collect(file: File, part: Message, found: list[str], left: Counter[str], depth: int) -> None:
    """Add the texts of a part and of the parts in it, in their order; count what is not text."""
    if depth > _DEEPEST_MAIL:
        raise RecursionError
    kind = part.get_content_type()
    inner = part.get_payload() if part.is_multipart() else []
    inner = inner if isinstance(inner, list) else [inner]
    if kind == "multipart/alternative":  # the same text in several forms
        plain = [each for each in inner if isinstance(each, Message) and each.get_content_type() == "text/plain"]
        inner = plain[:1] or inner[-1:]
    if part.is_multipart():
        for each in inner:
            if isinstance(each, Message):
                _collect(file, each, found, left, depth + 1)
        return
    if not kind.startswith("text/") or part.get_content_disposition() == "attachment":
        left[kind] += 1
        return
    payload = part.get_payload(decode=True)
    text = file.decoded(payload if isinstance(payload, bytes) else b"", part.get_content_charset())
    found.append((_html_document(file, text).text if kind == "text/html" else text).strip())


def _notebook(file: File) -> Iterator[Document]:
    try:
        value = json_value(file.text, dict)
        cells = value["cells"]
        language = str(value.get("metadata", {}).get("kernelspec", {}).get("language", "python"))
        parts = []
        for cell in cells:
            source = cell.get("source", "")
            text = "".join(source) if isinstance(source, list) else str(source)
            parts.append(text if cell.get("cell_type") == "markdown" else f"```{language}\n{text}\n```")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError("damaged", f"is not a notebook ({brief(error)})", path=file.path) from None
    text = "\n\n".join(parts)
    yield Document("", text, _marked(text), MARKDOWN_TEXT)


# Tables.


def _rows(file: File) -> Iterator[Document]:
    # A row that is no row is counted, and the others are read.
    faults = Faults("skip", file.report)
    suffix = file.suffix
    rows = _separated(file) if suffix in (".csv", ".tsv") else file_rows(file.path, faults)
    return row_documents(rows)


def row_documents(rows: Iterable[Row]) -> Iterator[Document]:
    """Turn rows into documents, whatever columns they have; nothing is left out.

    Args:
        rows: Numbers from 1 and rows. The columns of id, text and title are found by their names in the first row.

    Yields:
        Documents. Without an id, or with one that an earlier row has, the id is the row's number, behind `~` in the
        second case; without a column of text, the text is all cells, each in a line with its column's name.
    """
    keys: tuple[str | None, str | None, str | None] | None = None
    seen: set[int] = set()
    for number, row in rows:
        if keys is None:
            own = find_key(ID_KEYS, row)
            keys = own, find_key(TEXT_KEYS, [key for key in row if key != own]), find_key(TITLE_KEYS, row)
        rest = dict(row)
        own_id, given, title = (None if key is None else rest.pop(key, None) for key in keys)
        identity = id_of(own_id) or str(number)
        if hash(identity) in seen:
            identity = f"{identity}~{number}"
        seen.add(hash(identity))
        rest = {str(name): _plain(value) for name, value in rest.items() if not isinstance(value, bytes)}
        cells = [f"{name}: {value}" for name, value in rest.items() if value not in (None, "")]
        text = str(given) if given is not None else "\n".join(cells)
        yield Document(identity, text, "" if title is None else str(title), rest)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    plain = plain_values(value)
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None if plain != plain else str(plain)
    return plain


def _separated(file: File) -> Iterator[Row]:
    """Yield the rows of a table of cells separated by commas, semicolons or tabs, whose first line names columns."""
    text = file.text
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_FILE))
    first = text.partition("\n")[0]
    if file.suffix == ".tsv":
        table = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        table = csv.reader(io.StringIO(text), delimiter=max(",;\t|", key=first.count))
    names: list[str] = []
    try:
        for number, cells in enumerate(table):
            if len(cells) > _MOST_COLUMNS:
                raise FileError("too_large", f"has more than {_MOST_COLUMNS:,} columns", path=file.path)
            if not names:
                names = _columns(cells)
            elif cells:
                if len(cells) > len(names):  # a row may be longer or shorter than the first
                    names = _columns([*names, *[""] * (len(cells) - len(names))])
                yield number, {**dict.fromkeys(names), **dict(zip(names, cells, strict=False))}
    except csv.Error as error:
        raise FileError("damaged", f"is not a table ({error})", path=file.path) from None


def _columns(cells: list[str]) -> list[str]:
    names: list[str] = []
    taken: set[str] = set()
    for place, cell in enumerate(cells, start=1):
        name = cell.strip()
        if not name or name in taken:
            name = f"column_{place}"
        while name in taken:
            name += "_"
        names.append(name)
        taken.add(name)
    return names


def separated_rows(path: Path, faults: Faults) -> Iterator[Row]:
    """Stream the rows of a `.csv` file; see `_separated`."""
    return _separated(File(path, path.name, faults.report))


TEXT, MARKDOWN, HTML, CONVERTED, PDF, MANUAL, MAIL, MAILBOX, NOTEBOOK = map(
    ReaderKind, (_text, _markdown, _html, _converted, _pdf, _manual, _mail, _mailbox, _notebook)
)
ROWS = ReaderKind(_rows, rows=True)

"""Long documents in passages: parts that a model reads whole, at sentences, headings or blank lines.

The packages that find boundaries see a document in blocks, so that one line of 100 MB takes time in proportion.
"""

from __future__ import annotations

import importlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from hyperseek.errors import InputError, UnknownNameError, require, shown
from hyperseek.types import MARKDOWN_TEXT, Document

if TYPE_CHECKING:
    from hyperseek.models import Encoder

SEPARATOR = " \u203a "
"""Between the title of a document and the headings of a passage, in the title of the passage."""

# Tokens of a passage where the model reads more: what a question asks for is seldom longer.
_MOST_TOKENS = 512
_FEWEST_TOKENS = 16
# Characters of a passage per token: words that a tokenizer does not know are one token, however long they are.
_CHARACTERS = 32
# Characters that the splitter sees at a time: without sentences its time grows with their square.
_BLOCK = 16_384
# Characters of Markdown that are parsed at a time.
_PARSED = 1 << 20

_NEW_LINE = re.compile(r"\r\n?|\n")  # as Markdown has them
_LONGEST_FRONT_MATTER = 10_000  # characters

_GRAMMARS = {
    ".c": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".cs": "c_sharp",
    ".go": "go",
    ".h": "c",
    ".hpp": "cpp",
    ".java": "java",
    ".js": "javascript",
    ".jl": "julia",
    ".php": "php",
    ".py": "python",
    ".rb": "ruby",
    ".rs": "rust",
    ".scala": "scala",
    ".sh": "bash",
}
"""The grammar of source code by the suffix of its file; it is the package `tree_sitter_` and this, if installed."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a passage is.

    Attributes:
        start: First character of the document's text.
        end: Behind the last one.
        title: What precedes it when it is encoded: the document's title and headings, perhaps shortened.
        headings: All headings that it stands under, the outermost first.
    """

    start: int
    end: int
    title: str
    headings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Section:
    start: int
    path: tuple[str, ...]


class TokenCounter:
    """Counts the tokens of texts as the document side of a model reads them, without a limit.

    Args:
        model: The model.

    Raises:
        InputError: It has no tokenizer.
    """

    def __init__(self, model: Encoder) -> None:
        self._tokenizer, self._prompt, self._special = _tokenizer_of(model)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens texts have, with prompt and special tokens."""
        return [self._special + count for count in self._count([self._prompt + text for text in texts])]

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(one.ids) for one in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class Splitter(TokenCounter):
    """Splits documents for a model.

    Args:
        model: Its document side says how long a passage may be; it needs a tokenizer.
        tokens: Most tokens of a passage, with its title, prompt and special tokens.
        overlap: Tokens of a passage that the one before has as well, at most.

    Raises:
        InputError: The model has no tokenizer, reads fewer tokens, or so few that there is no room for a text.
        MissingExtraError: The package that finds boundaries is not installed.
    """

    def __init__(self, model: Encoder, *, tokens: int, overlap: int = 0) -> None:
        super().__init__(model)
        self.tokens, self.overlap = tokens, overlap
        self._characters = _CHARACTERS * tokens
        self._room = tokens - self.lengths([""])[0]
        limit = longest(model)
        if limit is not None and tokens > limit:
            raise InputError(f"passages of {tokens} tokens are too long: {model.source} reads {limit} of a document")
        if self._room < _FEWEST_TOKENS // 2 or not 0 <= overlap <= self._room // 2:
            raise InputError(
                f"passages of {tokens} tokens have no room for a text, or not for an overlap of {overlap}: of each, "
                f"{tokens - self._room} are the model's own, and at most half of the rest may overlap"
            )
        self._make = require("semantic_text_splitter", extra="files")
        self._splitters: dict[tuple[str, int], Any] = {}

    @classmethod
    def of(cls, model: Encoder, passages: Mapping[str, int] | None) -> Self | None:
        """Return the splitter of an index, None for one of whole documents."""
        return None if passages is None else cls(model, **passages)

    def split(self, document: Document) -> list[Part]:
        """Return the passages of a document, at least one.

        Each begins where the one before ends, or before by the overlap; the first begins and the last ends with the
        text. A document that the model reads whole is one passage.
        """
        text = document.text
        if len(text) <= self._characters and self._fits(document.title, text):
            return [Part(0, len(text), document.title)]
        kind = _kind_of(document)
        sections = _sections(text) if kind == "markdown" else [_Section(0, ())]
        titles = self._titles(document.title, {section.path for section in sections})
        # Few distinct capacities, since a splitter of each is kept.
        step = max(1, self.tokens // 16)
        used = max(self._count(list(titles.values())))
        capacity = max(1, self._room - step * -(-(used + (used > 0)) // step))
        spans = self._filled(text, self._spans(text, sections, kind, capacity), sections, capacity)
        return list(self._parts(text, spans, sections, titles, document.title))

    def _parts(
        self,
        text: str,
        spans: Iterable[tuple[int, int]],
        sections: Sequence[_Section],
        titles: dict[tuple[str, ...], str],
        title: str,
    ) -> Iterator[Part]:
        starts = [section.start for section in sections]
        behind = 0
        for start, end in spans:
            path = _path_of(text, max(start, behind), end, sections, starts)
            if path not in titles:
                titles |= self._titles(title, {path})
            # Tokens of a text may be more than those of its parts, and the splitter counts parts.
            for first, last in self._fitting(titles[path], text, start, end):
                yield Part(first, last, titles[path], path)
            behind = end

    def _spans(self, text: str, sections: Sequence[_Section], kind: str, capacity: int) -> Iterator[tuple[int, int]]:
        splitter = self._splitter(kind, capacity)
        starts = [section.start for section in sections]
        for start, end in _blocks(text, starts, max(_BLOCK, self._characters)):
            for offset, chunk in splitter.chunk_indices(text[start:end]):
                yield start + offset, start + offset + len(chunk)

    def _filled(
        self, text: str, spans: Iterable[tuple[int, int]], sections: Sequence[_Section], capacity: int
    ) -> Iterator[tuple[int, int]]:
        """Add to small spans what fits of the next: a heading before a long paragraph is a span of its own."""
        starts = [section.start for section in sections]
        step = max(1, self.tokens // 8)
        own: tuple[int, int] | None = None
        for start, end in _joined(text, spans):
            if own is None:
                own = start, end
                continue
            behind = text[own[1] : end]
            used = self._count([text[own[0] : own[1]]])[0]
            first = own[1] + len(behind) - len(behind.lstrip())
            together = bisect_right(starts, own[1] - 1) == bisect_right(starts, first) or used < self.tokens // 16
            room = (capacity - used) // step * step
            if used >= capacity // 4 or not together or not room:
                yield own
                own = (start if start > own[0] else own[1]), end
            elif len(behind) <= self._characters and self._count([behind])[0] <= room:
                own = own[0], end
            else:
                cut = own[1] + len(self._splitter("", room).chunk_indices(behind)[0][1])
                yield own[0], cut
                own = (cut, end) if cut < end else None
        if own is not None:
            yield own

    def _fitting(self, title: str, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield a span, or parts of it if it is too long."""
        own = text[start:end]
        if len(own) < 2 or (len(own.strip()) <= self._characters and self._fits(title, own)):
            yield start, end
            return
        middle = (start + end) // 2
        blanks = (text.rfind(" ", start, middle), text.find(" ", middle, end - 1))
        place = min((at for at in blanks if at > start), key=lambda at: abs(at - middle), default=middle)
        yield from self._fitting(title, text, start, place)
        yield from self._fitting(title, text, place, end)

    def _fits(self, title: str, text: str) -> bool:
        return self.lengths([f"{title} {text}".strip()])[0] <= self.tokens

    def _titles(self, title: str, paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
        """Return the title of passages under each path of headings, of at most a quarter of a passage."""
        most = self.tokens // 4
        found = {}
        for path in paths:
            names = [title, *path[path[:1] == (title,) :]]
            names = [name for name in names if name]
            while len(names) > 1 and self._count([SEPARATOR.join(names)])[0] > most:
                del names[0]
            found[path] = self._shortened(SEPARATOR.join(names), most)
        return found

    def _shortened(self, text: str, most: int) -> str:
        text = text[: _CHARACTERS * most]
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return text if len(encoded.ids) <= most else text[: encoded.offsets[most - 1][1]]

    def _splitter(self, kind: str, capacity: int) -> Any:
        key = kind, capacity
        if key not in self._splitters:
            options = {"overlap": min(self.overlap, capacity // 2), "trim": False}
            given = (self._tokenizer, capacity)
            if kind == "markdown":
                made = self._make.MarkdownSplitter.from_huggingface_tokenizer(*given, **options)
            elif kind:
                made = self._make.CodeSplitter.from_huggingface_tokenizer(_language(kind), *given, **options)
            else:
                made = self._make.TextSplitter.from_huggingface_tokenizer(*given, **options)
            self._splitters[key] = made
        return self._splitters[key]


def as_passages(given: object, model: Encoder) -> dict[str, int] | None:
    """Return how an index splits documents, as `IndexInfo` remembers it.

    Args:
        given: True for passages as long as the model reads, at most 512 tokens, without overlap; a mapping with
            `tokens`, `overlap` or both; None or False for whole documents.
        model: What encodes them.

    Returns:
        Tokens and overlap; None for whole documents.

    Raises:
        InputError: It is something else, or does not fit the model.
        UnknownNameError: An option is unknown.
    """
    if given is None or given is False:
        return None
    if given is not True and not isinstance(given, Mapping):
        raise InputError(f"passages are True, or as {{'tokens': 256, 'overlap': 32}}, or None, not {shown(given)}")
    options = {} if given is True else dict(given)
    for name, value in options.items():
        if name not in ("tokens", "overlap"):
            raise UnknownNameError("option of passages", str(name), ("tokens", "overlap"))
        least = _FEWEST_TOKENS if name == "tokens" else 0
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} of passages is a whole number of at least {least}, not {shown(value)}")
    limit = longest(model)
    tokens = options.get("tokens", min(_MOST_TOKENS, limit or _MOST_TOKENS))
    chosen = {"tokens": tokens, "overlap": options.get("overlap", 0)}
    Splitter(model, **chosen)  # which says what is wrong
    return chosen


def longest(model: Encoder) -> int | None:
    """Return how many tokens a model reads of a document; None for all."""
    limits: Any = getattr(model, "max_length", None) or {}
    limit: int | None = limits.get("document")
    return limit


def _tokenizer_of(model: Encoder) -> tuple[Any, str, int]:
    """Return a tokenizer of a model without its limits, its prompt, and its number of special tokens."""
    from tokenizers import Tokenizer

    route: Any = getattr(model, "route", None)
    own: Any = None if route is None else getattr(route("document")[0], "tokenizer", None)
    backend = own if isinstance(own, Tokenizer) else getattr(own, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(
            f"passages are measured in tokens, and {model.source} has no tokenizer that says where they are; leave "
            f"passages out"
        )
    copied = Tokenizer.from_str(backend.to_str())
    copied.no_truncation()
    copied.no_padding()
    prompts: Any = getattr(getattr(model, "model", None), "prompts", None) or {}
    special = 0 if own is backend else own.num_special_tokens_to_add()
    return copied, prompts.get("document") or "", special


def _sections(text: str) -> list[_Section]:
    """Return the sections of a Markdown text, the first from 0 with what is before all headings."""
    make = require("markdown_it", extra="files").MarkdownIt
    parser, inner = make("commonmark"), make("commonmark")
    parser.core.ruler.disable("inline")  # which is of use in headings alone
    found = [_Section(0, ())]
    open_headings: list[tuple[int, str]] = []
    for start, end in _blocks(text, [], _PARSED, begin=_behind_front_matter(text)):
        block = text[start:end]
        lines = [0, *(match.end() for match in _NEW_LINE.finditer(block))]
        tokens = parser.parse(block)
        for token, content in pairwise(tokens):
            if token.type != "heading_open" or token.level or token.map is None:
                continue
            level = int(token.tag[1:])
            open_headings = [heading for heading in open_headings if heading[0] < level]
            if name := _plain(inner, content.content):
                open_headings.append((level, name))
            found.append(_Section(start + lines[token.map[0]], tuple(name for _, name in open_headings)))
    return found


def _plain(parser: Any, heading: str) -> str:
    """Return a heading without its markup."""
    inline = parser.parseInline(heading)[0].children or []
    parts = [" " if token.type.endswith("break") else token.content for token in inline if token.type != "html_inline"]
    return " ".join("".join(parts).split())


def _behind_front_matter(text: str) -> int:
    """Return where Markdown begins behind fields between lines of `---`, whose last line would be a heading's rule."""
    lines = _NEW_LINE.finditer(text, 0, min(len(text), _LONGEST_FRONT_MATTER))
    first = next(lines, None)
    if first is None or text[: first.start()].rstrip() != "---":
        return 0
    begin = first.end()
    for line in lines:
        if text[begin : line.start()].rstrip() in ("---", "..."):
            return line.end()
        begin = line.end()
    return 0


def _path_of(text: str, start: int, end: int, sections: Sequence[_Section], starts: Sequence[int]) -> tuple[str, ...]:
    """Return the headings that all of a passage stands under."""
    if len(sections) == 1:
        return ()
    start += len(text[start:end]) - len(text[start:end].lstrip())  # blank lines before a heading
    first = bisect_right(starts, min(start, max(0, end - 1))) - 1
    path = sections[first].path
    for section in sections[first + 1 : bisect_right(starts, max(0, end - 1))]:
        shared = 0
        while shared < min(len(path), len(section.path)) and path[shared] == section.path[shared]:
            shared += 1
        path = path[:shared]
    return path


def _blocks(text: str, starts: Sequence[int], size: int, *, begin: int = 0) -> Iterator[tuple[int, int]]:
    """Divide a text: before headings if possible, else behind blank lines, lines or blanks."""
    while len(text) - begin > size:
        last, half = begin + size, begin + size // 2
        place = bisect_right(starts, last) - 1
        end = starts[place] if place >= 0 and starts[place] > half else 0
        for mark in ("\n\n", "\n", " "):
            if not end and (found := text.rfind(mark, half, last)) >= 0:
                end = found + len(mark)
        yield begin, end or last
        begin = end or last
    if begin < len(text):
        yield begin, len(text)


def _joined(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join blanks without words to what is before them, or behind the first ones."""
    waiting: tuple[int, int] | None = None
    for start, end in spans:
        if waiting is None:
            waiting = start, end
        elif text[start:end].isspace() or text[waiting[0] : waiting[1]].isspace():
            waiting = waiting[0], end
        else:
            yield waiting
            waiting = start, end
    yield waiting or (0, len(text))


def _kind_of(document: Document) -> str:
    """Return what a text is: `markdown`, source code with a grammar by its suffix as in `.py`, or "" for any other."""
    if MARKDOWN_TEXT.items() <= document.metadata.items():
        return "markdown"
    suffix = document.metadata.get("suffix")
    return suffix if isinstance(suffix, str) and _language(suffix) is not None else ""


@cache
def _language(suffix: str) -> Any:
    """Return the grammar for a kind of source code; None where there is none."""
    name = _GRAMMARS.get(suffix)
    if name is None:
        return None
    try:
        grammar = importlib.import_module(f"tree_sitter_{name}")
    except ImportError:
        return None
    return grammar.language()

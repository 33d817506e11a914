"""The prompt of `hyperseek search INDEX`: many queries, one model.

Lines come from a terminal, with history, or from a pipe; a line that begins with a colon is a command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperseek.cli._echo import echo, echo_exactly, echo_json, plain_rows, print_matches, print_tables, print_whole
from hyperseek.errors import HyperseekError, InputError, UnknownNameError, brief, shown
from hyperseek.types import Hit, Query

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.serve import RemoteIndex

_MOST = 10_000  # hits that one query may ask for; more belong into a file
_HELP = """\
:k N           documents per query
:where SQL     condition on documents, as in: year > 2015; empty for all
:level N       level of the query, for models with levels; empty for the narrowest
:card CARD     task card, for models with cards: a file or a name; empty for none
:plan FILE     stages to search by; empty for the automatic choice
:hybrid        fuse full-text search with the model's own, or stop it
:explain       say what each stage of a search did, or stop it
:next          the next documents of the last query
:open N        the whole document of rank N
:help          this list
:quit          end, as Ctrl-D does; Ctrl-C stops a search or drops a line"""


@dataclass
class Session:
    """What a prompt remembers from line to line.

    Attributes:
        index: What is searched.
        options: Keywords of `Index.search`, apart from those of a single query.
        format: As of `hyperseek search`.
        explain: Whether to explain searches.
        hybrid: Whether to fuse full-text search with the model's own.
        tag: Last column of TREC runs.
        grouping: The metadata field that tables are grouped by, and its depth.
        count: Number of queries so far.
        mistakes: Number of lines so far that could not be answered.
        query: The last query.
        hits: Its hits that were shown.
    """

    index: Index | RemoteIndex
    options: dict[str, Any]
    format: str = "table"
    explain: bool = False
    hybrid: bool = False
    tag: str = "hyperseek"
    grouping: tuple[str, int | None] | None = None
    count: int = 0
    mistakes: int = 0
    query: Query | None = None
    hits: list[Hit] = field(default_factory=list)

    def answer(self, line: str) -> bool:
        """Answer one line: a query or a command; mistakes are one line on standard error.

        Args:
            line: The line.

        Returns:
            Whether to go on.
        """
        try:
            if line.startswith(":"):
                return self._command(line)
            if line.strip():
                self.count += 1
                self._search(Query(str(self.count), line.strip()), self.options["k"])
        except HyperseekError as error:
            self.mistakes += 1
            echo(" ".join(str(error).split()), err=True)
        return True

    def _command(self, line: str) -> bool:
        name, _, rest = line[1:].strip().partition(" ")
        if name in ("quit", "q", "exit"):
            return False
        if name not in _COMMANDS:
            raise UnknownNameError("command", f":{name}", [f":{each}" for each in (*_COMMANDS, "quit")])
        _COMMANDS[name](self, rest.strip())
        return True

    def _search(self, query: Query, k: int, *, shown_before: int = 0) -> None:
        from hyperseek.cli._search import hybrid_plan

        asked = {**self.options, "k": k}
        if self.hybrid:
            asked["plan"] = hybrid_plan(k, asked["engine"])
        if self.explain:
            told = self.index.explain([query.text], recall=True, **asked)
            for line in told.lines():
                echo(line, err=True)
            [found] = told.hits
        else:
            [found] = self.index.search([query.text], **asked)
        self.query, self.hits = query, found
        self._print(query, found[shown_before:])

    def _print(self, query: Query, hits: list[Hit]) -> None:
        if self.format == "trec":
            from hyperseek.data import trec_lines

            for line in trec_lines({query.id: {hit.id: hit.score for hit in hits}}, tag=self.tag):
                echo_exactly(line, instead="--format jsonl")
        elif self.format == "table":
            print_tables([query], [hits], self.grouping)
            if self.explain:
                print_matches([query], [hits])
        else:
            [row] = plain_rows([query], [hits], matches=self.explain)
            echo_json(row)

    def set_k(self, rest: str) -> None:
        """Set the number of documents per query."""
        self.options["k"] = _number(rest, "k", _MOST)

    def set_where(self, rest: str) -> None:
        """Set the condition on documents; the next search checks it."""
        self.options["where"] = rest or None

    def set_level(self, rest: str) -> None:
        """Set the level of queries."""
        self.options["level"] = _number(rest, "level", 1000) if rest else None

    def set_card(self, rest: str) -> None:
        """Set the task card."""
        from hyperseek.types import QueryOptions

        others = {name: value for name, value in self.options["options"].items() if name != "card"}
        self.options["options"] = QueryOptions(**others, card=rest or None)

    def set_plan(self, rest: str) -> None:
        """Set the plan."""
        from hyperseek.cli._search import read_plan

        self.options["plan"] = read_plan(Path(rest), server=hasattr(self.index, "url")) if rest else None
        self.hybrid = False

    def toggle_hybrid(self, rest: str) -> None:
        """Switch the fusion with full-text search on or off."""
        _nothing(rest, "hybrid")
        self.hybrid, self.options["plan"] = not self.hybrid, None
        echo(f"hybrid search is {'on' if self.hybrid else 'off'}", err=True)

    def toggle_explain(self, rest: str) -> None:
        """Switch explanations on or off."""
        _nothing(rest, "explain")
        self.explain = not self.explain
        echo(f"explanations are {'on' if self.explain else 'off'}", err=True)

    def show_next(self, rest: str) -> None:
        """Show the next documents of the last query."""
        _nothing(rest, "next")
        if self.query is None:
            raise InputError("there is no query yet whose next documents could be shown")
        before = len(self.hits)
        if before >= _MOST:
            raise InputError(f"the prompt shows {_MOST:,} documents of a query at most; write more into a file")
        self._search(self.query, min(_MOST, before + self.options["k"]), shown_before=before)

    def open_hit(self, rest: str) -> None:
        """Show a whole document."""
        if not self.hits:
            raise InputError("there are no hits yet that could be opened")
        hit = self.hits[_number(rest, "open", len(self.hits)) - 1]
        document = self.index.get(hit.id)
        if document is None:
            raise InputError(f"the document {shown(hit.id)} is no longer in the index")
        print_whole(hit, document)

    def show_help(self, rest: str) -> None:
        """List the commands."""
        _nothing(rest, "help")
        echo_lines(_HELP)


_COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "k": Session.set_k,
    "where": Session.set_where,
    "level": Session.set_level,
    "card": Session.set_card,
    "plan": Session.set_plan,
    "hybrid": Session.toggle_hybrid,
    "explain": Session.toggle_explain,
    "next": Session.show_next,
    "open": Session.open_hit,
    "help": Session.show_help,
}


def run_prompt(session: Session) -> None:
    """Answer lines until they end.

    Args:
        session: What to start from.

    Raises:
        InputError: Standard input is no terminal and has no lines, or some of its lines could not be answered.
    """
    terminal = sys.stdin is not None and sys.stdin.isatty()
    lines = _typed(session) if terminal else _piped(sys.stdin or ())
    seen = 0
    for line in lines:
        seen += 1
        try:
            if not session.answer(line):
                break
        except KeyboardInterrupt:
            if not terminal:
                raise
            echo("stopped", err=True)
    if not terminal and not seen:
        raise InputError(
            "give one query as TEXT, a file of queries with --queries, or queries on standard input, one on a line"
        )
    if not terminal and session.mistakes:
        lost = "one line" if session.mistakes == 1 else f"{session.mistakes} lines"
        raise InputError(f"{lost} of standard input could not be answered; see above")


def _piped(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from (line.rstrip("\r\n") for line in lines)
    except UnicodeDecodeError:
        raise InputError("standard input is not text in the encoding of this terminal; give UTF-8") from None
    except OSError as error:
        raise InputError(f"standard input cannot be read ({brief(error)}); give one query as TEXT") from None


def _typed(session: Session) -> Iterator[str]:
    """Yield what is typed; Ctrl-C drops a line, Ctrl-D ends."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class Remembered(FileHistory):
        def store_string(self, string: str) -> None:
            try:
                super().store_string(string)
            except OSError as error:
                echo(f"the query is not remembered: {brief(error)}", err=True)

    try:
        history: History = Remembered(str(_history_file()))
    except (OSError, RuntimeError) as error:  # the latter for a user without a home
        echo(f"queries of this session are not remembered: {error}", err=True)
        history = InMemoryHistory()
    echo(f"{len(session.index):,} documents; a query, or :help", err=True)
    words = WordCompleter([f":{name}" for name in (*_COMMANDS, "quit")], sentence=True)
    reader: PromptSession[str] = PromptSession("> ", history=history, completer=words, complete_while_typing=False)
    while True:
        try:
            yield reader.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _history_file() -> Path:
    """Return the file of earlier queries, which only its owner can read."""
    own = os.environ.get("XDG_STATE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    folder = (Path(own) if own else Path.home() / ".local" / "state") / "hyperseek"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "search-history"
    os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
    return file


def echo_lines(text: str) -> None:
    """Print several lines on standard error."""
    for line in text.splitlines():
        echo(line, err=True)


def _number(given: str, what: str, most: int) -> int:
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:9]) <= most and len(given) <= 9):
        raise InputError(f":{what} takes a whole number from 1 to {most:,}, not {shown(given)}")
    return int(given)


def _nothing(given: str, what: str) -> None:
    if given:
        raise InputError(f":{what} takes nothing after it, not {shown(given)}")

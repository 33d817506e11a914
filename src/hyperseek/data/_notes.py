"""A folder of text files as a collection: passages of whole paragraphs, with the place of each file as its path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from hyperseek._bounded import raw_lines
from hyperseek.data._qrels_and_runs import Judgement
from hyperseek.data.reading import Faults, base_stem, base_suffix, numbered_lines, paragraphs
from hyperseek.errors import DataError, shown
from hyperseek.types import Document, Query

NOTES = (".txt", ".md", ".markdown", ".rst", ".text", ".org", ".adoc")
"""Suffixes of the files that are read, plain or `.gz`."""

_LONGEST_PASSAGE = 1_000  # characters; about as much as small encoders read
_HEADINGS = ("# ", "#+title:", "= ")  # of Markdown, Org and AsciiDoc


@dataclass(frozen=True, slots=True)
class NotesSource:
    """Passages of all text files below a folder, in the order of the files' names.

    Paragraphs, which empty lines separate, are joined to passages of up to 1,000 characters; none is divided. The id of
    a passage is its file's path, with `#2`, `#3`, … from the second one on. Its title is the file's first heading, or
    its name, and its metadata field `path` the names of the folders, and this title. Hidden files and folders, and
    folders that are symbolic links, are not read; files of other kinds are counted.

    Attributes:
        folder: The folder.
    """

    folder: Path

    @property
    def splits(self) -> tuple[str, ...]:
        """None: a folder of texts has no judgements."""
        return ()

    @staticmethod
    def reads(folder: Path) -> bool:
        """Return whether a folder, or one below, has a text file."""
        return any(base_suffix(file) in NOTES for file in _files(folder))

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the passages; files and folders that cannot be read go to `faults`."""
        found = False
        for file in _files(self.folder, faults):
            if base_suffix(file) not in NOTES:
                faults.report.add("other_kind_of_file", str(file))
                continue
            for passage in self._passages(file, faults):
                found = True
                yield passage
        faults.finish(self.folder)
        if not found:
            raise DataError(f"its files of the kinds {', '.join(NOTES)} have no text", path=self.folder)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream no queries."""
        return iter(())

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream no judgements."""
        return iter(())

    def _passages(self, file: Path, faults: Faults) -> Iterator[Document]:
        name = file.relative_to(self.folder).as_posix()
        try:
            name.encode()
            next(raw_lines(file), None)  # its kind and its permissions, before anything of it is yielded
        except UnicodeEncodeError:
            faults.found("bad_name", f"the name of the file {shown(name)} is not UTF-8; rename it", path=self.folder)
            return
        except DataError as error:
            faults.found("unreadable_file", str(error), path=None)  # it names the file
            return
        title, passage, number = "", "", 0
        *above, _ = name.split("/")
        for given in chain(paragraphs(numbered_lines(file, faults)), [None]):
            paragraph = given
            if not title and given is not None:
                first, _, rest = given.partition("\n")
                title = _heading(first)
                if title:
                    paragraph = rest  # a document is read with its title before it
                title = title or base_stem(file)
            if passage and (paragraph is None or len(passage) + len(paragraph) > _LONGEST_PASSAGE):
                number += 1
                identity = name if number == 1 else f"{name}#{number}"
                yield Document(identity, passage, title, {"path": [*above, title]})
                passage = ""
            passage = "\n\n".join(filter(None, (passage, paragraph)))


def _files(folder: Path, faults: Faults | None = None) -> Iterator[Path]:
    """Yield files in the order of their names, those of a folder before those of the folders in it.

    Args:
        folder: The folder.
        faults: Takes the folders in it that cannot be read; None passes over them.

    Yields:
        The files, hidden ones left out.
    """

    def unreadable(error: OSError) -> None:
        if faults is not None:
            faults.found("unreadable_folder", f"cannot be read ({error.strerror or error})", path=error.filename)

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(place, name)
            if not name.startswith(".") and os.path.isfile(file):  # `Path.is_file` raises for some
                yield file


def _heading(line: str) -> str:
    """Return the heading that a line is, or nothing."""
    line = line.strip()
    mark = next((mark for mark in _HEADINGS if line.lower().startswith(mark)), None)
    return "" if mark is None else line[len(mark) :].strip(" #")

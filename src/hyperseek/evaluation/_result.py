"""Evaluation: what one system scored, query by query, and how that came about."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import model_validator

from hyperseek._config import Config
from hyperseek._files import atomic_write, write_json
from hyperseek.errors import DataError, InputError
from hyperseek.evaluation._measures import PerQuery, aggregate
from hyperseek.evaluation._protocol import Protocol
from hyperseek.evaluation._seen import SLICES, Slices

_LARGEST = 1 << 28  # bytes; a value for each of many queries by each measure


class Evaluation(Config):
    """One system's result.

    Attributes:
        name: The system's name in tables.
        per_query: `per_query[measure][query_id]`; all measures hold the same queries.
        aggregate: One number for each measure.
        protocol: What was measured, on what, and with what.
        slices: The queries by what was relevant in the model's training; None where nothing is known of that.
        notes: What a reader of the numbers should know.
    """

    name: str
    per_query: PerQuery
    aggregate: dict[str, float]
    protocol: Protocol
    slices: Slices | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_alike(self) -> Self:
        measured = set(self.queries)
        if any(by_query.keys() != measured for by_query in self.per_query.values()):
            raise ValueError("its measures do not hold the same queries")
        if self.aggregate.keys() != self.per_query.keys():
            raise ValueError("it aggregates other measures than it has values of")
        if self.slices is not None and not measured >= {
            query for name in SLICES for query in self.slices.queries(name)
        }:
            raise ValueError("its slices name queries that were not measured")
        return self

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures."""
        return tuple(self.per_query)

    @property
    def queries(self) -> tuple[str, ...]:
        """Ids of the judged queries."""
        return tuple(next(iter(self.per_query.values()), {}))

    def over(self, queries: Iterable[str]) -> dict[str, float]:
        """Aggregate over some of the queries.

        Args:
            queries: Ids, at least one.

        Returns:
            One number for each measure.

        Raises:
            InputError: A query was not measured, or there are none.
        """
        chosen, known = list(queries), set(self.queries)
        unknown = [query for query in chosen if query not in known]
        if unknown:
            raise InputError(f"{len(unknown)} of these queries were not measured, {unknown[0]!r} among them")
        return aggregate({name: {query: by[query] for query in chosen} for name, by in self.per_query.items()})

    def by_slice(self) -> dict[str, dict[str, float]]:
        """Return the aggregates over each slice that has queries; empty without `slices`."""
        if self.slices is None:
            return {}
        return {name: self.over(self.slices.queries(name)) for name in SLICES if self.slices.queries(name)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as JSON, from which `load` makes an equal one."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a result that `save` wrote.

        Args:
            path: The JSON file.

        Returns:
            The result.

        Raises:
            DataError: The file is missing or holds no evaluation.
        """
        if not Path(path).exists():
            raise DataError("no such file; give an evaluation.json", path=path)
        remedy = "give a file that Evaluation.save wrote"
        return cls.from_json(path, "an evaluation", remedy=remedy, largest=_LARGEST)

    def write_per_query(self, path: str | os.PathLike[str]) -> None:
        """Write one row a query: its id, its value by each measure, and its slice where that is known.

        Args:
            path: `.jsonl` for JSON lines, `.csv` for comma-separated values.

        Raises:
            InputError: The name ends in neither.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".jsonl", ".csv"):
            raise InputError(f"cannot tell the format of {os.fspath(path)!r}; end its name in .jsonl or .csv")
        rows = self._rows()
        with atomic_write(path) as file:
            if suffix == ".jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                writer = csv.DictWriter(file, list(rows[0]) if rows else ["query"], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)

    def _rows(self) -> list[dict[str, str | float]]:
        rows: list[dict[str, str | float]] = []
        slice_of = {}
        if self.slices is not None:
            slice_of = {query: name for name in SLICES for query in self.slices.queries(name)}
        for query in self.queries:
            row: dict[str, str | float] = {"query": query}
            row |= {name: by_query[query] for name, by_query in self.per_query.items()}
            if self.slices is not None:
                row["seen"] = slice_of.get(query, "")
            rows.append(row)
        return rows

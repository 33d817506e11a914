"""Engines and graphs that were built for an index: what they cover, and where they lie.

An attachment is built in a folder of its own and then named in `engines.json`, atomically; what a killed builder left
is in no list and is removed by the next one. Attachments hold keys, so they stay true while documents come and go:
documents that they do not know are scanned, documents that are gone are passed over.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from hyperseek._config import Config
from hyperseek._files import atomic_write, read_array, reading, writing
from hyperseek._fingerprint import fingerprint_json
from hyperseek._folders import (
    Checksum,
    Hold,
    check_files,
    checksum,
    files_within,
    inside,
    read_description,
    refuse_link,
    remove_unheld,
    write_sealed,
)
from hyperseek.engines import AnyEngineConfig, Engine, build_engine, open_engine
from hyperseek.engines.configs import KINDS
from hyperseek.engines.engine import LONGEST, verify_engine
from hyperseek.errors import HyperseekError, InputError, StoreError, UnknownNameError
from hyperseek.graph import NeighbourGraph
from hyperseek.graph.building import verify_graph
from hyperseek.scoring import Chart
from hyperseek.store.charts import ChartRecord, chart_width, charts_for, check_building
from hyperseek.store.snapshot import Snapshot

_logger = logging.getLogger(__name__)

_LIST = "engines.json"
_FOLDER = "engines"
_KEYS = "keys.npy"
_REMEDY = "build the engine again (hyperseek update INDEX --engine KIND, or --graph)"
# Documents that are lifted and handed to an engine at a time.
_CHUNK = 8192


class Attachment(Config):
    """An engine or a graph of an index.

    Attributes:
        name: Chosen by whoever built it.
        kind: What it is.
        folder: Where it lies, within the index.
        config: The engine's configuration; None for graphs.
        charts: What the engine was built on, one engine a chart; none for graphs.
        count: Documents it covers.
        keys: Checksum of the file with their keys; None where it was built by an earlier version.
        created: When it was built.
    """

    name: str
    kind: Literal["engine", "graph"]
    folder: str
    config: AnyEngineConfig | None = None
    charts: tuple[ChartRecord, ...] = ()
    count: int = Field(ge=0)
    keys: Checksum | None = None
    created: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def place(self, index: Path) -> Path:
        """Return the path of its folder; StoreError where the list names one outside the index' own."""
        if not self.folder.startswith(f"{_FOLDER}/"):
            raise StoreError(
                f"{index / _LIST} names {self.folder[:100]!r}, which is no folder of {_FOLDER}/; {_REMEDY}"
            )
        return inside(index, self.folder, source=index / _LIST)


class TunedPlan(Config):
    """A search plan that was tuned on an index.

    Attributes:
        plan: As plain values.
        k: Documents per query that it was tuned for.
        recall: Of the exhaustive top `k`.
        queries: How many it was measured on.
        milliseconds: Per query.
    """

    plan: dict[str, Any]
    k: int = Field(ge=1)
    recall: float
    queries: int = Field(ge=1)
    milliseconds: float = 0.0


class Attachments(Config):
    """All attachments of an index: `engines.json`.

    Attributes:
        items: In the order in which they were built.
        plans: Search plans that were tuned on this index, by the kind of scorer they are for.
    """

    items: tuple[Attachment, ...] = ()
    plans: dict[str, TunedPlan] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Attachments:
        """Read the list; an index without one has no attachments.

        Args:
            folder: The index.

        Returns:
            The list.

        Raises:
            StoreError: It is damaged, or names a place outside the index.
        """
        path = folder / _LIST
        refuse_link(path)
        if not path.exists():
            return cls()
        found = read_description(cls, path, "a list of engines", remedy=_REMEDY)
        for item in found.items:
            item.place(folder)
        return found

    def write(self, folder: Path) -> None:
        """Write the list, atomically, and remove folders that it no longer names and that nobody reads."""
        write_sealed(folder / _LIST, self.model_dump(mode="json"))
        named = {Path(item.folder).name for item in self.items}
        place = inside(folder, _FOLDER, source=folder / _LIST)
        for path in place.glob("*"):
            # A link is nothing that a builder left; following it would delete what lies elsewhere.
            if path.name not in named and not path.is_symlink():
                remove_unheld(path, _discard)

    def get(self, name: str) -> Attachment:
        """Return an attachment by its name.

        Args:
            name: Its name.

        Returns:
            The attachment.

        Raises:
            UnknownNameError: There is none so named; the message lists the names, or says how to build one.
        """
        for item in self.items:
            if item.name == name:
                return item
        if not self.items:
            kinds = name if name in KINDS else "hnsw"
            raise UnknownNameError(
                "engine",
                name,
                (),
                hint=f"this index has none yet; build one with: hyperseek update INDEX --engine {kinds}, or in Python: "
                f"index.build_engine({kinds!r}); without one every search is exact",
            )
        raise UnknownNameError("engine of this index", name, [item.name for item in self.items])

    def with_item(self, new: Attachment) -> Attachments:
        """Return the list with an attachment added, or put in place of the one of that name."""
        others = tuple(item for item in self.items if item.name != new.name)
        return self.model_copy(update={"items": (*others, new)})

    def without(self, name: str) -> Attachments:
        """Return the list without an attachment and plans that ask it; UnknownNameError if there is none so named."""
        gone = self.get(name)
        items = tuple(item for item in self.items if item is not gone)
        plans = {kind: plan for kind, plan in self.plans.items() if not _asks(plan.plan, name)}
        return self.model_copy(update={"items": items, "plans": plans})


@dataclass(frozen=True)
class Attached:
    """An attachment, open beside a snapshot of the documents, which may be older or newer.

    Attributes:
        record: What it is.
        rows: `(count,)` row of each position that its engines and graph know; -1 for documents that the snapshot has
            not.
        unknown: Rows of the snapshot's documents that the attachment does not know.
        hold: Keeps its files from being deleted.
        engines: Charts and their engines; none for graphs.
        graph: The graph, or None.
    """

    record: Attachment
    rows: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.int64]
    hold: Hold
    engines: tuple[tuple[Chart, Engine], ...] = ()
    graph: NeighbourGraph | None = None


def open_attached(folder: Path, record: Attachment, snapshot: Snapshot) -> Attached:
    """Open an attachment.

    Args:
        folder: The index.
        record: From its list.
        snapshot: The documents to be searched.

    Returns:
        The attachment, whose files are not deleted by others while this object lives.

    Raises:
        StoreError: It was replaced meanwhile, or is damaged; the message names the file.
    """
    place = record.place(folder)
    with reading(place, f"the {record.kind} {record.name!r} of an index", error=StoreError, remedy=_REMEDY):
        for _ in files_within(place):
            pass  # nothing leads out of it
        hold = Hold(place)
        _check_keys(place, record)
        keys: npt.NDArray[np.int64] = read_array(place / _KEYS)
        if keys.dtype != np.int64 or keys.shape != (record.count,):
            raise StoreError(
                f"{place / _KEYS} should hold {record.count} keys of int64 and holds {keys.dtype} of shape "
                f"{keys.shape}; {_REMEDY}"
            )
        engines = tuple(
            (snapshot.space.chart(chart.name, **chart.parameters), open_engine(place / f"chart-{number}"))
            for number, chart in enumerate(record.charts)
        )
        graph = NeighbourGraph.open(place / "graph") if record.kind == "graph" else None
    rows = snapshot.rows_of_keys(keys)
    known = np.zeros(len(snapshot), dtype=np.bool_)
    known[rows[rows >= 0]] = True
    return Attached(record, rows, np.flatnonzero(~known), hold, engines, graph)


def verify_attachments(folder: Path, attachments: Attachments) -> None:
    """Compare all files of engines and graphs with what was written.

    Args:
        folder: The index.
        attachments: Its list.

    Raises:
        StoreError: A file is missing or damaged, or an engine was built without checksums, by an earlier version.
    """
    built = [path.parent for path in inside(folder, _FOLDER, source=folder / _LIST).glob(f"*/{_KEYS}")]
    if built and not (folder / _LIST).exists():
        raise StoreError(f"{folder / _LIST} is missing, and {built[0]} is there; {_REMEDY}")
    for item in attachments.items:
        place = item.place(folder)
        if item.keys is None:
            raise StoreError(
                f"the {item.kind} {item.name!r} of {folder} cannot be verified: no checksums were noted when it was "
                f"built, by an earlier version of hyperseek; build it again"
            )
        _check_keys(place, item)
        if item.kind == "graph":
            verify_graph(place / "graph")
        for number in range(len(item.charts)):
            verify_engine(place / f"chart-{number}")


def _check_keys(place: Path, record: Attachment) -> None:
    if record.keys is not None:
        check_files(place, {_KEYS: record.keys}, source=place.parents[1] / _LIST, remedy=_REMEDY)


def attach_engine(
    folder: Path,
    snapshot: Snapshot,
    config: AnyEngineConfig,
    *,
    name: str,
    charts: Sequence[ChartRecord] | None = None,
    max_bytes: int | None = None,
) -> Attachment:
    """Build an engine for all documents of a snapshot, and add it to the list.

    Args:
        folder: The index.
        snapshot: Its documents.
        config: What to build.
        name: Names the attachment; one of that name is replaced once the new one is complete.
        charts: One engine is built on each; None takes those of the space that suit the kind of engine.
        max_bytes: Memory that building may take.

    Returns:
        The new attachment.

    Raises:
        InputError: The engine would take more memory (the message says what would fit), a document's vector is too
            long for it (the message names the document), or the name is not fit for a folder.
    """
    space = snapshot.space
    chosen = charts_for(space, config, charts)
    if max_bytes is not None:
        check_building(space, config, count=len(snapshot), charts=chosen, max_bytes=max_bytes)
    fitted = [_fit(snapshot, chart) for chart in chosen]

    def build(place: Path) -> None:
        for number, (chart, record) in enumerate(zip(fitted, chosen, strict=True)):
            build_engine(
                place / f"chart-{number}",
                _lifted(snapshot, chart),
                config,
                metric=chart.metric,
                count=len(snapshot),
                dimension=chart_width(space, record),
            )

    records = tuple(ChartRecord(name=chart.name, parameters=dict(chart.parameters)) for chart in fitted)
    return _attach(folder, snapshot, name, build, kind="engine", config=config, charts=records)


def attach_graph(
    folder: Path,
    snapshot: Snapshot,
    *,
    name: str,
    build: Callable[[Path], object],
) -> Attachment:
    """Build or import a neighbour graph for all documents of a snapshot, and add it to the list.

    A killed build of the same documents goes on where it stopped.

    Args:
        folder: The index.
        snapshot: Its documents.
        name: Names the attachment; one of that name is replaced once the new one is complete.
        build: Makes the graph in the folder that it is given.

    Returns:
        The new attachment.

    Raises:
        InputError: The name is not fit for a folder.
    """
    part = fingerprint_json(snapshot.keys.tolist())[:8]
    listed = any(Path(item.folder).name == f"{name}-{part}" for item in Attachments.read(folder).items)
    return _attach(
        folder, snapshot, name, lambda place: build(place / "graph"), kind="graph", part=None if listed else part
    )


def _attach(
    folder: Path,
    snapshot: Snapshot,
    name: str,
    build: Callable[[Path], object],
    *,
    part: str | None = None,
    **description: Any,
) -> Attachment:
    """Build in a new folder, or go on in the one whose name ends with `part`, and add the result to the list."""
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise InputError(f"an engine's name is letters, digits, '-', '_' and '.', not {name!r}")
    own = f"{_FOLDER}/{name}-{part or uuid.uuid4().hex[:8]}"
    place = inside(folder, own, source=folder / _LIST)
    with writing(place):
        place.mkdir(parents=True, exist_ok=part is not None)
        try:
            build(place)
            with atomic_write(place / _KEYS, "wb") as file:
                np.save(file, snapshot.keys)
        except BaseException as error:
            if part is None or isinstance(error, Exception):
                shutil.rmtree(place, ignore_errors=True)
            raise
        keys = checksum(place / _KEYS)
    record = Attachment(name=name, folder=own, count=len(snapshot), keys=keys, **description)
    Attachments.read(folder).with_item(record).write(folder)
    return record


def _discard(place: Path) -> None:
    """Delete what the engines of an attachment keep elsewhere, as on a server."""
    for description in place.glob("chart-*/engine.json"):
        try:
            open_engine(description.parent).discard()
        except (HyperseekError, OSError) as error:
            _logger.warning("an engine that is no longer used left something behind: %s", error)


def _fit(snapshot: Snapshot, record: ChartRecord) -> Chart:
    if "bound" in record.parameters:
        return snapshot.space.chart(record.name, **record.parameters)
    try:
        return snapshot.space.fit_chart(record.name, snapshot.chunks(_rows(snapshot)), **record.parameters)
    except InputError:
        for _ in _lifted(snapshot, snapshot.space.chart("inner_product", **record.parameters)):
            pass  # this names the document whose features are too long
        raise


def _asks(plan: Any, name: str) -> bool:
    """Whether a plan, as plain values, names an attachment in any of its stages."""
    if isinstance(plan, dict):
        return any(value == name if key in ("name", "engine") else _asks(value, name) for key, value in plan.items())
    return isinstance(plan, list | tuple) and any(_asks(part, name) for part in plan)


def _rows(snapshot: Snapshot) -> int:
    return min(_CHUNK, snapshot.chunk_rows)


def _lifted(snapshot: Snapshot, chart: Chart) -> Iterator[Tensor]:
    """Lift all documents, and name the first that is lifted to what no engine can compare."""
    row = 0
    for chunk in snapshot.chunks(_rows(snapshot)):
        vectors = chart.lift_documents(chunk).float()
        unusable = ~(torch.linalg.vector_norm(vectors, dim=1) <= LONGEST)
        if unusable.any():
            name = snapshot.ids[row + int(unusable.nonzero()[0])].as_py()
            raise InputError(
                f"the vector of document {name!r} is too long for engines on the chart {chart.name!r}, which compare "
                f"norms up to {LONGEST:g}; delete the document, or do without an engine"
            )
        yield vectors
        row += len(vectors)

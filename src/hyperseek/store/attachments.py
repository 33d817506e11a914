"""Structures that were built for an index: what they cover, and where they are.

An attachment is built in a folder of its own and then named in `engines.json`, atomically; what a killed builder left
is not in the list, and the next build removes it. Attachments hold keys, so they stay valid while documents come and
go: documents that they do not know are scanned, and deleted documents are skipped.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hyperseek._config import Config
from hyperseek._files import atomic_write, read_array, read_json, reading, write_json, writing
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
from hyperseek.engines import STRUCTURES, Structure, StructureConfig
from hyperseek.engines.structure import FORMER_KINDS, KEYS_FILE, KIND_FILE, AnyStructureConfig, kinds_that_fit
from hyperseek.errors import HyperseekError, InputError, StoreError, UnknownNameError
from hyperseek.store.snapshot import Snapshot, SomeDocuments

logger = logging.getLogger(__name__)

_LIST = "engines.json"
_FOLDER = "engines"
_REMEDY = "build the engine again (hyperseek update INDEX --engine KIND, or --graph)"
_NEW_NAMES = {new: old for old, new in FORMER_KINDS.items()}


class Recall(Config):
    """What a structure found of the exact best documents when it was built, searched as it is by default.

    Documents of the index served as queries. They are easy queries, since they lie among the others.

    Attributes:
        share: Share of the best `k` that it found, in [0, 1]; a query does not count as found by itself.
        k: Documents per query.
        queries: Number of queries.
        documents: Number of documents that the structure had.
    """

    share: float = Field(ge=0, le=1)
    k: int = Field(ge=1)
    queries: int = Field(ge=1)
    documents: int = Field(ge=1)

    def __str__(self) -> str:
        return f"recall@{self.k} {self.share:.4f} for {self.queries} documents as queries"


class Attachment(Config):
    """A structure of an index.

    Attributes:
        name: Chosen by whoever built it.
        kind: Kind of the structure.
        folder: Its folder, within the index.
        config: Configuration it was built from; None for graphs of earlier versions.
        details: What the structure noted when it was built.
        count: Number of documents it covers.
        keys: Checksum of the file with their keys; None if an earlier version built it.
        noted: Checksum of the file that names the kind; None if there is no such file, as in earlier versions.
        created: When it was built.
        recall: What it found when it was built; None if that was not measured, as in earlier versions.
    """

    name: str
    kind: str
    folder: str
    config: AnyStructureConfig | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    count: int = Field(ge=0)
    keys: Checksum | None = None
    noted: Checksum | None = None
    created: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    recall: Recall | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, values: Any) -> Any:
        # Earlier versions distinguished engines from graphs, and had a field for the charts of engines.
        if not isinstance(values, Mapping) or "charts" not in values:
            return values
        values = dict(values)
        charts, config = values.pop("charts"), values.get("config")
        if values.get("kind") == "engine" and isinstance(config, Mapping):
            kind = str(config.get("kind"))
            values |= {"kind": FORMER_KINDS.get(kind, kind), "details": {"charts": charts}}
        return values

    @property
    def is_automatic(self) -> bool:
        """Whether searches use it without being told to; never if the package of its kind is not installed."""
        return self.kind in STRUCTURES and STRUCTURES[self.kind].automatic

    def described(self) -> dict[str, Any]:
        """Return what the structure says about itself, for people; its plain values if its package is not installed."""
        return self.structure().described(self.details) if self.kind in STRUCTURES else self.details

    def structure(self) -> type[Structure]:
        """Return the class of the structure; UnknownNameError if the package it comes from is not installed."""
        return STRUCTURES[self.kind]

    def place(self, index: Path) -> Path:
        """Return the path of its folder; StoreError if the list names one outside the index."""
        if not self.folder.startswith(f"{_FOLDER}/"):
            raise StoreError(
                f"{index / _LIST} names {self.folder[:100]!r}, which is not a folder in {_FOLDER}/; {_REMEDY}"
            )
        return inside(index, self.folder, source=index / _LIST)


class TunedPlan(Config):
    """A search plan that was tuned on an index.

    Attributes:
        plan: The plan, as plain values.
        k: Documents per query that it was tuned for.
        recall: Share of the exhaustive top `k` that it found.
        queries: Number of queries it was measured on.
        milliseconds: Time per query.
    """

    plan: dict[str, Any]
    k: int = Field(ge=1)
    recall: float
    queries: int = Field(ge=1)
    milliseconds: float = 0.0


class Attachments(Config):
    """All attachments of an index: `engines.json`.

    Attributes:
        items: The attachments, in the order in which they were built.
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
            StoreError: The list is damaged, or names a path outside the index.
        """
        path = folder / _LIST
        refuse_link(path)
        if not path.exists():
            return cls()
        found = read_description(cls, path, "a list of engines", remedy=f"delete it, then {_REMEDY}")
        for item in found.items:
            item.place(folder)
        return found

    def write(self, folder: Path) -> None:
        """Write the list, atomically, and remove folders that it no longer names and that nobody reads."""
        write_sealed(folder / _LIST, self.model_dump(mode="json"))
        named = {Path(item.folder).name for item in self.items}
        place = inside(folder, _FOLDER, source=folder / _LIST)
        for path in place.glob("*"):
            # No builder leaves a link, and following one would delete files elsewhere.
            if path.name not in named and not path.is_symlink():
                remove_unheld(path, _discard)

    def get(self, name: str) -> Attachment:
        """Return an attachment by its name.

        Args:
            name: Its name.

        Returns:
            The attachment.

        Raises:
            UnknownNameError: No attachment has that name; the message lists the names, or says how to build one.
        """
        named = {item.name: item for item in self.items}
        # An engine that an earlier version built has the former name of its kind.
        for known in (name, FORMER_KINDS.get(name), _NEW_NAMES.get(name)):
            if known in named:
                return named[known]
        if not self.items:
            kinds = name if name in STRUCTURES else "hnsw"
            raise UnknownNameError(
                "engine",
                name,
                (),
                hint=f"this index has none yet; build one with: hyperseek update INDEX --engine {kinds}, or in Python: "
                f"index.engines.build({kinds!r}); without one every search is exact",
            )
        raise UnknownNameError("engine of this index", name, [item.name for item in self.items])

    def with_item(self, new: Attachment) -> Attachments:
        """Return the list with an attachment added, replacing any of the same name."""
        others = tuple(item for item in self.items if item.name != new.name)
        return self.model_copy(update={"items": (*others, new)})

    def with_changed(self, new: Attachment) -> Attachments:
        """Return the list with an attachment in the place of the one of that name."""
        return self.model_copy(update={"items": tuple(new if item.name == new.name else item for item in self.items)})

    def without(self, name: str) -> Attachments:
        """Return the list without an attachment and the plans that use it; UnknownNameError for an unknown name."""
        gone = self.get(name)
        items = tuple(item for item in self.items if item is not gone)
        plans = {kind: plan for kind, plan in self.plans.items() if not _uses(plan.plan, name)}
        return self.model_copy(update={"items": items, "plans": plans})

    def missing_kind(self, plan: Any) -> str | None:
        """Return the kind of a structure that a plan, as plain values, uses and whose package is not installed."""
        used = (item.kind for item in self.items if _uses(plan, item.name))
        return next((kind for kind in used if kind not in STRUCTURES), None)


@dataclass(frozen=True)
class Attached:
    """An attachment that is open together with a snapshot of the documents, which may be older or newer.

    Attributes:
        record: Its entry in the list.
        structure: The structure, open.
        rows: `(count,)` row of each of the structure's positions; -1 for documents that are not in the snapshot.
        unknown: Rows of the snapshot's documents that the structure does not know.
        hold: Keeps its files from being deleted.
    """

    record: Attachment
    structure: Structure
    rows: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.int64]
    hold: Hold


def open_attached(folder: Path, record: Attachment, snapshot: Snapshot) -> Attached:
    """Open an attachment.

    Args:
        folder: The index.
        record: Its entry in the list.
        snapshot: The documents to be searched.

    Returns:
        The attachment; nobody else deletes its files while this object lives.

    Raises:
        StoreError: It was replaced in the meantime, or is damaged; the message names the file.
        UnknownNameError: The package that its kind of structure comes from is not installed.
    """
    structure, place = record.structure(), record.place(folder)
    with reading(place, f"the {record.kind} engine {record.name!r} of an index", error=StoreError, remedy=_REMEDY):
        for _ in files_within(place):
            pass  # nothing leads out of it
        hold = Hold(place)
        _check_keys(place, record)
        keys: npt.NDArray[np.int64] = read_array(place / KEYS_FILE)
        if keys.dtype != np.int64 or keys.shape != (record.count,):
            raise StoreError(
                f"{place / KEYS_FILE} should hold {record.count} int64 keys, but holds {keys.dtype} of shape "
                f"{keys.shape}; {_REMEDY}"
            )
        opened = structure.open(place, snapshot, record.config, record.details)
    rows = snapshot.rows_of_keys(keys)
    known = np.zeros(len(snapshot), dtype=np.bool_)
    known[rows[rows >= 0]] = True
    return Attached(record, opened, rows, np.flatnonzero(~known), hold)


def verify_attachments(folder: Path, attachments: Attachments) -> None:
    """Compare all files of structures with what was written.

    Args:
        folder: The index.
        attachments: Its list.

    Raises:
        StoreError: A file is missing or damaged, or an earlier version built a structure without checksums.
    """
    built = [path.parent for path in inside(folder, _FOLDER, source=folder / _LIST).glob(f"*/{KEYS_FILE}")]
    if built and not (folder / _LIST).exists():
        raise StoreError(f"{folder / _LIST} is missing, but {built[0]} exists; {_REMEDY}")
    for item in attachments.items:
        place = item.place(folder)
        if item.keys is None:
            raise StoreError(
                f"the {item.kind} engine {item.name!r} of {folder} cannot be verified: no checksums were noted when it "
                f"was built, by an earlier version of hyperseek; build it again"
            )
        _check_keys(place, item)
        with reading(place, f"the {item.kind} engine {item.name!r} of an index", error=StoreError, remedy=_REMEDY):
            item.structure().verify(place, item.details)


def _check_keys(place: Path, record: Attachment) -> None:
    written = {
        name: found for name, found in ((KEYS_FILE, record.keys), (KIND_FILE, record.noted)) if found is not None
    }
    check_files(place, written, source=place.parents[1] / _LIST, remedy=_REMEDY)


def attach(
    folder: Path,
    snapshot: Snapshot,
    config: StructureConfig,
    *,
    name: str | None = None,
    max_bytes: int | None = None,
) -> Attachment:
    """Build a structure for all documents of a snapshot, and add it to the list.

    A resumable structure continues in the folder that a killed build of the same documents left.

    Args:
        folder: The index.
        snapshot: Its documents.
        config: What to build.
        name: Name of the attachment; one of the same name is replaced once the new one is complete. None takes the
            kind.
        max_bytes: Memory that building may take; None for no limit.

    Returns:
        The new attachment.

    Raises:
        InputError: The structure would take more memory (the message says what would fit), it cannot hold a document
            (the message names it), or the name cannot be that of a folder.
    """
    structure, listed = STRUCTURES[config.kind], Attachments.read(folder)
    if name is None:
        former = _NEW_NAMES.get(config.kind)
        name = former if any((item.name, item.kind) == (former, config.kind) for item in listed.items) else config.kind
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise InputError(f"an engine's name consists of letters, digits, '-', '_' and '.', unlike {name!r}")
    if max_bytes is not None:
        _check_building(structure, config, snapshot, max_bytes)
    part = uuid.uuid4().hex[:8]
    if resumed := structure.resumable:
        same = fingerprint_json(snapshot.keys.tolist())[:8]
        if resumed := all(Path(item.folder).name != f"{name}-{same}" for item in listed.items):
            part = same
    own = f"{_FOLDER}/{name}-{part}"
    place = inside(folder, own, source=folder / _LIST)
    with writing(place):
        place.mkdir(parents=True, exist_ok=resumed)
        try:
            write_json(place / KIND_FILE, {"kind": config.kind})
            details = structure.build(place, snapshot, config)
            with atomic_write(place / KEYS_FILE, "wb") as file:
                np.save(file, snapshot.keys)
        except BaseException as error:
            if not resumed or isinstance(error, Exception):
                _discard(place)
                shutil.rmtree(place, ignore_errors=True)
            raise
        keys, noted = checksum(place / KEYS_FILE), checksum(place / KIND_FILE)
    record = Attachment(
        name=name,
        kind=config.kind,
        folder=own,
        config=config,
        details=dict(details),
        count=len(snapshot),
        keys=keys,
        noted=noted,
    )
    Attachments.read(folder).with_item(record).write(folder)
    return record


def keep_up(folder: Path, snapshot: Snapshot, *, compact: bool = False) -> None:
    """Add documents that are new to the structures that grow; one that fails is left as it is, with a warning.

    A structure is changed in a copy of its folder, whose files are the same ones, and the copy then takes its place in
    the list: whatever happens before, the old one is whole, and what it does not know is scanned.

    Args:
        folder: The index.
        snapshot: Its documents.
        compact: Whether documents that are gone are also left out of them.
    """
    for record in Attachments.read(folder).items:
        if record.kind not in STRUCTURES or not record.structure().grows:
            continue
        try:
            _keep_up(folder, record, snapshot, compact=compact)
        except HyperseekError as error:
            logger.warning("the engine %r stays as it is, and what it does not know is scanned: %s", record.name, error)


def _keep_up(folder: Path, record: Attachment, snapshot: Snapshot, *, compact: bool) -> None:
    structure, place = record.structure(), record.place(folder)
    _check_keys(place, record)
    keys: npt.NDArray[np.int64] = read_array(place / KEYS_FILE, error=StoreError, remedy=_REMEDY)
    unknown = np.flatnonzero(~np.isin(snapshot.keys, keys))
    kept = np.isin(keys, snapshot.keys)
    if not len(unknown) and not compact:
        return
    own = f"{_FOLDER}/{record.name}-{uuid.uuid4().hex[:8]}"
    copy, details = inside(folder, own, source=folder / _LIST), record.details
    with writing(copy):
        _link_files(place, copy)
        try:
            if compact:
                details, keys = dict(structure.compact(copy, kept, record.config, details)), keys[kept]
            if len(unknown):
                details = dict(structure.extend(copy, SomeDocuments(snapshot, unknown), record.config, details))
                keys = np.concatenate([keys, snapshot.keys[unknown]])
            with atomic_write(copy / KEYS_FILE, "wb") as file:  # in place of the shared one
                np.save(file, keys)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise
    update = {"folder": own, "details": details, "count": len(keys), "keys": checksum(copy / KEYS_FILE)}
    Attachments.read(folder).with_changed(record.model_copy(update=update)).write(folder)


def _link_files(source: Path, target: Path) -> None:
    """Make a folder that has the files of another."""
    for name in files_within(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:  # a file system without links
            shutil.copy2(source / name, target / name)


def _check_building(structure: type[Structure], config: StructureConfig, snapshot: Snapshot, max_bytes: int) -> None:
    space, count = snapshot.space, len(snapshot)

    def needed(config: StructureConfig) -> int:
        return STRUCTURES[config.kind].estimate(space, config, count=count).building_bytes

    if (need := needed(config)) > max_bytes:
        sizes = structure.sizes(space, config)
        raise InputError(
            f"building {config.kind!r} for {count:,} documents {f'of {sizes} ' if sizes else ''}takes about {need:,} "
            f"bytes of memory, more than the {max_bytes:,} that are allowed; {kinds_that_fit(needed, max_bytes)}"
        )


def _discard(place: Path) -> None:
    """Delete what a structure keeps outside its folder, for example on a server."""
    try:
        # Folders of earlier versions do not name their kind; only engines for vectors keep anything elsewhere.
        noted = read_json(place / KIND_FILE) if (place / KIND_FILE).exists() else {}
        STRUCTURES[str(noted.get("kind", "flat"))].discard(place)
    except (HyperseekError, OSError, AttributeError) as error:
        logger.warning("something may be left of an engine that is not used: %s", error)


def _uses(plan: Any, name: str) -> bool:
    """Whether any stage of a plan, as plain values, names an attachment."""
    if isinstance(plan, dict):
        return any(value == name if key in ("name", "engine") else _uses(value, name) for key, value in plan.items())
    return isinstance(plan, list | tuple) and any(_uses(part, name) for part in plan)

"""Candidate structures: whatever is built on the documents of an index to find candidates faster than a scan does.

Engines for vectors and the neighbour graph are structures, and another package can add its own: a class that derives
from `Structure`, registered under the kind that its configuration names.

```toml
[project.entry-points."hyperseek.structures"]
mine = "my_package:MyStructure"
```

It is then built by `index.engines.build("mine")` and `hyperseek encode --engine mine`, searched by plans, tuned and
inspected. A structure knows documents by position, in the order in which it was given them. Shapes: `N` documents, `Q`
queries, `n` candidates per query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny
from torch import Tensor

from hyperseek._config import Config
from hyperseek._folders import Checksum, check_files, read_description, write_sealed
from hyperseek._registry import Registry
from hyperseek.errors import ConfigError, HyperseekError, InputError, UnknownNameError, shown
from hyperseek.scoring import Points, Scorer, Space
from hyperseek.types import QueryOptions

FORMER_KINDS = {"scan": "flat"}
"""Former kinds, as older folders and recipes name them, and their names today."""

EXHAUSTIVE = "exhaustive"
"""Name that means "no structure" in plans: score all documents."""

KEYS_FILE, KIND_FILE = "keys.npy", "kind.json"
"""Files that an index writes into the folder of a structure: keys of its documents, and its kind."""

RECALL_K, RECALL_QUERIES, RECALL_TOKENS = 10, 16, 16
"""How recall is measured: the best documents that should be found, the documents that serve as queries, and how many
tokens of each do, about as many as real queries have."""

# Candidates per wanted document that tuning tries.
_FACTORS = (1, 3, 10, 30, 100)
# Likewise, of a neighbourhood at a broader level, which need not hold the best in its order.
_WIDEST = 300


class StructureConfig(Config):
    """Base of the configurations of structures.

    Attributes:
        kind: Kind of the structure; a subclass gives it a default.
    """

    exact: ClassVar[bool] = False
    """Whether the structure always finds the best documents, whatever the effort."""

    kind: str

    def of_level(self, space: Space, level: int) -> Self:
        """Return the configuration of the same structure for one level of the points of a space of levels."""
        raise InputError(f"an engine of the kind {self.kind!r} cannot be built on a level; leave out level={level}")


class FolderDescription(Config):
    """Base of descriptions that are written into the folder of a structure, sealed, with checksums of its other files.

    Attributes:
        files: Checksums of the folder's other files; empty if an earlier version built it.
    """

    file: ClassVar[str]
    """Name of the file with the description."""

    what: ClassVar[str]
    """What the file is, with its article, for messages."""

    remedy: ClassVar[str]
    """What to do about damage."""

    files: dict[str, Checksum] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the description of a folder; StoreError if it is missing or damaged."""
        return read_description(cls, folder / cls.file, cls.what, remedy=cls.remedy)

    def write(self, folder: Path) -> None:
        """Write the description, atomically."""
        write_sealed(folder / self.file, self.model_dump(mode="json"))

    def check(self, folder: Path, *, at_most: int | None = None) -> None:
        """Compare a folder's files with what was written.

        Args:
            folder: The folder.
            at_most: Bytes to read; of larger files only the size is compared. None for all.

        Raises:
            StoreError: A file is missing or is not what was written; the message names it.
        """
        check_files(folder, self.files, source=folder / self.file, remedy=self.remedy, at_most=at_most)


class UnknownConfig(StructureConfig):
    """The configuration of a structure whose package is not installed: it is kept unchanged, and cannot be opened."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, slots=True)
class StructureEstimate:
    """The cost of a structure.

    Attributes:
        memory_bytes: Memory of a search. If files are mapped into memory, the system can reclaim most of it and read
            the disk again.
        building_bytes: Peak memory of building it, beyond the chunks of documents that it is given.
        disk_bytes: Size on this machine's disk when it is finished.
        seconds: Time to build it on this machine's cores, within a factor of about three; None if unknown.
    """

    memory_bytes: int
    building_bytes: int
    disk_bytes: int
    seconds: float | None


class Documents(Protocol):
    """What structures can ask of the documents of an index."""

    @property
    def space(self) -> Space:
        """Geometry of the points."""

    @property
    def ids(self) -> Any:
        """All ids, as an Arrow array."""

    @property
    def chunk_rows(self) -> int:
        """Documents per chunk that keep memory bounded."""

    def __len__(self) -> int: ...

    def chunks(self, rows: int) -> Iterator[Points]:
        """Stream the points in order, at most `rows` documents at a time."""

    def texts(self) -> Iterator[str]:
        """Stream the documents' titles and texts, each joined by a space, in order."""


@dataclass(frozen=True)
class CandidateRequest:
    """A request for candidates.

    Attributes:
        name: Name of the structure in its index, for messages.
        scorer: `Q` compiled queries.
        n: Candidates per query, at least 1.
        k: Documents per query that the whole search returns, at least 1.
        allowed: `(N,)` booleans: positions that may be found; None for all.
        points: The documents' points, by position; they are read on demand. Deleted documents have the points of an
            arbitrary other document, and `allowed` excludes them.
        exact: Takes `(Q, m)` positions, -1 anywhere, and returns their exact scores, minus infinity for -1.
        texts: The queries' texts; None if only the scorer was given.
        notes: A mapping to fill with numbers, averaged over the queries, that explanations print.
    """

    name: str
    scorer: Scorer
    n: int
    k: int
    allowed: npt.NDArray[np.bool_] | None
    points: Points
    exact: Callable[[Tensor], Tensor]
    texts: Sequence[str] | None = None
    notes: dict[str, float] = field(default_factory=dict)


Ranking: TypeAlias = tuple[Tensor, Tensor]
"""Scores `(Q, n)`, higher is better, and positions `(Q, n)`, int64; -1 where nothing was found."""


class Structure(ABC):
    """A candidate structure of an index, open for search. Searches may run in several threads at once.

    Class methods build, open, verify and discard a folder; the instance that `open` returns searches.
    """

    config_type: ClassVar[type[StructureConfig]]
    """Class of the configuration. The default of its `kind` is the name that the structure is registered under."""

    automatic: ClassVar[bool] = True
    """Whether `engine="auto"` may choose a structure of this kind."""

    resumable: ClassVar[bool] = False
    """Whether `build` can resume in the folder that a killed build of the same documents left."""

    grows: ClassVar[bool] = False
    """Whether there are `extend` and `compact`: then documents that are added to an index are added to it, too."""

    @classmethod
    @abstractmethod
    def build(cls, folder: Path, documents: Documents, config: Any) -> Mapping[str, Any]:
        """Build a structure of all documents in a folder.

        Args:
            folder: It exists, and is empty unless the structure is `resumable`.
            documents: The documents of the index.
            config: A `config_type`.

        Returns:
            Plain values to keep with the configuration; `open` and `verify` are given them again.
        """

    @classmethod
    def extend(cls, folder: Path, documents: Documents, config: Any, details: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add documents behind those that a structure that `grows` has.

        Args:
            folder: A copy of the structure's. Its files are shared with the old one: new ones may be written, and old
                ones deleted or replaced by others, but nothing may be written into them.
            documents: The new ones.
            config: What the structure was built from.
            details: What is known of it.

        Returns:
            What is to be known of it.
        """
        raise NotImplementedError

    @classmethod
    def compact(
        cls, folder: Path, kept: npt.NDArray[np.bool_], config: Any, details: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Leave documents that are gone out of a structure that `grows`; the others move up.

        Args:
            folder: A copy of the structure's, as in `extend`.
            kept: `(N,)`: True at the positions of those that stay.
            config: What the structure was built from.
            details: What is known of it.

        Returns:
            What is to be known of it.
        """
        raise NotImplementedError

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, documents: Documents, config: Any, details: Mapping[str, Any]) -> Self:
        """Open what `build` left in a folder.

        Args:
            folder: The structure's folder.
            documents: The documents of the index, which may have changed since `build`.
            config: Configuration it was built from.
            details: What `build` returned.

        Returns:
            The structure.

        Raises:
            StoreError: A file is damaged or missing.
        """

    @abstractmethod
    def search(self, request: CandidateRequest, *, effort: int | None = None) -> Sequence[Ranking]:
        """Find candidates.

        Args:
            request: The queries, and what may be found.
            effort: How thoroughly to search, at least 1; the configuration says what it means, and what None means.

        Returns:
            One ranking, best first, or several with scores that cannot be compared; their candidates are united.

        Raises:
            InputError: The structure cannot search by this scorer.
        """

    def can_search(self, scorer: Scorer) -> bool:
        """Whether the structure can search by these queries; see `surrogate_parameters` for others."""
        return True

    @property
    def surrogate_parameters(self) -> Mapping[str, Any] | None:
        """Parameters of the features on which to fit linear surrogates of scorers that are not linear.

        None if the structure cannot search by linear functions of the features of the space.
        """
        return None

    @property
    def recall(self) -> float | None:
        """What `build` measured itself, as share of the exact best 10; None: the index measures after the build."""
        return None

    def efforts(self, n: int) -> Sequence[int | None]:
        """Return the efforts that tuning tries for `n` candidates, least first; None is that of the configuration."""
        return (None,)

    @classmethod
    def stages(cls, name: str, n: int) -> list[dict[str, Any]]:
        """Return the stages of a plan that searches by the structure, as plain values.

        Args:
            name: Name of the structure in its index.
            n: Candidates per query.

        Returns:
            The source that asks it, and the steps that rank its candidates.
        """
        return [{"kind": "engine", "n": n, "name": name}, {"kind": "rescore"}]

    def trials(self, name: str, scorer: Scorer, *, k: int, count: int) -> Iterator[Iterable[list[dict[str, Any]]]]:
        """Yield the plans that tuning tries, each a list of stages as plain values.

        Args:
            name: Name of the structure in its index.
            scorer: Some of the queries.
            k: Documents wanted per query.
            count: Number of documents in the structure.

        Yields:
            Families of plans, each ordered by cost: once a plan finds enough, the rest of its family is skipped.
        """
        liftable = self.can_search(scorer)
        if not liftable and (broad := self._broader(scorer)) is not None:
            for n in (k * factor for factor in (*_FACTORS, _WIDEST) if k * factor <= max(k, count)):
                source = {"kind": "nearest", "n": n, "engine": name, "options": dict(broad)}
                yield [[{**source, "effort": effort}, {"kind": "rescore"}] for effort in self.efforts(n)]
            return
        scanned = not liftable and self.surrogate_parameters is None
        for n in (k * factor for factor in _FACTORS if k * factor <= max(k, count)):
            efforts = (None,) if scanned else self.efforts(n)
            if liftable:
                sources = [{"kind": "engine", "n": n, "name": name, "effort": effort} for effort in efforts]
                yield [[source, {"kind": "rescore"}] for source in sources]
                continue
            for refits in (0, 1):
                engine = EXHAUSTIVE if scanned else name
                sources = [
                    {"kind": "surrogate", "n": n, "engine": engine, "effort": effort, "refits": refits}
                    for effort in efforts
                ]
                yield [[source, {"kind": "rescore"}] for source in sources]

    def _broader(self, scorer: Scorer) -> QueryOptions | None:
        """Return the broadest level at which the structure can be searched by the same queries; None for none."""
        levels = (QueryOptions(level=level) for level in range(1, scorer.space.levels))
        asked = ((options, scorer[:1].asked_with(options)) for options in levels)
        return next((options for options, one in asked if one is not None and self.can_search(one)), None)

    @classmethod
    @abstractmethod
    def estimate(cls, space: Space, config: Any, *, count: int) -> StructureEstimate:
        """Estimate what building and searching will cost.

        Args:
            space: Space of the documents.
            config: A `config_type`.
            count: Number of documents.

        Returns:
            Bytes of memory and disk, and seconds.
        """

    @classmethod
    def sizes(cls, space: Space, config: Any) -> str:
        """Return the size of a document in the structure, in words for messages; empty if that has no meaning."""
        return ""

    @classmethod
    @abstractmethod
    def verify(cls, folder: Path, details: Mapping[str, Any]) -> None:
        """Compare all bytes of a folder with what was written; StoreError names a file that differs."""

    @classmethod
    def described(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values, of those that `build` returned, that `hyperseek inspect` prints."""
        return dict(details)

    @classmethod  # noqa: B027  most structures keep nothing outside
    def discard(cls, folder: Path) -> None:
        """Delete what a structure keeps outside its folder, which may be unfinished and is about to be deleted."""


def _check(name: str, value: Any) -> None:
    if not (isinstance(value, type) and issubclass(value, Structure)):
        raise InputError(f"the structure {name!r} must be a class that derives from Structure, not {shown(value)}")
    config = getattr(value, "config_type", None)
    kind = config.model_fields["kind"].default if config is not None and "kind" in config.model_fields else None
    if kind != name:
        raise InputError(f"the structure {name!r} needs a config_type whose kind is {name!r}, not {shown(kind)}")


STRUCTURES: Registry[type[Structure]] = Registry(
    "kind of engine",
    "hyperseek.structures",
    {
        "flat": "hyperseek.engines._flat:Flat",
        "hnsw": "hyperseek.engines._faiss:Hnsw",
        "ivf": "hyperseek.engines._faiss:Ivf",
        "lance": "hyperseek.engines._lance:Lance",
        "qdrant": "hyperseek.engines._qdrant:Qdrant",
        "qdrant-tokens": "hyperseek.engines._qdrant_tokens:QdrantTokens",
        "centroids": "hyperseek.engines._centroids:Centroids",
        "graph": "hyperseek.graph.index_graph:Graph",
    },
    check=_check,
)
"""Kinds of structures by name."""


def parse_structure(structure: object, **settings: Any) -> StructureConfig:
    """Make a configuration from a short form of it.

    Args:
        structure: A kind with its defaults, as `"hnsw"`; plain values, as `{"kind": "hnsw", "m": 16}`; or a
            configuration.
        **settings: Further settings, which override those of `structure`.

    Returns:
        The configuration.

    Raises:
        UnknownNameError: There is no such kind of structure.
        ConfigError: The values do not validate, or have another type.
    """
    if isinstance(structure, StructureConfig):
        if not settings:
            return structure
        structure = {name: getattr(structure, name) for name in type(structure).model_fields}
    if not isinstance(structure, str | Mapping):
        raise ConfigError(
            f"an engine is given by its kind, as 'hnsw', or by a configuration, as {{'kind': 'hnsw', 'm': 16}}, not "
            f"{shown(structure)}"
        )
    values = {"kind": structure} if isinstance(structure, str) else dict(structure)
    kind = str(values.get("kind"))
    kind = FORMER_KINDS.get(kind, kind)
    return STRUCTURES[kind].config_type.from_mapping({**values, "kind": kind, **settings}, source=f"engine {kind!r}")


def _kept(value: object) -> object:
    """Parse a stored configuration; one whose kind is not installed stays as it is."""
    if isinstance(value, Mapping):
        try:
            return parse_structure(value)
        except UnknownNameError:
            return UnknownConfig.from_mapping(value)
        except HyperseekError as error:
            raise ValueError(str(error)) from None
    return value


AnyStructureConfig: TypeAlias = Annotated[SerializeAsAny[StructureConfig], BeforeValidator(_kept)]
"""A field that holds a configuration of any kind of structure, and is stored as plain values."""


def recall_queries(count: int, *, seed: int = 0) -> Tensor:
    """Return the sorted positions, of `count` documents, of those that serve as queries when recall is measured."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:RECALL_QUERIES].sort().values


def recall_tokens(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Return some of a document's `(n, d)` token vectors, in random order, to serve as a query."""
    return tokens[torch.randperm(len(tokens), generator=generator)[:RECALL_TOKENS]]


def kinds_that_fit(building_bytes: Callable[[StructureConfig], int], max_bytes: int) -> str:
    """Say which kinds of structures, with their defaults, would fit into memory while they are built."""
    needs = {}
    for kind in STRUCTURES:
        try:
            if STRUCTURES[kind].automatic:
                needs[kind] = building_bytes(parse_structure(kind))
        except HyperseekError:
            continue  # of another package, and broken
    fitting = [f"{kind!r} ({need:,})" for kind, need in needs.items() if need <= max_bytes]
    if fitting:
        return f"with their defaults these would fit: {', '.join(fitting)}"
    return f"none fits; the smallest, {min(needs, key=needs.__getitem__)!r}, takes {min(needs.values()):,}"

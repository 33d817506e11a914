"""Candidate structures: whatever is built on the documents of an index to find candidates in less than a scan's time.

Engines for vectors and the neighbour graph are structures, and a package outside this project adds its own: a class
that derives from `Structure`, registered under the kind that its configuration names.

```toml
[project.entry-points."hyperseek.structures"]
mine = "my_package:MyStructure"
```

It is then built by `index.engines.build("mine")` and `hyperseek encode --engine mine`, searched by plans, tuned and
inspected. Shapes: `N` documents, `Q` queries, `n` candidates of a query. A structure knows documents by position, in
the order in which it was given them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, ConfigDict, SerializeAsAny
from torch import Tensor

from hyperseek._config import Config
from hyperseek._registry import Registry
from hyperseek.errors import ConfigError, HyperseekError, InputError, UnknownNameError, shown
from hyperseek.scoring import Points, Scorer, Space

FORMER_KINDS = {"scan": "flat"}
"""Kinds that were renamed: what folders and recipes of before say, and what it is called now."""

EXHAUSTIVE = "exhaustive"
"""Name that stands for no structure in plans: score all documents."""

# Candidates that tuning tries, for each document that is wanted.
_FACTORS = (1, 3, 10, 30, 100)


class StructureConfig(Config):
    """Base of all structures' configurations: everything that a structure is made from.

    Attributes:
        kind: Names the structure; a subclass gives it a default.
    """

    exact: ClassVar[bool] = False
    """Whether the structure always finds the best documents, however little effort it is given."""

    kind: str


class UnknownConfig(StructureConfig):
    """The configuration of a structure whose package is not installed: it is kept as it is, and nothing is opened."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, slots=True)
class StructureEstimate:
    """The cost of a structure.

    Attributes:
        memory_bytes: Memory of a search. For structures whose files are mapped into memory the system may take most of
            it back, and read the disk again.
        building_bytes: Peak memory of building it, beyond the chunks of documents that it is given.
        disk_bytes: Size on this machine's disk when it is finished.
        seconds: Time to build it on this machine's cores, within a factor of about three; None where that cannot be
            told.
    """

    memory_bytes: int
    building_bytes: int
    disk_bytes: int
    seconds: float | None


class Documents(Protocol):
    """The documents of an index, as far as structures need them."""

    @property
    def space(self) -> Space:
        """Geometry of the points."""

    @property
    def ids(self) -> Any:
        """All ids, as an Arrow array."""

    @property
    def chunk_rows(self) -> int:
        """Documents of a chunk that keeps memory bounded."""

    def __len__(self) -> int: ...

    def chunks(self, rows: int) -> Iterator[Points]:
        """Stream the points in order, at most `rows` documents at a time."""

    def texts(self) -> Iterator[str]:
        """Stream the documents' titles and texts, each joined by a space, in order."""


@dataclass(frozen=True)
class CandidateRequest:
    """What a structure is asked for.

    Attributes:
        name: Of the structure in its index, for messages.
        scorer: `Q` compiled queries.
        n: Candidates of each query, at least 1.
        k: Documents that the whole search ends with, at least 1.
        allowed: `(N,)` booleans: positions that may be found; None for all.
        points: The documents' points, by position; they are read when they are asked for. The points of documents that
            are gone are those of any other document, and `allowed` leaves them out.
        exact: Takes `(Q, m)` positions, -1 anywhere, and returns their exact scores, minus infinity for -1.
        texts: The queries' texts; None where only the scorer was given.
        notes: To be filled with numbers that explanations print, averaged over the queries.
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
"""Scores `(Q, n)`, higher is better, and positions `(Q, n)`, int64; -1 where there is nothing."""


class Structure(ABC):
    """A candidate structure of an index, open for search. Searches may run in several threads at once.

    Class methods build, open, verify and delete what lies in a folder; the instance that `open` returns searches.
    """

    config_type: ClassVar[type[StructureConfig]]
    """Class of the configuration. The default of its `kind` is the name that the structure is registered under."""

    automatic: ClassVar[bool] = True
    """Whether `engine="auto"` searches by the newest structure of this kind without being told to."""

    resumable: ClassVar[bool] = False
    """Whether `build` resumes in the folder that a killed build of the same documents left."""

    @classmethod
    @abstractmethod
    def build(cls, folder: Path, documents: Documents, config: Any) -> Mapping[str, Any]:
        """Fill a folder with a structure of all documents.

        Args:
            folder: It exists, and is empty unless the structure is `resumable`.
            documents: Of the index.
            config: A `config_type`.

        Returns:
            Plain values to be kept with the configuration, which `open` and `verify` are given again.
        """

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, documents: Documents, config: Any, details: Mapping[str, Any]) -> Self:
        """Open what `build` left in a folder.

        Args:
            folder: The structure's.
            documents: Of the index; they may be others than those of the folder by now.
            config: What it was built from.
            details: What `build` returned.

        Returns:
            The structure.

        Raises:
            StoreError: The folder is damaged, or something in it is missing.
        """

    @abstractmethod
    def search(self, request: CandidateRequest, *, effort: int | None = None) -> Sequence[Ranking]:
        """Find candidates.

        Args:
            request: The queries, and what may be found.
            effort: How thoroughly, at least 1; the configuration says what it means, and what None means.

        Returns:
            One ranking, best first, or several whose scores cannot be compared; they are united.

        Raises:
            InputError: The structure cannot search by this scorer.
        """

    def can_search(self, scorer: Scorer) -> bool:
        """Whether the structure can search by these queries; see `surrogate_parameters` for others."""
        return True

    @property
    def surrogate_parameters(self) -> Mapping[str, Any] | None:
        """Parameters of the features that linear surrogates are fitted on, to search by scorers that are not linear.

        None where the structure cannot search by functions that are linear in the features of the space.
        """
        return None

    def efforts(self, n: int) -> Sequence[int | None]:
        """Return the efforts that tuning tries for `n` candidates, the least first; None for the configuration's."""
        return (None,)

    @classmethod
    def stages(cls, name: str, n: int) -> list[dict[str, Any]]:
        """Return the stages of a plan that search by the structure, as plain values.

        Args:
            name: Of the structure in its index.
            n: Candidates of each query.

        Returns:
            The source that asks it, and what ranks the candidates.
        """
        return [{"kind": "engine", "n": n, "name": name}, {"kind": "rescore"}]

    def trials(self, name: str, scorer: Scorer, *, k: int, count: int) -> Iterator[Iterable[list[dict[str, Any]]]]:
        """Yield the plans that tuning tries, each a list of stages as plain values.

        Args:
            name: Of the structure in its index.
            scorer: Some of the queries.
            k: Documents wanted of each query.
            count: Documents in the structure.

        Yields:
            Families of plans, each ordered by cost: once a plan finds enough, the rest of its family is left out.
        """
        liftable = self.can_search(scorer)
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

    @classmethod
    @abstractmethod
    def estimate(cls, space: Space, config: Any, *, count: int) -> StructureEstimate:
        """Estimate what building and searching will cost.

        Args:
            space: Of the documents.
            config: A `config_type`.
            count: Documents.

        Returns:
            Bytes of memory and disk, and seconds.
        """

    @classmethod
    def sizes(cls, space: Space, config: Any) -> str:
        """Say how large a document of a space is to the structure, for messages; empty where that says nothing."""
        return ""

    @classmethod
    @abstractmethod
    def verify(cls, folder: Path, details: Mapping[str, Any]) -> None:
        """Compare all bytes in a folder with what was written; StoreError names a file that differs."""

    @classmethod
    def described(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `hyperseek inspect` prints of the values that `build` returned."""
        return dict(details)

    @classmethod  # noqa: B027  most structures keep nothing outside
    def discard(cls, folder: Path) -> None:
        """Delete what a structure keeps outside its folder, which is about to be deleted; it may be unfinished."""


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
        "graph": "hyperseek.graph.index_graph:Graph",
    },
    check=_check,
)
"""Kinds of structures by name."""


def parse_structure(structure: object, **settings: Any) -> StructureConfig:
    """Make a configuration from what is easy to write.

    Args:
        structure: A kind with its defaults, as `"hnsw"`; plain values, as `{"kind": "hnsw", "m": 16}`; or a
            configuration.
        **settings: Further settings, which take the place of the given ones.

    Returns:
        The configuration.

    Raises:
        UnknownNameError: There is no such kind of structure.
        ConfigError: The values do not validate, or are of another type.
    """
    if isinstance(structure, StructureConfig):
        if not settings:
            return structure
        structure = {**{name: getattr(structure, name) for name in type(structure).model_fields}}
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
    """Read a configuration that was kept; of a kind that is not installed it stays as it is."""
    if isinstance(value, Mapping):
        try:
            return parse_structure(value)
        except UnknownNameError:
            return UnknownConfig.from_mapping(value)
        except HyperseekError as error:
            raise ValueError(str(error)) from None
    return value


AnyStructureConfig: TypeAlias = Annotated[SerializeAsAny[StructureConfig], BeforeValidator(_kept)]
"""A field that holds a configuration of any kind of structure, and is kept as plain values."""


def kinds_that_fit(building_bytes: Callable[[StructureConfig], int], max_bytes: int) -> str:
    """Say which kinds of structures with their defaults would fit into memory, by what building each of them takes."""
    needs = {}
    for kind in STRUCTURES:
        try:
            if STRUCTURES[kind].automatic:
                needs[kind] = building_bytes(parse_structure(kind))
        except HyperseekError:
            continue  # of another package, and not to be used as it is
    fitting = [f"{kind!r} ({need:,})" for kind, need in needs.items() if need <= max_bytes]
    if fitting:
        return f"with their defaults these would fit: {', '.join(fitting)}"
    return f"none fits; the smallest, {min(needs, key=needs.__getitem__)!r}, takes {min(needs.values()):,}"

"""How each kind of system ranks the documents of a collection, and what that costs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hyperseek._files import read_json, write_json
from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek._relevance import excluded_ids
from hyperseek.cards import Card
from hyperseek.errors import DataError, StoreError
from hyperseek.evaluation._ranking import Ranking, rank_file, rank_index
from hyperseek.evaluation._result import Protocol, measuring_versions
from hyperseek.evaluation.suite._columns import Column, data_fingerprint
from hyperseek.evaluation.suite._result_files import SuiteCosts, SuiteResult
from hyperseek.evaluation.suite._suite import Suite
from hyperseek.index import Index
from hyperseek.mining import BM25
from hyperseek.models import Retriever, load
from hyperseek.models.loading import set_length, set_query_length
from hyperseek.plan import Candidates, Plan, as_plan, fuse
from hyperseek.runs.record import hardware
from hyperseek.training import Recipe, RunRecord, train
from hyperseek.types import QueryOptions, Run

# Of a recipe, what does not change the trained model.
_WHERE: Any = {"output": True, "train": {"cache", "device", "workers", "log_every", "save_every"}}


class Entry(NamedTuple):
    """A system, and the seed of its training; None for one that is not trained."""

    system: str
    seed: int | None


class LeftOut(Exception):
    """A system has no result on a collection; the message says why."""


@dataclass(frozen=True)
class Made:
    """A ranking, what it cost, and how its system was trained."""

    ranking: Ranking
    costs: SuiteCosts
    training: dict[str, Any] | None = None


@dataclass(eq=False)
class Workshop:
    """Makes rankings, and keeps models and indexes in a folder for as many of them as can share them.

    Attributes:
        suite: The suite.
        output: The folder.
        tell: Is told what is being done.
        find: Returns the result of an entry on a column that is there already.
    """

    suite: Suite
    output: Path
    tell: Callable[[str], None]
    find: Callable[[Entry, Column], SuiteResult]
    _loaded: dict[Entry, Retriever] = field(default_factory=dict)
    _of_sources: dict[str, str | None] = field(default_factory=dict)
    _models: dict[tuple[Any, ...], list[Any]] = field(default_factory=dict)
    _recipes: dict[Entry, tuple[Recipe, str]] = field(default_factory=dict)

    def entries(self, chosen: Sequence[str]) -> list[Entry]:
        """Return the entries of systems, in order: one of each seed, where something is trained."""
        return [Entry(name, seed) for name in chosen for seed in self._seeds(name)]

    def _seeds(self, name: str) -> tuple[int | None, ...]:
        system = self.suite.systems[name]
        trained = system.recipe is not None or any(self._seeds(needed) != (None,) for needed in system.needs)
        return self.suite.seeds if trained else (None,)

    def needed(self, entry: Entry) -> list[Entry]:
        """Return the entries that a system is made of."""
        return [
            Entry(name, entry.seed if self._seeds(name) != (None,) else None)
            for name in self.suite.systems[entry.system].needs
        ]

    def key(self, entry: Entry, column: Column) -> str:
        """Return the fingerprint of all that a result depends on."""
        depth = {"k": self.suite.k, "seed": self.suite.seed}
        return fingerprint_json([column.identity, depth, self._identity(entry, column)])

    def _identity(self, entry: Entry, column: Column) -> Any:
        system = self.suite.systems[entry.system]
        match system.kind:
            case "bm25":
                assert system.bm25 is not None
                return {"bm25": system.bm25.model_dump(mode="json")}
            case "run":
                file = self._run_file(entry, column)
                return {"run": fingerprint_file(file) if file.is_file() else None}
            case "fusion":
                assert system.fusion is not None
                how = system.fusion.model_dump(mode="json", exclude={"of"})
                return {"fusion": how, "of": [self._identity(each, column) for each in self.needed(entry)]}
            case "plan":
                how = self._plan(entry).model_dump(mode="json")
                asked = [self._options(entry, column), self._identity(self.needed(entry)[0], column)]
                return {"plan": how, "of": asked}
        own: dict[str, Any] = {
            "lengths": self.suite.lengths(column.name),
            "options": self._options(entry, column),
            "storage": system.storage,
        }
        if system.recipe is not None:
            return {"recipe": self._recipe(entry)[1], **own}
        known = (entry, *own["lengths"].values())
        if known not in self._models:
            protocol = self.model(entry, column).protocol()
            self._models[known] = [protocol[key] for key in ("fingerprint", "query_fingerprint", "prompts")]
        return {"model": self._models[known], **own}

    def _options(self, entry: Entry, column: Column) -> QueryOptions:
        system = self.suite.systems[entry.system]
        card = column.config.card
        if not system.cards or card is None:
            return system.options
        read = Card.from_mapping({"name": column.name, **card}, source=f"the card of {column.name}")
        return QueryOptions.of({**system.options, "card": read})

    def _plan(self, entry: Entry) -> Plan:
        given = self.suite.systems[entry.system].plan
        return Plan.load(given) if isinstance(given, str) else as_plan(given or {})

    def _run_file(self, entry: Entry, column: Column) -> Path:
        given = self.suite.systems[entry.system].run or ""
        return Path(os.path.expandvars(given).replace("{collection}", column.name)).expanduser()

    def _recipe(self, entry: Entry) -> tuple[Recipe, str]:
        """Return the recipe of an entry, and the fingerprint of it and of its data."""
        if entry not in self._recipes:
            recipe = self.suite.recipe(entry.system, entry.seed or 0)
            used = recipe.model_dump(mode="json", exclude=_WHERE)
            sources = [each.source for each in recipe.data.sources.values()]
            sources += [each.source for each in recipe.validation.sets.values()]
            key = fingerprint_json([used, {source: self._data(source) for source in sources}])
            cache = recipe.train.cache.model_copy(
                update={"folder": recipe.train.cache.folder or f"{self.output}/cache"}
            )
            placed = recipe.train.model_copy(update={"cache": cache})
            self._recipes[entry] = recipe.model_copy(update={"train": placed}), key
        return self._recipes[entry]

    def _data(self, source: str) -> str | None:
        if source not in self._of_sources:
            self._of_sources[source] = data_fingerprint(source)
        return self._of_sources[source]

    def model(self, entry: Entry, column: Column) -> Retriever:
        """Return the model of an entry, as it reads the texts of a column; it is trained if it is not there."""
        if entry not in self._loaded:
            self._loaded.clear()  # a model at a time: entries come one after the other
            system = self.suite.systems[entry.system]
            if system.recipe is None:
                place: str | Path = os.path.expandvars(system.model or "")
            else:
                place = self._trained(entry)[0]
            self._loaded[entry] = load(place, trust_remote_code=system.trust_remote_code)
        model = self._loaded[entry]
        lengths = self.suite.lengths(column.name)
        set_query_length(model, lengths["query"])
        set_length(model, "document", lengths["document"])
        return model

    def _trained(self, entry: Entry) -> tuple[Path, RunRecord]:
        recipe, key = self._recipe(entry)
        folder = self.output / "models" / f"{entry.system}.{entry.seed}-{key[:12]}"
        if not (folder / "run.json").is_file():
            self.tell(f"training {entry.system}, seed {entry.seed}")
        return folder, train(recipe, output=folder)

    def make(self, entry: Entry, column: Column) -> Made:
        """Rank the documents of a column.

        Args:
            entry: The system.
            column: The collection.

        Returns:
            The ranking.

        Raises:
            LeftOut: There is nothing to rank by.
        """
        making = {"bm25": self._bm25, "run": self._file, "fusion": self._fusion, "plan": self._searched}
        return making.get(self.suite.systems[entry.system].kind, self._searched)(entry, column)

    def time(self, entry: Entry, column: Column, before: SuiteCosts) -> SuiteCosts:
        """Measure the milliseconds of a query again; other costs stay."""
        system = self.suite.systems[entry.system]
        compiling: tuple[float, ...] = ()
        match system.kind:
            case "run":
                return before
            case "fusion":
                summed = _sum_of_costs([self.find(each, column).costs for each in self.needed(entry)])
                return before.model_copy(update={"search_ms": summed.search_ms, "load": summed.load})
            case "bm25":
                assert system.bm25 is not None
                searching = self._timed_bm25(column.bm25(system.bm25), column)
            case _:
                plan = self._plan(entry) if system.kind == "plan" else None
                owner = entry if plan is None else self.needed(entry)[0]
                model = self.model(owner, column)
                index, _ = self._index(owner, column, model)
                compiling, searching = self._timed(index, column, model, plan, self._options(entry, column))
        again = {"compile_ms": compiling, "search_ms": searching, **_machine(torch.device("cpu"))}
        return before.model_copy(update={**again, "hardware": before.hardware})

    def _timed_bm25(self, index: BM25, column: Column) -> tuple[float, ...]:
        texts = [query.text for query in column.timed_queries()]
        return _milliseconds(texts, lambda text: index.run({"": text}, k=self.suite.k))

    def _bm25(self, entry: Entry, column: Column) -> Made:
        settings = self.suite.systems[entry.system].bm25
        assert settings is not None
        start = time.perf_counter()
        index = column.bm25(settings)
        seconds = time.perf_counter() - start
        run = index.run(column.queries, k=self.suite.k, exclude_same_id=column.config.exclude_same_id)
        costs = SuiteCosts(
            encoding_seconds=seconds,
            documents=column.dataset.count(),
            point_bytes=index.nbytes,
            search_ms=self._timed_bm25(index, column),
            **_machine(torch.device("cpu")),
        )
        system = {"kind": "bm25", "settings": index.settings.model_dump(mode="json")}
        return Made(Ranking(entry.system, run, self._protocol(column, system)), costs)

    def _file(self, entry: Entry, column: Column) -> Made:
        file = self._run_file(entry, column)
        if not file.is_file():
            raise LeftOut(f"there is no file {file}")
        read = rank_file(file, column.qrels, name=entry.system, excluded=excluded_ids(column.queries))
        run = {query: dict(list(ranking.items())[: self.suite.k]) for query, ranking in read.run.items()}
        if not column.qrels.keys() & run.keys():
            raise DataError("it ranks none of the judged queries; is it a run of another collection?", path=file)
        system = {"kind": "file", "file": file.name}
        costs = SuiteCosts(documents=column.dataset.count())
        return Made(Ranking(entry.system, run, self._protocol(column, system), notes=read.notes), costs)

    def _fusion(self, entry: Entry, column: Column) -> Made:
        how = self.suite.systems[entry.system].fusion
        assert how is not None
        parts = [self.find(each, column) for each in self.needed(entry)]
        settings = how.model_dump(mode="json")
        run = fused([part.run() for part in parts], self.suite.k, **how.model_dump(exclude={"of"}))
        system = {"kind": "fusion", **settings, "keys": [part.key for part in parts]}
        ranking = Ranking(entry.system, run, self._protocol(column, system), trained=None)
        return Made(ranking, _sum_of_costs([part.costs for part in parts]))

    def _searched(self, entry: Entry, column: Column) -> Made:
        system = self.suite.systems[entry.system]
        plan = self._plan(entry) if system.kind == "plan" else None
        owner = self.needed(entry)[0] if plan is not None else entry
        model = self.model(owner, column)
        index, seconds = self._index(owner, column, model)
        options = self._options(entry, column)
        ranking = rank_index(
            index,
            column.dataset,
            split=column.config.split,
            k=self.suite.k,
            exclude_same_id=column.config.exclude_same_id,
            name=entry.system,
            plan=plan,
            options=options,
        )
        described = self._without_places(ranking.protocol.model_dump(mode="json"))
        protocol = Protocol.from_mapping(described, source="a protocol")
        compiling, searching = self._timed(index, column, model, plan, options)
        numbers = sum(
            tensor.numel() for _, points in index.points() for tensor in points.tensors() if tensor.is_floating_point()
        )
        trained = self.suite.systems[owner.system].recipe is not None
        record = self._trained(owner)[1] if trained else None
        costs = SuiteCosts(
            training_seconds=None if record is None else record.seconds,
            parameters=None if record is None else record.parameters,
            encoding_seconds=seconds,
            documents=len(index),
            point_bytes=numbers * (2 if index.info.storage == "float16" else 4),
            index_bytes=sum(file.stat().st_size for file in Path(index.path).rglob("*") if file.is_file()),
            index=model.fingerprint,
            compile_ms=compiling,
            search_ms=searching,
            **_machine(model.device),
        )
        kept = Ranking(ranking.name, ranking.run, protocol, ranking.trained, ranking.notes)
        return Made(kept, costs, None if record is None else self._training(owner, record))

    def _training(self, entry: Entry, record: RunRecord) -> dict[str, Any]:
        """Return what the table says of a training."""
        recipe, key = self._recipe(entry)
        config = recipe.train
        return {
            "recipe": self.suite.systems[entry.system].recipe,
            "family": recipe.model.family,
            "trunk": config.trunk,
            "steps": record.steps,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "losses": sorted(recipe.losses.model_dump(mode="json", exclude_none=True, exclude_defaults=True)),
            "examples": sum(use.examples for use in record.sources.values()),
            "best_step": record.best_step,
            "share": record.share,
            "changed": record.changed,
            "data": record.data_fingerprint,
            "key": key,
        }

    def _index(self, entry: Entry, column: Column, model: Retriever) -> tuple[Index, float | None]:
        """Open the index that models of one document side share, and say how long encoding took."""
        storage = self.suite.systems[entry.system].storage
        data = fingerprint_json(column.identity)
        folder = self.output / "indexes" / column.name / f"{data[:8]}-{model.fingerprint[:12]}-{storage}"
        times = folder.with_name(f"{folder.name}.json")
        if not times.is_file():  # unfinished, or not begun
            self.tell(f"encoding {column.dataset.count():,} documents of {column.name} with {entry.system}")
            fresh, start = not folder.exists(), time.perf_counter()
            given: dict[str, Any] = {"storage": storage, "name": column.name, "total": column.dataset.count()}
            try:
                Index.build(folder, column.dataset.documents(), model, **given)
            except StoreError as error:  # begun by a model of another name for the space, or damaged
                self.tell(f"{error}; it is encoded anew")
                Index.build(folder, column.dataset.documents(), model, **given, overwrite=True)
            # Of an encoding that was interrupted, the time is not known.
            write_json(times, {"seconds": time.perf_counter() - start if fresh else None})
        # Opened, not built again: equal points are an index of both, also where one model calls their space a cosine
        # and the other, which has them normalised, an inner product.
        return Index.open(folder, model=model), read_json(times)["seconds"]

    def _timed(
        self, index: Index, column: Column, model: Retriever, plan: Plan | None, options: QueryOptions
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        texts = [query.text for query in column.timed_queries()]
        if plan is not None:  # some of its sources read the texts
            return (), _milliseconds(texts, lambda text: index.search(text, k=self.suite.k, plan=plan, options=options))
        scorers = []
        compiling = _milliseconds(texts, lambda text: scorers.append(model.compile([text], options)))
        searching = _milliseconds(scorers[1:], lambda one: index.search(one, k=self.suite.k, engine="exact"))
        return compiling, searching

    def _protocol(self, column: Column, system: dict[str, Any]) -> Protocol:
        return Protocol(
            dataset=column.dataset.name,
            data=column.dataset.fingerprint(),
            split=column.config.split,
            qrels=column.identity["qrels"],
            k=self.suite.k,
            exclude_same_id=column.config.exclude_same_id,
            options=None,
            system=system,
            versions=measuring_versions(),
        )

    def _without_places(self, values: Any) -> Any:
        """Leave this machine's folders out of a protocol: a model is named by its fingerprint."""
        text = json.dumps(values)
        for place in filter(None, (str(self.output), os.environ.get("HYPERSEEK_DATA"))):
            text = text.replace(json.dumps(place)[1:-1], "")
        return json.loads(text)


def fused(
    runs: Sequence[Run],
    k: int,
    *,
    method: Any = "rrf",
    weights: Sequence[float] | None = None,
    rrf_k: int = 60,
) -> Run:
    """Return one run of several, by `hyperseek.plan.fuse`.

    Args:
        runs: Of the same queries.
        k: Documents per query.
        method: As in `fuse`.
        weights: One for each run; None for equal ones.
        rrf_k: As in `fuse`.

    Returns:
        The best documents of each query that any run has.
    """
    queries = list(dict.fromkeys(query for run in runs for query in run))
    ids: dict[str, int] = {}
    parts = []
    for run in runs:
        own = [run.get(query, {}) for query in queries]
        rows = [torch.tensor([ids.setdefault(name, len(ids)) for name in one], dtype=torch.int64) for one in own]
        # By rank, equal scores keep their order, which is that of the corpus and not of rows here.
        values = [[-float(rank) for rank in range(len(one))] if method == "rrf" else list(one.values()) for one in own]
        scores = [torch.tensor(one, dtype=torch.float64) for one in values]
        parts.append(Candidates.of_lists(rows, scores))
    found = fuse(parts, method=method, weights=weights, rrf_k=rrf_k).first(k)
    names = list(ids)
    return {
        query: {names[row]: score for row, score in zip(rows[:count], scores[:count], strict=True)}
        for query, rows, scores, count in zip(
            queries, found.rows.tolist(), found.scores.tolist(), found.counts.tolist(), strict=True
        )
    }


def _milliseconds(items: Sequence[Any], work: Callable[[Any], object]) -> tuple[float, ...]:
    """Time the work on each item, after once on the first to warm up."""
    times = []
    for place, item in enumerate([*items[:1], *items]):
        start = time.perf_counter()
        work(item)
        if place:
            times.append(round(1000 * (time.perf_counter() - start), 3))
    return tuple(times)


def _machine(device: torch.device) -> Mapping[str, Any]:
    load_ = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {"hardware": hardware(device), "load": load_}


def _sum_of_costs(parts: Sequence[SuiteCosts]) -> SuiteCosts:
    """Return the costs of systems that are all asked; an index that several share counts once."""
    distinct = list({part.index or f"own {place}": part for place, part in enumerate(parts)}.values())
    training = [part.training_seconds for part in parts if part.training_seconds is not None]
    times = [part.query_ms for part in parts]
    count = min(map(len, times))
    return SuiteCosts(
        training_seconds={"parts": sum(sum(one.values()) for one in training)} if training else None,
        parameters=_sum([part.parameters for part in parts if part.training_seconds is not None]) if training else None,
        encoding_seconds=_sum([part.encoding_seconds for part in distinct]),
        documents=parts[0].documents,
        point_bytes=_sum([part.point_bytes for part in distinct]),
        index_bytes=_sum([part.index_bytes for part in distinct if part.index is not None]),
        search_ms=tuple(round(sum(each), 3) for each in zip(*(one[:count] for one in times), strict=True)),
        hardware=parts[0].hardware,
        load=max((part.load for part in parts if part.load is not None), default=None),
    )


def _sum(values: Sequence[Any]) -> Any:
    """Return the sum, or None where a part is not known."""
    return None if any(value is None for value in values) else sum(values)

"""Tasks: mteb's by name, whole benchmarks, and retrieval tasks made of our own collections."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hyperseek._bounded import PathLike
from hyperseek.data import open_dataset
from hyperseek.data.open import parse_source, registered_source
from hyperseek.errors import InputError, UnknownNameError, require
from hyperseek.evaluation.candidates import candidates_of

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.evaluation.candidates import Candidates

_MEANT = re.compile(r"Did you mean: '?(.+?)'?\?")

LOCAL = "local:"
"""What a collection of ours is named by: `local:SOURCE`, with `:SPLIT` after it for one split."""


def local_task(
    dataset: Dataset,
    *,
    split: str = "test",
    candidates: Candidates | None = None,
    exclude_same_id: bool = False,
    language: str = "eng-Latn",
) -> Any:
    """Make a retrieval task for mteb from a collection, or a reranking task.

    The corpus is memory-mapped, so it need not fit in memory. Negative grades count as 0, as in all our measures.

    Args:
        dataset: Documents, queries and judgements.
        split: The split of the judgements.
        candidates: Documents to rerank by query; None searches all.
        exclude_same_id: Leave out a document whose id is the query's.
        language: For mteb's tables, as mteb writes languages.

    Returns:
        An `AbsTaskRetrieval`, named `local-` and the collection's name.

    Raises:
        UnknownNameError: There is no such split.
        MissingExtraError: mteb is not installed.
    """
    require("mteb", extra="mteb")
    from hyperseek.evaluation.mteb._local import make_task

    if split not in dataset.splits:
        raise UnknownNameError(f"split of {dataset.name}", split, dataset.splits)
    return make_task(dataset, split=split, candidates=candidates, exclude_same_id=exclude_same_id, language=language)


def mteb_tasks(
    names: Iterable[str],
    *,
    splits: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    candidates: PathLike | None = None,
    exclude_same_id: bool = False,
) -> list[Any]:
    """Find tasks by name.

    Args:
        names: Benchmarks (`"MTEB(eng, v2)"`), tasks of mteb (`"SciFact"`), or collections: `"local:SOURCE"`,
            `"local:SOURCE:SPLIT"`, a folder or file, or `NAME:PLACE` of a data source.
        splits: Evaluate these splits; None takes those of each task.
        languages: Of tasks in several languages, these, as in `"eng"`; None takes those of each task.
        candidates: File of documents to rerank in the one collection that is named; `"own"` takes those that the
            collection itself gives.
        exclude_same_id: In collections, leave out a document whose id is the query's.

    Returns:
        mteb's tasks, each once.

    Raises:
        UnknownNameError: There is no such task, benchmark or split.
        InputError: No task is left, or `candidates` or `exclude_same_id` belongs to no collection.
        MissingExtraError: mteb is not installed.
    """
    require("mteb", extra="mteb")
    found: list[Any] = []
    local = 0
    for name in names:
        source = _source(name)
        if source is None:
            found += _known(name, splits, languages)
            continue
        local += 1
        found += _local(source, splits, candidates, exclude_same_id=exclude_same_id)
    if candidates is not None and local != 1:
        raise InputError(f"candidates belong to one collection, and {local} are named")
    if exclude_same_id and not local:
        raise InputError("exclude_same_id is for collections; mteb's own tasks know what they leave out")
    keys = [(task.metadata.name, task.metadata.revision, *sorted(task.eval_splits)) for task in found]
    tasks = list(dict(zip(keys, found, strict=True)).values())
    names_of = [task.metadata.name for task in tasks]
    double = next((name for name in names_of if names_of.count(name) > 1), None)
    if double is not None:
        raise InputError(f"two tasks are named {double!r}; name one of the collections, as in local:NAME=PLACE")
    if not tasks:
        raise InputError("no task is left; name a benchmark, a task or a collection")
    return tasks


def _source(name: str) -> str | None:
    """Return the collection that is named, or None for what mteb knows, which comes first."""
    if name.startswith(LOCAL):
        return name.removeprefix(LOCAL)
    benchmark, task, _ = _found(name)
    if benchmark is not None or task is not None:
        return None
    place = parse_source(name).place
    return name if os.path.exists(place) or registered_source(place) is not None else None


def _found(name: str) -> tuple[Any, Any, str]:
    """Return the benchmark and the task of a name, None for what mteb has not, and what mteb says of an unknown one."""
    import mteb

    found: list[Any] = []
    told = ""
    for find in (mteb.get_benchmark, mteb.get_task):
        try:
            found.append(find(name))
        except KeyError as error:
            found.append(None)
            told = told or next(iter(_MEANT.findall(str(error))), "")
    return found[0], found[1], told


def _known(name: str, splits: Sequence[str] | None, languages: Sequence[str] | None) -> list[Any]:
    benchmark, task, meant = _found(name)
    if benchmark is None and task is None:
        near = f" Did you mean {meant!r}?" if meant else ""
        raise InputError(
            f"there is no task, benchmark or collection {name!r}; give a task or benchmark of mteb, such as 'SciFact' "
            f"or 'MTEB(eng, v2)', or local:SOURCE.{near}"
        )
    chosen = [task] if benchmark is None else list(benchmark.tasks)
    if languages is not None:
        try:
            chosen = [task.filter_languages(list(languages)) for task in chosen]
        except ValueError:
            told = ", ".join(map(repr, languages))
            raise InputError(
                f"mteb does not know a language of {told}; give codes of ISO 639-3, as eng or deu"
            ) from None
        chosen = [task for task in chosen if task.hf_subsets]
    if splits is None:
        return chosen
    kept = []
    for task in chosen:
        own = [split for split in splits if split in task.metadata.eval_splits]
        if own:
            kept.append(task.filter_eval_splits(own))
        elif benchmark is None:
            raise UnknownNameError(f"split of {name}", splits[0], task.metadata.eval_splits)
    return kept


def _local(
    source: str, splits: Sequence[str] | None, candidates: PathLike | None, *, exclude_same_id: bool
) -> list[Any]:
    parsed = parse_source(source)
    if parsed.kind != "qrels":
        raise InputError(f"{source!r} is a table of training examples; give a collection")
    place = parsed.place if parsed.name is None else f"{parsed.name}={parsed.place}"
    wanted = list(splits or ["test"]) if parsed.split is None else [parsed.split]
    if len(wanted) > 1:
        raise InputError(f"{source!r} is evaluated on one split at a time, not on {', '.join(wanted)}")
    dataset = open_dataset(place)
    lists = None if candidates is None else candidates_of(dataset, candidates)
    return [local_task(dataset, split=wanted[0], candidates=lists, exclude_same_id=exclude_same_id)]

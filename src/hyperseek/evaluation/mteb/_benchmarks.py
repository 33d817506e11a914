"""Whole benchmarks in mteb's own runner, task by task: what is finished is kept, what fails is reported.

```
FOLDER/run_config.json          what was asked: model, lengths, prompts, options, tasks, versions
FOLDER/aggregate_summary.json   the means, and each task's score
FOLDER/results/MODEL/REVISION/  mteb's own files, which mteb.ResultCache(FOLDER) reads
FOLDER/predictions/             mteb's files of rankings, where they are wanted
FOLDER/indexes/                 the corpus of a task that is not finished
```
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek._files import locked, read_json, write_json, writing
from hyperseek._folders import folder_path
from hyperseek._long_work import Interrupted, progress, stop_here, stoppable
from hyperseek._machine import installed_versions
from hyperseek.errors import DataError, HyperseekError, InputError, brief, require
from hyperseek.evaluation.mteb._model import MtebEncoder
from hyperseek.models import Retriever

_CONFIG, _SUMMARY = "run_config.json", "aggregate_summary.json"
_PACKAGES = ("hyperseek", "mteb", "torch", "transformers", "sentence-transformers", "pytrec-eval-terrier")

logger = logging.getLogger(__name__)


class MtebTask(Config):
    """The result of one task.

    Attributes:
        task: Its name.
        task_type: mteb's type of it, as in `"Retrieval"`.
        score: Mean over its splits and subsets.
        score_key: What the score is, as in `"ndcg_at_10"`.
    """

    task: str
    task_type: str
    score: float
    score_key: str


class MtebSummary(ShowsTables, Config):
    """The results of several tasks, with the keys of HypRAG's `aggregate_summary.json`.

    Attributes:
        num_tasks: Number of tasks that have a result.
        num_task_types: Number of their types.
        mean_task: Mean over tasks; None without any.
        mean_task_type: Mean over types of the means of their tasks.
        per_task_type: Means by type.
        per_task: The tasks.
        failed: Why the others have no result, by task.
    """

    num_tasks: int = 0
    num_task_types: int = 0
    mean_task: float | None = None
    mean_task_type: float | None = None
    per_task_type: dict[str, float] = Field(default_factory=dict)
    per_task: tuple[MtebTask, ...] = ()
    failed: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, tasks: Sequence[MtebTask], failed: Mapping[str, str] | None = None) -> MtebSummary:
        """Compute the means of tasks."""
        by_type: dict[str, list[float]] = defaultdict(list)
        for task in tasks:
            by_type[task.task_type].append(task.score)
        types = {name: fmean(by_type[name]) for name in sorted(by_type)}
        return cls(
            num_tasks=len(tasks),
            num_task_types=len(types),
            mean_task=fmean(task.score for task in tasks) if tasks else None,
            mean_task_type=fmean(types.values()) if types else None,
            per_task_type=types,
            per_task=tuple(tasks),
            failed=dict(failed or {}),
        )

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        rows = [[one.task, one.task_type, one.score_key, f"{one.score:.4f}"] for one in self.per_task]
        rows += [[task, "", "", "failed"] for task in self.failed]
        for name, mean in (("mean of tasks", self.mean_task), ("mean of types", self.mean_task_type)):
            if mean is not None:
                rows.append([name, "", "", f"{mean:.4f}"])
        yield "", ["task", "type", "score", "value"], rows

    def _frame_rows(self) -> list[dict[str, Any]]:
        return [one.model_dump() for one in self.per_task]


def evaluate_mteb(
    model: Retriever,
    tasks: Iterable[Any],
    *,
    output: str | os.PathLike[str],
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    scoring: str | None = None,
    card_field: str | None = None,
    dtype: str = "auto",
    predictions: bool = False,
    overwrite: bool = False,
) -> MtebSummary:
    """Run tasks in mteb's own runner, and summarise them.

    Tasks that `output` has results of are not run again. A task that fails is reported, and the others go on.

    Args:
        model: The model.
        tasks: Tasks of mteb; `mteb_tasks` finds them by name.
        output: Folder of the results, of this model with these settings.
        name: As for `MtebEncoder`, like the next four.
        options: Options of the model for every query.
        scoring: What compares texts in tasks without queries.
        card_field: Column of the queries that describes a card of each.
        dtype: Number type that documents are encoded in.
        predictions: Whether to keep the rankings, too, as mteb writes them.
        overwrite: Run all tasks again.

    Returns:
        The summary, which `output` has as `aggregate_summary.json`, too.

    Raises:
        InputError: The folder has results of another model or of other settings, or as for `MtebEncoder`.
        MissingExtraError: mteb is not installed.
        Interrupted: Ctrl-C was pressed; finished tasks are kept.
    """
    mteb = require("mteb", extra="mteb")
    folder = folder_path(output, "results of mteb")
    chosen = list(tasks)
    encoder = MtebEncoder(
        model,
        name=name,
        options=options,
        scoring=scoring,
        card_field=card_field,
        dtype=dtype,
        folder=folder / "indexes",
    )
    config = _config(encoder, model, scoring=scoring, card_field=card_field, dtype=dtype)
    _check_same(folder / _CONFIG, config, overwrite=overwrite)
    write_json(folder / _CONFIG, {**config, "tasks": [task.metadata.name for task in chosen]})
    done: list[MtebTask] = []
    failed: dict[str, str] = {}
    how: dict[str, Any] = {
        "cache": mteb.ResultCache(cache_path=folder),
        "overwrite_strategy": "always" if overwrite else "only-missing",
        "prediction_folder": folder / "predictions" if predictions else None,
        "co2_tracker": False,
        "show_progress_bar": False,
    }
    message = f"finished tasks are kept in {folder}; run the same command again to go on"
    with (
        locked(folder / ".lock"),  # a second run would remove the first one's unfinished corpus
        stoppable(lambda: message),
        progress("evaluating", len(chosen), unit="tasks") as bar,
    ):
        for task in chosen:
            bar.describe(f"evaluating {task.metadata.name}")
            try:
                done.append(_run(task, encoder, how))
            except (Interrupted, KeyboardInterrupt):
                raise
            except Exception as error:  # whatever a task of mteb raises, the others go on
                failed[task.metadata.name] = _reason(error)
                logger.warning("the task %s failed: %s", task.metadata.name, failed[task.metadata.name])
            else:
                shutil.rmtree(folder / "indexes", ignore_errors=True)
            write_json(folder / _SUMMARY, MtebSummary.of(done, failed).model_dump(mode="json"))
            bar.advance()
            stop_here()
    return MtebSummary.of(done, failed)


def _run(task: Any, encoder: MtebEncoder, how: Mapping[str, Any]) -> MtebTask:
    import mteb

    metadata = task.metadata
    earlier = _earlier(how["cache"], metadata.name, encoder.mteb_model_meta)
    if earlier is not None and earlier.dataset_revision != metadata.revision:
        how = {**how, "overwrite_strategy": "always"}  # mteb would keep the result of other data
    loaded = task.data_loaded
    try:
        result = mteb.evaluate(encoder, task, **how)
    finally:
        if task.data_loaded and not loaded:  # of a task that failed
            task.unload_data()
    if result.exceptions or not result.task_results:
        told = "; ".join(str(each.exception) for each in result.exceptions or ())
        raise DataError(told or "mteb gave no result")
    # The file may hold further splits and subsets of an earlier run.
    scores = result.task_results[0].scores
    entries = [entry for split in task.eval_splits for entry in scores[split]]
    score = fmean(float(entry["main_score"]) for entry in entries if entry["hf_subset"] in task.hf_subsets)
    if not math.isfinite(score):
        raise DataError(f"its {metadata.main_score} is {score}")
    return MtebTask(task=metadata.name, task_type=metadata.type, score=score, score_key=metadata.main_score)


def _earlier(cache: Any, task: str, meta: Any) -> Any:
    """Return the result that a folder has of a task, or None; a damaged one is removed, since mteb would read it."""
    try:
        return cache.load_task_result(task, meta)
    except Exception as error:
        path = Path(cache.get_task_result_path(task, meta))
        if not path.is_file():
            raise
        logger.warning("%s is damaged (%s); the task runs again", path, _reason(error))
        with writing(path):
            path.unlink()
        return None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, HyperseekError) else f"{type(error).__name__}: {brief(error)}"


def _config(encoder: MtebEncoder, model: Retriever, **settings: Any) -> dict[str, Any]:
    meta = encoder.mteb_model_meta
    described = {key: value for key, value in model.protocol().items() if key != "versions"}
    return {
        "model": meta.name,
        "revision": meta.revision,
        "experiment": meta.experiment_name,
        "options": encoder.options.to_json(),
        **settings,
        "retriever": described,
        "versions": installed_versions(_PACKAGES),
    }


_SAME = ("model", "revision", "experiment", "dtype")


def _check_same(file: Path, config: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raise InputError where a folder has results of another model or of other settings."""
    if not file.exists() or overwrite:
        return
    earlier = read_json(file, "a run of mteb", remedy="choose another folder")
    known = earlier if isinstance(earlier, dict) else {}
    other = [key for key in _SAME if known.get(key) != config[key]]
    if other:
        told = ", ".join(f"{key} {known.get(key)!r} there and {config[key]!r} here" for key in other)
        raise InputError(f"{file.parent} has results of another run ({told}); choose another folder")

"""Results of RAG evaluation: values by question, what is missing and why, comparisons, files; no total score."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from hyperseek._bounded import PathLike
from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek._files import atomic_write, write_json
from hyperseek.errors import printable
from hyperseek.evaluation._comparison import Comparison, compare
from hyperseek.evaluation._result import Evaluation, Protocol
from hyperseek.evaluation.rag._free_measures import FREE_MEASURES
from hyperseek.evaluation.rag._judging import JUDGED_MEASURES
from hyperseek.evaluation.rag._samples import RagSample
from hyperseek.evaluation.rag._usage import Usage

ANSWERS, JUDGEMENTS = "answers.jsonl", "judgements.jsonl"
_OWN = ("rag.json", "rag.md", ANSWERS, JUDGEMENTS)  # files, which no system's folder may be named like
ADHERENCE = "offline_adherence"
MEASURES = (*FREE_MEASURES, ADHERENCE, *JUDGED_MEASURES)
"""Names of all measures, in the order of tables."""


class RagResult(Config):
    """What one system's contexts and answers are worth.

    Attributes:
        name: The system's name.
        samples: The questions with contexts and answers.
        values: Numbers by measure and question; a question is missing where a measure does not apply, or below.
        nan: Reasons by measure and question where the judge gave no number.
        failed: Reasons by measure and question where judging failed; under `response` where answering did.
        protocol: The data, the task and the system.
        usage: What answers took; None if none were generated.
        judge_usage: What judgements took; None if none were made.
        notes: Remarks for readers of the numbers.
    """

    name: str
    samples: tuple[RagSample, ...]
    values: dict[str, dict[str, float]]
    nan: dict[str, dict[str, str]] = Field(default_factory=dict)
    failed: dict[str, dict[str, str]] = Field(default_factory=dict)
    protocol: Protocol
    usage: Usage | None = None
    judge_usage: Usage | None = None
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Return each measure's mean over the questions with a value, their number, and how many are missing."""
        names = [name for name in MEASURES if any(name in part for part in (self.values, self.nan, self.failed))]
        return {
            name: {
                "mean": _mean(own) if (own := self.values.get(name)) else None,
                "questions": len(self.values.get(name, {})),
                "nan": len(self.nan.get(name, {})),
                "failed": len(self.failed.get(name, {})),
            }
            for name in names
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the sample and the values of each question under ragas' names; missing numbers are None."""
        for sample in self.samples:
            row: dict[str, Any] = {"id": sample.id, **sample.to_ragas()}
            for name in self.summary():
                row[name] = self.values.get(name, {}).get(sample.id)
            reasons = {
                name: own[sample.id]
                for part in (self.nan, self.failed)
                for name, own in part.items()
                if sample.id in own
            }
            yield row | ({"reasons": reasons} if reasons else {})


class RagReport(ShowsTables, Config):
    """Results of systems on the same questions, and their comparisons.

    Attributes:
        results: One for each system.
        comparisons: Paired comparisons, each of measures that apply to the same questions.
        notes: Remarks for readers of the numbers.
    """

    results: tuple[RagResult, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    def result(self, name: str) -> RagResult:
        """Return a system's result; KeyError if there is none of this name."""
        return {result.name: result for result in self.results}[name]

    def to_markdown(self) -> str:
        """Return the tables and remarks as Markdown."""
        lines = []
        for title, headings, rows in self._shown_tables():
            lines += [f"**{printable(title)}**", "", "| " + " | ".join(headings) + " |"]
            lines.append("| --- |" + " ---: |" * (len(headings) - 1))
            lines += ["| " + " | ".join(printable(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
            lines.append("")
        for comparison in self.comparisons if len(self.results) > 1 else ():
            lines += [comparison.model_copy(update={"recorded": {}}).to_markdown(), ""]
        lines += [f"- {printable(line)}" for line in self._shown_remarks()]
        return "\n".join(lines).rstrip() + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain values: summaries, values by question, reasons, comparisons, protocols."""
        systems = {
            result.name: {
                "metrics": result.summary(),
                "usage": None if result.usage is None else result.usage.model_dump(mode="json"),
                "judge_usage": None if result.judge_usage is None else result.judge_usage.model_dump(mode="json"),
                "per_question": result.values,
                "nan": result.nan,
                "failed": result.failed,
                "protocol": result.protocol.model_dump(mode="json"),
                "notes": list(result.notes),
            }
            for result in self.results
        }
        comparisons = [one.model_dump(mode="json") for one in self.comparisons]
        return {"systems": systems, "comparisons": comparisons, "notes": list(self.notes)}

    def write(self, folder: PathLike) -> None:
        """Write `rag.json`, `rag.md`, and for each system the two files of HypRAG's evaluation.

        `SYSTEM/ragas_scores.jsonl` has a row for each question, `SYSTEM/ragas_metrics_summary.json` the means.

        Args:
            folder: The folder to write; created if missing.
        """
        from hyperseek.evaluation._export import folder_names

        target = Path(folder)
        names = folder_names([*_OWN, *(result.name for result in self.results)])[len(_OWN) :]
        for result, name in zip(self.results, names, strict=True):
            with atomic_write(target / name / "ragas_scores.jsonl") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in result.rows())
            means = {measure: own["mean"] for measure, own in result.summary().items()}
            counts = {measure: {key: own[key] for key in _COUNTS} for measure, own in result.summary().items()}
            summary = {**means, "questions": len(result.samples), "counts": counts}
            write_json(target / name / "ragas_metrics_summary.json", summary)
        write_json(target / "rag.json", self.to_json())
        with atomic_write(target / "rag.md") as file:
            file.write(self.to_markdown())

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        summaries = {result.name: result.summary() for result in self.results}
        names = [name for name in MEASURES if any(name in summary for summary in summaries.values())]
        headings = ["measure", *summaries, "questions"]
        rows = []
        for name in names:
            own = [summary.get(name) for summary in summaries.values()]
            counts = [f"{(one or _NOTHING)['questions']:,}" for one in own]
            rows.append([name, *map(_cell, own), counts[0] if len(set(counts)) == 1 else " / ".join(counts)])
        yield f"{len(self.results[0].samples)} questions", headings, rows

    def _shown_remarks(self) -> Sequence[str]:
        lines = []
        for result in self.results:
            lines += [*_missing(result.name, "NaN", result.nan), *_missing(result.name, "failed", result.failed)]
            for usage, what in ((result.usage, "answers"), (result.judge_usage, "judgements")):
                if usage is not None and usage.answers:
                    lines.append(f"{result.name}: {_usage(usage, what)}")
            lines += [f"{result.name}: {note}" for note in result.notes]
        return [*lines, *self.notes]

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        for result in self.results:
            for row in result.rows():
                yield {"system": result.name, **row}


_COUNTS = ("questions", "nan", "failed")
_NOTHING: Mapping[str, Any] = {"questions": 0}


def _cell(own: Mapping[str, Any] | None) -> str:
    if own is None:
        return ""
    mean = "none" if own["mean"] is None else f"{own['mean']:.4f}"
    missing = [f"{own[key]} {word}" for key, word in (("nan", "NaN"), ("failed", "failed")) if own[key]]
    return f"{mean} ({', '.join(missing)})" if missing else mean


def _mean(values: Mapping[str, float]) -> float:
    return math.fsum(values.values()) / len(values)


def _missing(system: str, word: str, reasons: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for measure, own in reasons.items():
        if own:
            question, reason = next(iter(own.items()))
            yield f"{system}: {measure} {word} for {len(own)} questions, such as {question}: {reason}"


def _usage(usage: Usage, what: str) -> str:
    tokens = [
        f"{count:,} tokens of {part}"
        for count, part in ((usage.prompt_tokens, "prompts"), (usage.completion_tokens, "answers"))
        if count is not None
    ]
    cost = [] if usage.cost is None else [f"cost {usage.cost:.4f}"]
    return ", ".join([f"{usage.answers:,} {what}", *tokens, f"{usage.seconds:.1f} s", *cost])


def compare_results(
    results: Sequence[RagResult], *, baseline: str | None, allow_unlike: bool, **statistics: Any
) -> tuple[Comparison, ...]:
    """Compare systems by every measure, over the questions that all of them have a value for.

    Args:
        results: One for each system.
        baseline: Name of the one to compare the others with; None takes the first.
        allow_unlike: Compare results that were not measured alike.
        **statistics: Settings of `compare`.

    Returns:
        A comparison for each set of questions, of the measures that have values for these.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    order = [sample.id for sample in results[0].samples]
    for name in MEASURES:
        shared = set.intersection(*(set(result.values.get(name, ())) for result in results))
        if shared:
            groups.setdefault(tuple(one for one in order if one in shared), []).append(name)
    found = []
    for questions, names in groups.items():
        evaluations = []
        for result in results:
            values = {name: {one: result.values[name][one] for one in questions} for name in names}
            means = {name: _mean(own) for name, own in values.items()}
            evaluations.append(
                Evaluation(name=result.name, per_query=values, aggregate=means, protocol=result.protocol)
            )
        found.append(compare(evaluations, baseline=baseline, allow_unlike=allow_unlike, **statistics))
    return tuple(found)

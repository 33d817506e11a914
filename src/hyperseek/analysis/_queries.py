"""Two systems' results, query by query: which queries win and lose, and what those have in common.

Beside wins and losses the report has the bounds of fusion, holes in the judgements, and what scores say.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hyperseek._display import escaped
from hyperseek._files import write_json
from hyperseek._order import best_first
from hyperseek._relevance import is_relevant
from hyperseek.analysis._diagnosis_page import table_of, write_page
from hyperseek.analysis._query_report import (
    FEATURES,
    GainBy,
    QueriesReport,
    QueryOutcome,
    TopDocument,
    WinsAndLosses,
)
from hyperseek.analysis._radii import title_of
from hyperseek.analysis._rankings import find_holes, fusion_bounds, report_scores
from hyperseek.data import Dataset
from hyperseek.errors import InputError, UnknownNameError, require
from hyperseek.evaluation import Ranking, SliceTask, measure_names
from hyperseek.evaluation import calculate as measured
from hyperseek.evaluation.query_slices import first_relevant, overlap
from hyperseek.index import Index
from hyperseek.mining import terms
from hyperseek.types import Document, Qrels, Run, Token

_TOP = 5  # documents shown side by side
_MATCHES = 5  # matches of tokens shown of a document


def inspect_queries(
    rankings: Sequence[Ranking],
    dataset: Dataset,
    *,
    split: str = "test",
    measure: str = "nDCG@10",
    baseline: str | None = None,
    k: int = 10,
    show: int = 5,
    indexes: Mapping[str, Index] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> QueriesReport:
    """Find out what tells systems apart, query by query.

    Args:
        rankings: At least one, with distinct names; a single one has no wins and losses.
        dataset: Texts and judgements.
        split: Split of the judgements.
        measure: One measure, higher is better.
        baseline: Name of the ranking that others are compared with; None takes the first.
        k: Top ranks for overlaps and holes, at least 1.
        show: Most wins and losses to show, with their best documents.
        indexes: Indexes by name of their ranking, for the matches of tokens of late interaction.
        output: Folder for `queries.json` and `queries.html`; None writes nothing.

    Returns:
        The report.

    Raises:
        InputError: There is no ranking, names repeat, or a number is out of range.
        UnknownNameError: There is no such split, measure or baseline.
    """
    by_name = {ranking.name: ranking for ranking in rankings}
    if not rankings or len(by_name) < len(rankings) or k < 1 or show < 0:
        raise InputError(f"give rankings with distinct names, k of at least 1 and show of at least 0, not "
                         f"{[ranking.name for ranking in rankings]}, {k} and {show}")  # fmt: skip
    names = measure_names(measure)
    if len(names) != 1:
        raise InputError(f"queries win and lose by one measure, not by {', '.join(names)}")
    if baseline is not None:
        if baseline not in by_name:
            raise UnknownNameError("ranking", baseline, by_name)
        by_name = {baseline: by_name.pop(baseline), **by_name}
    qrels = dataset.qrels(split)
    runs = {name: ranking.run for name, ranking in by_name.items()}
    values = {name: measured(run, qrels, names)[names[0]] for name, run in runs.items()}
    features = _features(SliceTask(qrels, None, dataset, (), split))
    first, *others = runs
    systems = []
    for name in others:
        pair = (first, name)
        outcomes = [
            QueryOutcome(
                query.id,
                query.text,
                {system: values[system][query.id] for system in pair},
                features[query.id],
                {system: _first_relevant(runs[system], query.id, qrels) for system in pair},
            )
            for query in dataset.queries(split)
        ]
        outcomes.sort(key=lambda one: -one.gain)
        systems.append(WinsAndLosses(name, outcomes, _gains(outcomes)))
    scores = [report_scores(name, run, qrels) for name, run in runs.items()]
    report = QueriesReport(
        baseline=first,
        measure=names[0],
        k=k,
        systems=systems,
        bounds=list(fusion_bounds(runs, qrels, names[0], k)),
        holes=list(find_holes(runs, qrels, names[0], k)),
        scores=[score for score in scores if score is not None],
        show=show,
    )
    _add_documents(report, runs, dataset, split, indexes or {})
    if output is None:
        return report
    folder = Path(output)
    report.files.extend([folder / "queries.json", folder / "queries.html"])
    write_json(folder / "queries.json", report.to_json())
    opened = "".join(_side_by_side(report, system) for system in report.systems)
    title = f"Queries of {dataset.name}, {split}"
    write_page(folder / "queries.html", title, report._shown_tables(), list(report._shown_remarks()), opened=opened)
    return report


def _features(task: SliceTask) -> dict[str, dict[str, float]]:
    weights, relevant = task.weights(), task.relevant()
    found = {}
    for query, judged in task.qrels.items():
        asked = terms(task.queries[query].text)
        own: dict[str, float] = {"length": len(asked), "relevant": sum(map(is_relevant, judged.values()))}
        if relevant[query]:
            lengths = list(map(len, relevant[query].values()))
            own["overlap"] = overlap(asked, relevant[query].values(), weights)
            own["documents"] = sum(lengths) / len(lengths)
        found[query] = own
    return found


def _gains(outcomes: Sequence[QueryOutcome]) -> list[GainBy]:
    stats = require("scipy.stats", extra="eval")
    found = []
    for feature in FEATURES:
        known = [one for one in outcomes if feature in one.features]
        values = np.array([one.features[feature] for one in known])
        gains = np.array([one.gain for one in known])
        constant = len(known) < 3 or np.ptp(values) == 0 or np.ptp(gains) == 0
        result = None if constant else stats.spearmanr(values, gains)
        means = [
            float(values[kind].mean()) if kind.any() else math.nan for kind in (gains > 0, gains == 0, gains < 0)
        ] if len(known) else [math.nan] * 3  # fmt: skip
        spearman, p_value = (math.nan, 1.0) if result is None else (float(result.statistic), float(result.pvalue))
        found.append(GainBy(feature, spearman, p_value, *means))
    return found


def _add_documents(
    report: QueriesReport, runs: Mapping[str, Run], dataset: Dataset, split: str,
    indexes: Mapping[str, Index],
) -> None:  # fmt: skip
    """Put the best documents of each shown query beside it."""
    shown = [(one, system) for system in report.systems for losses in (False, True)
             for one in report.most(system, losses=losses)]  # fmt: skip
    tops = {
        (one.id, name): best_first(dict(runs[name].get(one.id, {})))[:_TOP] for one, _ in shown for name in one.values
    }
    wanted = {document for top in tops.values() for document in top}
    texts: dict[str, Document] = {one.id: one for one in dataset.documents() if one.id in wanted}
    qrels = dataset.qrels(split)
    for one, _ in shown:
        for name in one.values:
            matches = _matches(indexes.get(name), one.text)
            one.tops[name] = [
                TopDocument(
                    document,
                    title_of(texts[document]) if document in texts else document,
                    qrels[one.id].get(document),
                    matches.get(document, []),
                )
                for document in tops[one.id, name]
            ]


def _matches(index: Index | None, text: str) -> dict[str, list[tuple[str, str, float]]]:
    """Return the best matches of tokens of the best documents, where the model compares tokens."""
    if index is None or not index.space.ragged:
        return {}
    found = {}
    for hit in index.search(text, k=_TOP, engine="exact"):
        best = sorted(hit.matches, key=lambda match: -match.share)[:_MATCHES]
        found[hit.id] = [
            (
                " ".join(token.text for token in match.query),
                " ".join(token.text for token in match.document),
                match.share,
            )
            for match in best
        ]
    return found


def _spelt(tokens: Sequence[Token]) -> str:
    return " ".join(token.text for token in tokens)


def _first_relevant(run: Run, query: str, qrels: Qrels) -> int | None:
    return first_relevant(best_first(run.get(query, {})), qrels[query])


def _side_by_side(report: QueriesReport, system: WinsAndLosses) -> str:
    parts = [f"<h2>Queries that {escaped(system.system)} wins and loses, side by side</h2>"]
    for one in [*report.most(system), *report.most(system, losses=True)]:
        columns = "".join(
            f"<div><h3>{escaped(name)}: {one.values[name]:.3f}</h3><ol>{''.join(map(_item, tops))}</ol></div>"
            for name, tops in one.tops.items()
        )
        numbers = [[FEATURES[name], f"{value:.3g}"] for name, value in one.features.items()]
        told = f"{one.gain:+.3f} {escaped(one.text)} <span class=faint>({escaped(one.id)})</span>"
        parts.append(
            f"<details><summary>{told}</summary>"
            f"<div class=columns>{columns}</div>{table_of(('', ('of this query', ''), numbers), level=3)}</details>\n"
        )
    return "".join(parts)


def _item(document: TopDocument) -> str:
    kind = "unjudged" if document.grade is None else "relevant" if is_relevant(document.grade) else "judged"
    told = "not judged" if document.grade is None else f"grade {document.grade}"
    matches = "".join(
        f"<br><span class=faint>{escaped(asked)} ~ {escaped(found)} {share:.3f}</span>"
        for asked, found, share in document.matches
    )
    about = f"<span class=faint>{escaped(document.id)}, {told}</span>"
    return f'<li class="{kind}">{escaped(document.title)} {about}{matches}</li>'

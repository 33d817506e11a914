"""The road of RAG evaluation: contexts, answers, measures with and without judges, comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperseek._bounded import PathLike
from hyperseek._files import locked
from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import progress
from hyperseek.data.lengths import counts_tokens, token_lengths
from hyperseek.errors import InputError
from hyperseek.evaluation._result import Protocol, measuring_versions
from hyperseek.evaluation.rag._adherence import AdherenceJudge
from hyperseek.evaluation.rag._answering import answer_samples, is_answer
from hyperseek.evaluation.rag._free_measures import free_measures
from hyperseek.evaluation.rag._generators import Generator
from hyperseek.evaluation.rag._judging import Judge, Judged, is_judgement, judge_samples
from hyperseek.evaluation.rag._kept import Kept
from hyperseek.evaluation.rag._results import ADHERENCE, ANSWERS, JUDGEMENTS, RagReport, RagResult, compare_results
from hyperseek.evaluation.rag._samples import RagSample
from hyperseek.evaluation.rag._usage import Prices, Usage

if TYPE_CHECKING:
    from hyperseek.models import Retriever


def evaluate_rag(
    systems: Mapping[str, Sequence[RagSample]],
    *,
    generator: Generator | None = None,
    prices: Prices | None = None,
    judge: Judge | None = None,
    judge_prices: Prices | None = None,
    again: bool = False,
    adherence: tuple[AdherenceJudge, Retriever] | None = None,
    tokenized_by: Retriever | None = None,
    described: Mapping[str, Mapping[str, Any]] | None = None,
    dataset: str | None = None,
    output: PathLike | None = None,
    baseline: str | None = None,
    allow_unlike: bool = False,
    **statistics: Any,
) -> RagReport:
    """Measure what systems retrieved, and what is answered from it.

    Args:
        systems: Samples by the systems' names, each with the same questions, as of `retrieve_contexts` or
            `read_samples`.
        generator: What answers the questions; None keeps the responses that the samples have.
        prices: Of a million tokens of prompts, and of answers.
        judge: What judges, as a `RagasJudge`; better another model than the generator.
        judge_prices: Of a million tokens of its prompts, and of its answers.
        again: Whether judgements that failed before are asked for again.
        adherence: An offline judge and the model that it was trained with.
        tokenized_by: The model whose tokens `context_tokens` counts, if the generator does not count its own; None
            leaves that measure out then.
        described: What each system is, for the record.
        dataset: Name of the collection, for the record.
        output: Folder for results, answers and judgements; a later run with the same folder takes up what is there.
        baseline: Name of the system to compare the others with; None takes the first.
        allow_unlike: Compare systems with different questions or numbers of contexts, over the questions they share.
        **statistics: `tests`, `confidence`, `resamples` and `seed`, as in `compare`.

    Returns:
        The report.

    Raises:
        InputError: There is no system or a system without questions, or ids of questions repeat.
        ProtocolError: The systems do not have the same questions, or not as many contexts.
        ModelError: The generator or the judge fails altogether; what there is so far is kept in `output`.
    """
    if not systems or not all(systems.values()):
        raise InputError("there is nothing to measure; give at least one system, each with a question")
    folder = None if output is None else Path(output)
    # A second run with the same folder waits, and then finds everything there.
    with nullcontext() if folder is None else locked(folder / ".lock"):
        answers = Kept(None if folder is None else folder / ANSWERS, is_answer)
        judgements = Kept(None if folder is None else folder / JUDGEMENTS, is_judgement)
        k = max(len(sample.retrieved_contexts) for samples in systems.values() for sample in samples)
        tokens = _token_counter(generator, tokenized_by)
        results = []
        for name, given in systems.items():
            samples = list(given)
            if len({sample.id for sample in samples}) < len(samples):
                raise InputError(f"the questions of {name} need distinct ids")
            refused: dict[str, str] = {}
            usage: Usage | None = None
            system = {**(described or {}).get(name, {}), **({} if tokens is None else {"tokens_of": tokens[0]})}
            protocol = _protocol(samples, dataset, system, generator, judge)
            if generator is not None:
                samples, refused, usage = answer_samples(samples, generator, answers, prices=prices)
            values: dict[str, dict[str, float]] = {}
            for sample in samples:
                for measure, value in free_measures(sample, k=k, count_tokens=tokens and tokens[1]).items():
                    values.setdefault(measure, {})[sample.id] = value
            if adherence is not None:
                values[ADHERENCE] = _adhering(samples, *adherence)
            judged = Judged()
            if judge is not None:
                judged = judge_samples(samples, judge, judgements, again=again, prices=judge_prices)
            values |= {measure: own for measure, own in judged.values.items() if own}
            failed = {measure: own for measure, own in judged.failed.items() if own}
            results.append(
                RagResult(
                    name=name,
                    samples=tuple(samples),
                    values=values,
                    nan={measure: own for measure, own in judged.nan.items() if own},
                    failed={**({"response": refused} if refused else {}), **failed},
                    protocol=protocol,
                    usage=usage,
                    judge_usage=judged.usage,
                    notes=_notes(samples, judged),
                )
            )
        compared = compare_results(results, baseline=baseline, allow_unlike=allow_unlike, **statistics)
        report = RagReport(results=tuple(results), comparisons=compared, notes=_shared_notes(generator, judge))
        if folder is not None:
            report.write(folder)
    return report


def _token_counter(
    generator: Generator | None, model: Retriever | None
) -> tuple[str, Callable[[Sequence[str]], Sequence[int]]] | None:
    """Return whose tokens are counted, the same for all systems, and what counts them."""
    own = getattr(generator, "count_tokens", None)
    if generator is not None and own is not None:
        return generator.name, own
    if model is None or not counts_tokens(model):
        return None
    return str(model.source), lambda texts: token_lengths(model, texts, "document", plain=True)


def _protocol(
    samples: Sequence[RagSample],
    dataset: str | None,
    described: Mapping[str, Any],
    generator: Generator | None,
    judge: Judge | None,
) -> Protocol:
    asked = [[one.id, one.user_input, one.references, one.reference_context_ids] for one in samples]
    system: dict[str, Any] = dict(described)
    if generator is not None:
        system["generator"] = {"model": generator.name, **generator.options.model_dump(mode="json")}
    if judge is not None:
        system["judge"] = {"model": judge.name, "fingerprint": judge.fingerprint}
    return Protocol(dataset=dataset, qrels=fingerprint_json(asked), system=system, versions=measuring_versions())


def _adhering(samples: Sequence[RagSample], judge: AdherenceJudge, model: Retriever) -> dict[str, float]:
    found = {}
    with progress("judging adherence", len(samples), unit="answers") as bar:
        for sample in samples:
            score = judge.score(sample, model)
            if score is not None:
                found[sample.id] = score
            bar.advance()
    return found


def _notes(samples: Sequence[RagSample], judged: Judged) -> tuple[str, ...]:
    notes = []
    without = sum(not sample.reference_context_ids for sample in samples)
    if 0 < without < len(samples):
        notes.append(f"{without} of {len(samples)} questions have no evidence, and no measure of it")
    silent = sum(sample.response is None for sample in samples)
    if 0 < silent < len(samples):
        notes.append(f"{silent} of {len(samples)} questions have no response")
    for measure, count in judged.unasked.items():
        if count:
            notes.append(f"{measure} was not asked for {count} of {len(samples)} questions, which lack what it reads")
    return tuple(notes)


def _shared_notes(generator: Generator | None, judge: Judge | None) -> tuple[str, ...]:
    if generator is not None and judge is not None and generator.name == judge.name:
        return (f"{judge.name} judges its own answers; a judge of its own would not favour them",)
    return ()

"""Mining hard negatives and filtering examples, from one prepared folder to another.

Each batch is a file, written atomically, so two passes with the same arguments cannot damage each other's work.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path

from hyperseek._bounded import PathLike
from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import progress, stop_here, stoppable
from hyperseek._relevance import Relevance, is_relevant, text_key
from hyperseek._version import __version__
from hyperseek.data.examples import TrainingExample, cleaned, example_from_record, example_record
from hyperseek.data.prepared import CorpusInfo, Prepared, PreparedInfo, RefinedInfo, read_prepared
from hyperseek.data.preparing import example_writer
from hyperseek.data.reading import ErrorReport, Faults, OnError, gzip_json_lines, json_lines
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.mining._candidates import (
    CorpusSearch,
    Found,
    MiningOptions,
    RefineOptions,
    RelevantByQuery,
    TeacherOptions,
)
from hyperseek.mining._mined_corpus import Corpus, Mine, opened_corpora
from hyperseek.mining._negatives import Teacher, choose, draft
from hyperseek.types import Qrels

# Queries whose candidates, with their texts, are in memory at a time; a kill costs at most their searches.
_BATCH = 256

logger = logging.getLogger(__name__)


class Refiner:
    """Mines and filters a stream of examples, a few hundred queries at a time.

    Args:
        relevant: The relevant documents of their queries.
        corpora: Where to search, by source; empty if only a teacher filters.
        options: Settings.
        teacher: Scores pairs, or None.
        listed: Documents that must not appear, as `ID` or `SOURCE/ID`.
        done: Folder of finished batches until the end; see `kept_batch`.

    Attributes:
        mined: Negatives added so far.
        short: Examples so far that got fewer negatives than requested.
        looked_at: Examples processed so far.
        report: Records dropped so far.
    """

    def __init__(
        self,
        relevant: RelevantByQuery,
        corpora: Mapping[str, Corpus],
        *,
        options: RefineOptions,
        teacher: Teacher | None,
        listed: frozenset[str],
        done: Path,
    ) -> None:
        self._relevant, self._options, self._teacher, self._listed = relevant, options, teacher, listed
        searches = {id(corpus): CorpusSearch(corpus, options) for corpus in _distinct(corpora)}
        self._searches = {source: searches[id(corpus)] for source, corpus in corpora.items()}
        self._done = done
        self.mined = self.short = self.looked_at = 0
        self.report = ErrorReport()

    def refine(
        self,
        examples: Iterable[TrainingExample],
        *,
        relevance: Relevance,
        advance: Callable[[], None] | None = None,
    ) -> Iterator[TrainingExample]:
        """Mine and filter.

        Args:
            examples: Any number.
            relevance: Collects relevant texts of queries without a kept example.
            advance: Called after each example, kept or not.

        Yields:
            The kept examples, in order.
        """
        for number, batch in enumerate(_batches(examples)):
            done = kept_batch(self._done / f"{number:06}.jsonl.gz", partial(self._refined, batch))
            self.mined += done.mined
            self.short += done.short
            self.report.merge(done.report)
            yield from done.examples
            _add_lost(relevance, batch, done.examples)
            self.looked_at += len(batch)
            for _ in batch:
                if advance is not None:
                    advance()
            stop_here()

    def _refined(self, examples: Sequence[TrainingExample]) -> RefinedBatch:
        batch = RefinedBatch()
        relevant = [self._relevant.of(example) for example in examples]
        search = self._searches.get(examples[0].source)
        found: Iterable[Found] = [Found() for _ in examples] if search is None else search.find(examples, relevant)
        drafts = [
            draft(example, own, line, options=self._options, listed=self._listed, report=batch.report)
            for example, own, line in zip(examples, found, relevant, strict=True)
        ]
        kept = [one for one in drafts if one is not None]
        wanted = self._options.mining.negatives if self._options.mining else 0
        teaching = self._options.teacher or TeacherOptions()
        choose(kept, wanted, teacher=self._teacher, options=teaching, report=batch.report)
        batch.mined = sum(len(one.mined) for one in kept)
        batch.short = sum(len(one.mined) < wanted for one in kept)
        finished = (cleaned(one.finished(), batch.report) for one in kept)
        batch.examples = [example for example in finished if example is not None]
        return batch


def refine(
    source: PathLike,
    folder: PathLike,
    *,
    mine: Mine | Sequence[Mine] | None = None,
    options: RefineOptions | None = None,
    teacher: Teacher | None = None,
    judged: Mapping[str, Qrels] | None = None,
    device: str | None = None,
    on_error: OnError = "raise",
    overwrite: bool = False,
) -> PreparedInfo:
    """Mine hard negatives for prepared examples, and drop inconsistent positives and false negatives.

    No document known to be relevant becomes a negative: no positive of any example with the same query, no other
    document that is judged relevant, and no document with the text of one of these. The same input gives the same
    bytes. A call killed while encoding or mining is resumed by the next call with the same arguments; until
    then its work is kept beside `folder`, in `.NAME.mining`.

    Args:
        source: A folder that `prepare`, `write_examples` or this function wrote.
        folder: The folder to write, atomically.
        mine: Where to search: indexes, or paths of indexes as `[NAME=]FOLDER`, and at most one model or model name,
            with which the examples' collections are encoded first. An index serves the examples of its collection;
            an index of another collection serves all examples without their own index.
        options: Settings; None mines with the defaults if `mine` is given, and filters with the defaults if `teacher`
            is.
        teacher: Scores queries and documents; its scores are written with the items.
        judged: Additional judgements, by name of the collection: documents relevant there are never negatives.
        device: Device of models given by name, as in `"cuda:0"`; None takes a GPU if there is one.
        on_error: At a bad record of a collection to encode: stop, or skip and count it.
        overwrite: Replace an existing prepared folder.

    Returns:
        A description of the written folder; `refined[-1]` is this round, with counts of what it dropped.

    Raises:
        DataError: `source` is not a prepared folder, or an index does not match its name.
        InputError: There is nothing to do, an index or a teacher is missing, or no example is left.
    """
    options = check_refining(options, mine, teacher)
    prepared = read_prepared(source)
    relevance = prepared.relevance()
    relevant = RelevantByQuery(prepared.examples(), judged, relevance)
    _check_names(judged, relevant)
    target = Path(folder)
    work = target.parent / f".{target.name}.mining"
    with example_writer(folder, overwrite=overwrite) as writer:
        corpora: Mapping[str, Corpus] = {}
        if mine is not None:
            corpora = opened_corpora(mine, prepared, relevant.sources, work=work, device=device, on_error=on_error)
        for corpus in _distinct(corpora):
            relevant.learn(corpus.items)
            if options.options:  # a card is recorded by its content, not by its file
                asked = corpus.index.model.check_options(options.options)
                options = options.model_copy(update={"options": asked})
        listed = _listed(prepared)
        info = RefinedInfo(
            before=prepared.info.fingerprint,
            options=options.model_dump(mode="json"),
            corpora=_infos(corpora),
            teacher=None if teacher is None else teacher.name,
            teacher_fingerprint=_fingerprint(teacher),
        )
        # Everything that determines how an example is refined.
        aim = [__version__, info.model_dump(mode="json"), sorted(listed), _positive(judged or {})]
        done = work / f"batches-{fingerprint_json(aim)[:12]}"
        refiner = Refiner(relevant, corpora, options=options, teacher=teacher, listed=listed, done=done)
        writer.relevance.merge(relevance)

        def stored() -> str:
            return (
                f"{refiner.looked_at:,} of {len(prepared):,} examples are kept in {work}; "
                "run the same command again to resume"
            )

        step = progress("mining" if options.mining else "filtering", len(prepared), unit="examples")
        with stoppable(stored), step as bar:
            for example in refiner.refine(prepared.examples(), relevance=writer.relevance, advance=bar.advance):
                writer.add(example)
        counts = {"mined": refiner.mined, "short": refiner.short, "dropped": refiner.report.to_dict()}
        rounds = (*prepared.info.refined, info.model_copy(update=counts))
        refiner.report.log(str(source), level=logging.INFO)
        written = writer.finish(prepared.info.sources, prepared.info.options, refined=rounds, leaks=prepared.info.leaks)
    shutil.rmtree(work, ignore_errors=True)
    return written


def _batches(examples: Iterable[TrainingExample]) -> Iterator[list[TrainingExample]]:
    """Yield successive examples of one source, a batch at a time."""
    for _, group in groupby(examples, key=lambda example: example.source):
        while batch := list(islice(group, _BATCH)):
            yield batch


def _fingerprint(teacher: Teacher | None) -> str | None:
    own = getattr(teacher, "fingerprint", None)
    return own if isinstance(own, str) else None


def _add_lost(relevance: Relevance, before: Sequence[TrainingExample], after: Sequence[TrainingExample]) -> None:
    """Add the relevant texts of queries whose examples were dropped."""
    carried = Relevance()
    for example in after:
        carried.add(text_key(example.query.text), example.relevant_keys())
    for example in before:
        query = text_key(example.query.text)
        relevance.add(query, example.relevant_keys() - carried.of(query))


def check_refining(
    options: RefineOptions | None, mine: Mine | Sequence[Mine] | None, teacher: Teacher | None
) -> RefineOptions:
    """Fill in defaults; InputError for settings that are impossible or would be ignored."""
    options = options or RefineOptions()
    searches = options.mining is not None or options.consistency is not None
    if searches and mine is None:
        raise InputError(
            "mining and consistency filtering search a corpus; give an index or a model (mine=, or `hyperseek mine "
            "PREPARED FOLDER INDEX`)"
        )
    if options.teacher is not None and teacher is None:
        raise InputError("filtering by a teacher needs one: teacher= or --teacher")
    if mine is None and teacher is None:
        raise InputError("there is nothing to do; give an index or a model to mine with, or a teacher that filters")
    if options.options and mine is None:
        raise InputError("options are for the model that searches, and there is none; give an index or a model")
    if mine is not None and not searches:
        options = options.model_copy(update={"mining": MiningOptions()})
    if teacher is not None and options.teacher is None:
        options = options.model_copy(update={"teacher": TeacherOptions()})
    return options


def _check_names(judged: Mapping[str, Qrels] | None, relevant: RelevantByQuery) -> None:
    for name in judged or {}:
        if name not in relevant.sources:
            raise UnknownNameError("source of examples", name, relevant.sources)


def _positive(judged: Mapping[str, Qrels]) -> dict[str, dict[str, list[str]]]:
    return {
        name: {
            query: sorted(identity for identity, grade in own.items() if is_relevant(grade))
            for query, own in qrels.items()
        }
        for name, qrels in judged.items()
    }


def _listed(prepared: Prepared) -> frozenset[str]:
    """Return the documents that must not appear, as listed when the examples were prepared."""
    return frozenset(prepared.info.options.get("qrels", {}).get("drop_documents", ()))


def _infos(corpora: Mapping[str, Corpus]) -> tuple[CorpusInfo, ...]:
    return tuple(
        corpus.info(source for source, own in corpora.items() if own is corpus) for corpus in _distinct(corpora)
    )


def _distinct(corpora: Mapping[str, Corpus]) -> list[Corpus]:
    return list({id(corpus): corpus for corpus in corpora.values()}.values())


@dataclass(slots=True)
class RefinedBatch:
    """Refined examples of one batch.

    Attributes:
        examples: Those that were kept.
        mined: Negatives that were added.
        short: Examples that got fewer negatives than requested.
        report: Records that were dropped.
    """

    examples: list[TrainingExample] = field(default_factory=list)
    mined: int = 0
    short: int = 0
    report: ErrorReport = field(default_factory=ErrorReport)


def kept_batch(path: Path, make: Callable[[], RefinedBatch]) -> RefinedBatch:
    """Return a batch from disk, or make and write it.

    Args:
        path: Its file. The folder's name must cover everything that determines the result.
        make: Called if there is no such file.

    Returns:
        The batch.

    Raises:
        DataError: The file is damaged.
    """
    if path.is_file():
        return _read(path)
    batch = make()
    _write(path, batch)
    return batch


def _write(path: Path, batch: RefinedBatch) -> None:
    with gzip_json_lines(path) as write:
        write({"mined": batch.mined, "short": batch.short, "dropped": batch.report.to_dict()})
        for example in batch.examples:
            texts = {item.id: item.text for item in example.items}
            write(example_record(example) | {"texts": texts})


def _read(path: Path) -> RefinedBatch:
    records = (record for _, record in json_lines(path, Faults()))
    about = next(records)
    return RefinedBatch(
        [example_from_record(record, record["texts"]) for record in records],
        about["mined"],
        about["short"],
        ErrorReport.from_dict(about["dropped"]),
    )

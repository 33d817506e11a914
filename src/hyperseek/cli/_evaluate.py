"""`hyperseek evaluate`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from hyperseek.cli._echo import BackendOption, echo_json, result_console
from hyperseek.cli._evaluate_rankings import (
    SET,
    Asked,
    Compared,
    System,
    evaluate_nodes,
    file_systems,
    filled,
    measure_hops,
    plain_result,
    short_names,
    show_hops,
    write_hops,
)
from hyperseek.cli._evaluate_variants import (
    BinsOption,
    PerturbOption,
    PoolDepthOption,
    PoolJudgedOption,
    PoolOption,
    SliceOption,
    check_perturbations,
    measured_robustness,
    sliced,
    write_robustness,
    written_pool,
)
from hyperseek.cli._search import CardOption, Options, query_options

if TYPE_CHECKING:
    from hyperseek._ancestors import Hierarchy
    from hyperseek.data import Dataset
    from hyperseek.evaluation import Comparison, Evaluation, Ranking, Robustness
    from hyperseek.types import Qrels

_OWN = "own"  # the candidates of the data set itself
_Result: TypeAlias = "tuple[list[Evaluation], Comparison, dict[str, Compared], Robustness | None]"


def evaluate(
    index: Annotated[Path | None, typer.Argument(help="Index to search with the data set's queries.")] = None,
    dataset: Annotated[
        str | None,
        typer.Argument(help="Queries and judgements: BEIR folder, ir_datasets:ID, hub:NAME, pydocs or NAME:PLACE."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            help="Sets of a benchmark, each in place of {set} in INDEX, DATASET and files: bright, beir, nanobeir, "
            "followir, A,B or GROUP=A,B; repeat."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the judgements.")] = "test",
    measures: Annotated[
        list[str] | None,
        typer.Option(
            "--measures", "-m", help="nDCG@10, R@100, RR(rel=2)@10, AP ...; or a set: default, hypencoder, trec-dl."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Search with this model instead of the index's own; repeat to compare.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="exact to score every document, auto, or the name of an engine of the index.")
    ] = "exact",
    plan: Annotated[
        list[Path] | None,
        typer.Option(help="YAML file of search stages: one more system, searched with the first model; repeat."),
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Add full-text search fused with the first model's own search, by rank.")
    ] = False,
    card: CardOption = None,
    option: Options = None,
    query_length: Annotated[
        list[str] | None,
        typer.Option(help="Tokens of a query that models read, and to which they lengthen it: N, or SET=N; repeat."),
    ] = None,
    backend: BackendOption = None,
    levels: Annotated[
        bool, typer.Option("--levels", help="Every level of queries with every level of documents; encodes once.")
    ] = False,
    beside: Annotated[
        list[Path] | None, typer.Option(help="One more index of the same documents, as of the frozen trunk; repeat.")
    ] = None,
    hierarchy: Annotated[
        str | None,
        typer.Option(
            help="TSV file of child and parent ids, or the metadata field that names parents: ancestors by "
            "hops; without DATASET, nodes ask with their own points."
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Maximum nodes of --hierarchy that ask, without DATASET.")] = 1000,
    radius_weight: Annotated[
        float | None,
        typer.Option(min=0, help="Weight of radii for pairs of --hierarchy; by default chosen on half of the nodes."),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Folder of validation and test pairs of ids for --hierarchy, in HiT's form.")
    ] = None,
    card_field: Annotated[
        str | None,
        typer.Option(help="Ask each query with a card of its own, which this field of its metadata describes."),
    ] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Add BM25 (Lucene variant, k1 0.9, b 0.4).")] = False,
    bm25q: Annotated[
        bool, typer.Option("--bm25q", help="Add BM25 whose query terms are weighted as those of documents are.")
    ] = False,
    candidates: Annotated[
        Path | None,
        typer.Option(
            help="Rerank what this TREC run, or JSON lines, give for each query, and nothing else; own: what the data "
            "set gives."
        ),
    ] = None,
    runs: Annotated[list[Path] | None, typer.Option(help="Measure this TREC run; repeat to compare.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="Judgements for --runs, without INDEX and DATASET.")] = None,
    slice_: SliceOption = None,
    bins: BinsOption = 3,
    perturb: PerturbOption = None,
    pool: PoolOption = None,
    pool_depth: PoolDepthOption = 10,
    pool_judged: PoolJudgedOption = False,
    k: Annotated[
        int | None, typer.Option("-k", "--top-k", help="Documents per query; by default what the measures read.")
    ] = None,
    exclude_same_id: Annotated[
        bool, typer.Option("--exclude-same-id", help="Exclude the document with the query's id.")
    ] = False,
    baseline: Annotated[str | None, typer.Option(help="System to compare with; by default the first.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Paired test: permutation (default), t, wilcoxon.")] = None,
    confidence: Annotated[float, typer.Option(help="Confidence of the bootstrap intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Resamples of the intervals and the permutation test.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the intervals and of the permutation test.")] = 0,
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Compare results that were measured differently, with a warning.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for comparison.json and each system's values and run.")
    ] = None,
    run_out: Annotated[Path | None, typer.Option(help="File for the one system's TREC run.")] = None,
    hypencoder_files: Annotated[
        Path | None, typer.Option(help="Folder for the files that the original Hypencoder writes.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write everything as JSON to standard output.")] = False,
) -> None:
    """Measure rankings, and compare them query by query: INDEX DATASET, or --runs FILE --qrels FILE."""
    from hyperseek._long_work import Interrupted
    from hyperseek.errors import InputError, require
    from hyperseek.evaluation import Statistics, check_slices, choose_k, compare, measure_names
    from hyperseek.models import load

    # Errors in the options are found before the first search.
    names = measure_names([part for item in measures or ["default"] for part in item.split()])
    statistics: dict[str, Any] = {
        "tests": test or ["permutation"],
        "confidence": confidence,
        "resamples": resamples,
        "seed": seed,
    }
    Statistics.from_mapping(statistics, source="the options")
    check_slices(slice_ or [])
    check_perturbations(perturb or [])
    if bm25 or bm25q:
        for module in ("bm25s", "Stemmer"):
            require(module, extra="eval")
    if hierarchy is not None and index is not None and dataset is None and qrels is None:
        _refuse(
            {"--sets": sets, "--slice": slice_, "--perturb": perturb, "--pool": pool, "--model": model, "--plan": plan,
             "--hybrid": hybrid, "--bm25": bm25, "--bm25q": bm25q,
             "--runs": runs, "--query-length": query_length, "--run-out": run_out,
             "--hypencoder-files": hypencoder_files},
            "nodes of --hierarchy ask without texts or models; give DATASET too",
        )  # fmt: skip
        evaluate_nodes(
            [(name, Path(path)) for name, path in short_names([index, *(beside or [])])],
            hierarchy,
            result_console(stderr=json),
            names=names,
            k=choose_k(names, k),
            sample=sample,
            radius_weight=radius_weight,
            pairs=pairs,
            levels=levels,
            options=query_options(option, card),
            baseline=baseline,
            statistics=statistics,
            allow_unlike=allow_unlike,
            output=output,
            as_json=json,
        )
        return
    _refuse(
        {"--radius-weight": radius_weight is not None, "--pairs": pairs},
        "only for nodes that ask; give INDEX and --hierarchy, and leave DATASET out",
    )
    if runs:
        _refuse({"--perturb": perturb}, "a file of rankings cannot be asked again; leave --runs out")
    if candidates is not None:
        _refuse(
            {"--runs": runs, "--engine": engine != "exact", "--plan": plan, "--hybrid": hybrid, "--levels": levels},
            "--candidates are scored exactly, without a search",
        )
    groups, chosen = _sets(sets or [])
    if chosen:
        lists = [] if candidates is None or str(candidates) == _OWN else [candidates]
        _check_sets([index, dataset, qrels, *(runs or []), *lists], run_out, hypencoder_files)
        _refuse({"--pool": pool}, "a pool is of one set; leave --sets out")
    if card is not None and card_field is not None:
        raise InputError("give --card, or --card-field for a card of each query, not both")
    searching = {"split": split, "k": choose_k(names, k), "exclude_same_id": exclude_same_id}
    lengths = _query_lengths(query_length or [], chosen)
    loaded = partial(load, backend=backend)
    asked = Asked(
        models=model or [],
        plans=plan or [],
        hybrid=hybrid,
        bm25=bm25,
        bm25q=bm25q,
        engine=engine,
        options=query_options(option, card),
        card_field=card_field,
        searching=searching,
        load=loaded if lengths else cache(loaded),  # a length changes the model
        backend=backend,
        levels=levels,
        beside=beside or [],
        candidates=candidates,
    )
    tasks: list[tuple[str | None, Dataset | None, Qrels, list[System], Hierarchy | None]] = []
    searches: dict[str | None, Callable[[Dataset], list[System]]] = {}
    each: list[str | None] = [*chosen] or [None]
    for subset in each:
        own = None if index is None else Path(filled(index, subset))
        place = None if dataset is None else filled(dataset, subset)
        opened, judged = _judgements(own, place, split, None if qrels is None else Path(filled(qrels, subset)))
        if opened is None:
            _refuse(
                {"--model": model, "--plan": plan, "--hybrid": hybrid, "--bm25": bm25, "--bm25q": bm25q, "--card": card,
                 "--perturb": perturb, "--pool": pool,
                 "--card-field": card_field, "--option": option, "--query-length": query_length, "--levels": levels,
                 "--beside": beside, "--backend": backend, "--candidates": candidates},
                "only for searches; give INDEX and DATASET, or leave it out",
            )  # fmt: skip
        systems = file_systems(runs or [], subset, judged, opened, split)
        if own is not None and opened is not None:
            length = lengths.get(subset, lengths.get(None))
            searches[subset] = partial(asked.systems, own, query_length=length, subset=subset)
            systems = searches[subset](opened) + systems
        _check(systems, opened, baseline, run_out, hypencoder_files)
        check_slices(slice_ or [], [name for name, _ in systems], qrels=judged, dataset=opened, split=split)
        tasks.append((subset, opened, judged, systems, _hierarchy(hierarchy, index, subset)))

    results: dict[str, _Result] = {}
    for subset, opened, judged, systems, tree in tasks:
        try:
            rankings = [rank(name) for name, rank in systems]
        except KeyboardInterrupt as stopped:
            what = "an evaluation" if subset is None else f"the set {subset}"
            raise Interrupted(f"{what} stores nothing before it ends; run the same command again") from stopped
        evaluations = [ranking.evaluate(judged, measures=names) for ranking in rankings]
        parts = sliced(slice_ or [], judged, opened, split, rankings, baseline, bins)
        comparison = compare(evaluations, baseline=baseline, allow_unlike=allow_unlike, slices=parts, **statistics)
        folder = output if output is None or subset is None else output / subset
        _write(rankings, evaluations, comparison, folder, run_out)
        if pool is not None and opened is not None:
            written_pool(pool, rankings, opened, split, pool_depth, seed, judged=pool_judged)
        robust = None
        if perturb and opened is not None:
            robust = measured_robustness(perturb, opened, split, searches[subset], evaluations, baseline, statistics)
            if folder is not None:
                write_robustness(folder, robust)
        hops = {}
        if tree is not None:
            hops = measure_hops(tree, rankings, judged, names, baseline, statistics, allow_unlike=allow_unlike)
            if folder is not None:
                write_hops(folder, hops)
        if hypencoder_files is not None and opened is not None:
            from hyperseek.evaluation import write_original_files

            write_original_files(hypencoder_files, rankings, evaluations, opened, split=split)
        if subset is None:
            console = result_console(stderr=json)
            console.print(comparison)
            show_hops(console, hops)
            if robust is not None:
                console.print(robust)
            if json:
                echo_json(plain_result(evaluations, comparison, hops, robust), indent=2)
        else:
            results[subset] = evaluations, comparison, hops, robust
    if results:
        _show_sets(results, groups, output, json)


def _sets(given: list[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the groups that `--sets` names, and all sets, each once."""
    from hyperseek.data.open import benchmark_sets
    from hyperseek.errors import InputError

    groups: dict[str, tuple[str, ...]] = {}
    chosen: list[str] = []
    for text in given:
        if known := benchmark_sets(text):
            groups |= known
            chosen += [subset for group in known.values() for subset in group]
            continue
        name, equals, rest = text.rpartition("=")
        subsets = rest.split(",")
        if not all(re.fullmatch(r"\w[\w.-]*", subset) for subset in subsets) or (equals and not name):
            raise InputError(
                f"--sets takes a benchmark (bright, beir, nanobeir, ...), A,B or GROUP=A,B, with names of letters, "
                f"digits and _.-, not {text!r}"
            )
        chosen += subsets
        if name:
            groups[name] = tuple(dict.fromkeys((*groups.get(name, ()), *subsets)))
    return groups, list(dict.fromkeys(chosen))


def _query_lengths(given: list[str], sets: list[str]) -> dict[str | None, int]:
    """Return lengths by set, under None the one of all other sets."""
    from hyperseek.errors import InputError, UnknownNameError

    lengths: dict[str | None, int] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if not re.fullmatch(r"0*[1-9]\d{0,5}", number):
            raise InputError(f"--query-length takes N or SET=N, with N at least 1, not {text!r}")
        if name and name not in sets:
            raise UnknownNameError("set of --sets", name, sets, hint="SET=N goes with --sets")
        lengths[name or None] = int(number)
    return lengths


def _check_sets(places: Sequence[Path | str | None], run_out: Path | None, hypencoder_files: Path | None) -> None:
    from hyperseek.errors import InputError

    fixed = [str(place) for place in places if place is not None and SET not in str(place)]
    if fixed:
        raise InputError(f"--sets needs {SET} in INDEX and DATASET, or in --runs and --qrels; {fixed[0]} has none")
    if run_out is not None or hypencoder_files is not None:
        raise InputError("--run-out and --hypencoder-files hold one set; with --sets, use --output FOLDER")


def _judgements(
    index: Path | None, dataset: str | None, split: str, qrels: Path | None
) -> tuple[Dataset | None, Qrels]:
    from hyperseek.data import open_dataset, read_qrels
    from hyperseek.errors import InputError

    if index is not None and dataset is not None and qrels is None:
        opened = open_dataset(dataset)
        return opened, opened.qrels(split)
    if index is None and qrels is not None:
        return None, read_qrels(qrels)
    raise InputError("give INDEX and DATASET, or --runs FILE and --qrels FILE")


def _refuse(given: dict[str, Any], reason: str) -> None:
    """Raise InputError for options that have no effect, rather than ignore them."""
    from hyperseek.errors import InputError

    if useless := [option for option, value in given.items() if value]:
        raise InputError(f"{', '.join(useless)}: {reason}")


def _hierarchy(source: str | None, index: Path | None, subset: str | None) -> Hierarchy | None:
    from hyperseek.data.hierarchy import open_hierarchy, read_hierarchy
    from hyperseek.index import Index

    if source is None:
        return None
    source = filled(source, subset)
    return read_hierarchy(source) if index is None else open_hierarchy(Index.open(filled(index, subset)), source)


def _check(
    systems: list[System],
    dataset: Dataset | None,
    baseline: str | None,
    run_out: Path | None,
    hypencoder_files: Path | None,
) -> None:
    from hyperseek.errors import InputError, UnknownNameError

    names = [name for name, _ in systems]
    if not names:
        raise InputError("there is nothing to measure; give --runs FILE, or INDEX and DATASET")
    if len(set(names)) < len(names):
        raise InputError(f"every system needs a unique name, not {', '.join(names)}; rename a run or a model")
    if baseline is not None and baseline not in names:
        raise UnknownNameError("system", baseline, names)
    if run_out is not None and len(names) > 1:
        raise InputError(f"--run-out holds one run, and there are {len(names)} systems; use --output FOLDER")
    if hypencoder_files is not None and dataset is None:
        raise InputError("--hypencoder-files needs the texts of INDEX and DATASET; runs and judgements have none")


def _write(
    rankings: list[Ranking],
    evaluations: list[Evaluation],
    comparison: Comparison,
    output: Path | None,
    run_out: Path | None,
) -> None:
    from hyperseek.data import write_run
    from hyperseek.evaluation import write_results

    if output is not None:
        write_results(output, rankings, evaluations, comparison)
    if run_out is not None:
        write_run(rankings[0].run, run_out)


def _show_sets(
    results: dict[str, _Result],
    groups: dict[str, tuple[str, ...]],
    output: Path | None,
    as_json: bool,
) -> None:
    from hyperseek._files import atomic_write, write_json
    from hyperseek.evaluation import set_means

    table = set_means({subset: evaluations for subset, (evaluations, *_) in results.items()}, groups)
    means = table.model_dump(mode="json") | {"means": {measure: table.means(measure) for measure in table.values}}
    if output is not None:
        write_json(output / "sets.json", means)
        with atomic_write(output / "sets.md") as file:
            file.write(table.to_markdown())
    console = result_console(stderr=as_json)
    console.print(table)
    for subset, (_, comparison, hops, robust) in results.items():
        for note in comparison.notes:
            console.print(f"{subset}: {note}", markup=False)
        if hops:
            console.print(f"\n{subset}", markup=False)
            show_hops(console, hops)
        if robust is not None:
            console.print(f"\n{subset}", markup=False)
            console.print(robust)
    if as_json:
        echo_json({"sets": {subset: plain_result(*result) for subset, result in results.items()}, **means}, indent=2)

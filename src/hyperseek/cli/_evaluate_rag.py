"""`hyperseek evaluate --rag`, and `--adherence`, which trains its offline judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperseek.cli._echo import BackendOption, echo, echo_json
from hyperseek.cli._evaluate_rankings import short_names
from hyperseek.cli._search import CardOption, Options, query_options

if TYPE_CHECKING:
    from hyperseek.evaluation import RagasJudge, RagSample
    from hyperseek.index import Index
    from hyperseek.models import Retriever


def evaluate_rag(
    index: Annotated[Path | None, typer.Argument(help="Index of the data set's documents.")] = None,
    dataset: Annotated[
        str | None,
        typer.Argument(help="Questions and evidence: ragbench:SET, ragas:FILE, a BEIR folder, or any other data set."),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Measure contexts and answers of this table, with ragas' field names; repeat to compare."),
    ] = None,
    recorded: Annotated[
        str | None, typer.Option(help="Measure the recorded responses of ragbench:SET with their own documents.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the questions.")] = "test",
    questions: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Contexts for each question.")] = 5,
    context: Annotated[
        str, typer.Option(help="In an index of passages, what is read of a document: its best passage, or document.")
    ] = "passage",
    model: Annotated[
        list[str] | None, typer.Option(help="Search with this model instead of the index's own; repeat to compare.")
    ] = None,
    beside: Annotated[
        list[Path] | None, typer.Option(help="One more index of the same documents; repeat to compare.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="exact to score every document, auto, or the name of an engine of the index.")
    ] = "exact",
    plan: Annotated[
        list[Path] | None,
        typer.Option(help="YAML file of search stages: one more system, searched with the first model; repeat."),
    ] = None,
    card: CardOption = None,
    option: Options = None,
    backend: BackendOption = None,
    generator: Annotated[
        str | None,
        typer.Option(
            help="What answers: a folder of transformers, a .gguf file or an installed package that holds one; with "
            "--generator-url, a model's name there."
        ),
    ] = None,
    generator_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint of the generator, as in http://localhost:8000/v1.")
    ] = None,
    generator_key: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Environment variable that holds the endpoint's key.")
    ] = "HYPERSEEK_GENERATOR_KEY",
    prompt: Annotated[
        Path | None, typer.Option(help="File of the prompt, with {contexts} and {question}; by default HypRAG's.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 for the likeliest answer; HypRAG has 0.5.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability to draw from, above temperature 0.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 512,
    price_in: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens of prompts.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens of answers.")] = None,
    judge: Annotated[str | None, typer.Option(help="Model that judges by ragas, at --judge-url.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint of the judge.")] = None,
    judge_key: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Environment variable that holds the judge's key.")
    ] = "HYPERSEEK_JUDGE_KEY",
    judge_measures: Annotated[
        str | None,
        typer.Option(
            help="Separated by commas: faithfulness, context_relevance, context_recall, context_precision, "
            "answer_relevancy; by default all."
        ),
    ] = None,
    judge_embeddings: Annotated[
        str, typer.Option(help="Model that compares questions, for answer_relevancy.")
    ] = "minilm",
    judge_price_in: Annotated[
        float | None, typer.Option(min=0, help="Price of a million tokens of the judge's prompts.")
    ] = None,
    judge_price_out: Annotated[
        float | None, typer.Option(min=0, help="Price of a million tokens of the judge's answers.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Ask again for judgements that failed before.")] = False,
    offline_judge: Annotated[
        Path | None, typer.Option(help="Judge of adherence, as hyperseek evaluate --adherence writes it.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Requests at a time, to an endpoint.")] = 4,
    baseline: Annotated[str | None, typer.Option(help="System to compare with; by default the first.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Paired test: permutation (default), t, wilcoxon.")] = None,
    confidence: Annotated[float, typer.Option(help="Confidence of the bootstrap intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Resamples of the intervals and the permutation test.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of draws, intervals and tests.")] = 0,
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Compare systems with different questions, over those they share.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for results; answers and judgements in it are used again.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write everything as JSON to standard output.")] = False,
) -> None:
    """Measure retrieved contexts and answers: INDEX DATASET, --answers FILE, or --recorded ragbench:SET."""
    from rich.console import Console

    from hyperseek.errors import InputError
    from hyperseek.evaluation import AdherenceJudge, GenerationOptions, Statistics, load_generator
    from hyperseek.evaluation import evaluate_rag as measure
    from hyperseek.models import load

    if (index is None) != (dataset is None) or sum([index is not None, bool(answers), recorded is not None]) != 1:
        raise InputError("give INDEX and DATASET, --answers FILE, or --recorded ragbench:SET")
    searches = {"--model": model, "--beside": beside, "--plan": plan, "--card": card, "--option": option}
    if index is None and (useless := [name for name, given in searches.items() if given]):
        raise InputError(f"{', '.join(useless)}: only for searches; give INDEX and DATASET, or leave it out")
    prices = _prices(price_in, price_out, "--price")
    judge_prices = _prices(judge_price_in, judge_price_out, "--judge-price")
    if generator is None and (generator_url is not None or prompt is not None):
        raise InputError("--generator-url and --prompt are for a generator; give --generator MODEL too")
    if (judge is None) != (judge_url is None):
        raise InputError("a judge takes both --judge MODEL and --judge-url URL")
    # Whatever may be wrong is found before the first search.
    statistics: dict[str, Any] = {
        "tests": test or ["permutation"], "confidence": confidence, "resamples": resamples, "seed": seed
    }  # fmt: skip
    Statistics.from_mapping(statistics, source="the options")
    chosen: dict[str, Any] = {
        "temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed
    }  # fmt: skip
    if prompt is not None:
        from hyperseek._bounded import whole_text

        chosen["prompt"] = whole_text(prompt)
    options = GenerationOptions.from_mapping(chosen, source="the options")
    answering = None
    if generator is not None:
        answering = load_generator(
            generator, url=generator_url, key_variable=generator_key, options=options, at_once=at_once
        )
    judging = None
    if judge is not None and judge_url is not None:
        judging = _judge(judge, judge_url, judge_key, judge_measures, judge_embeddings, at_once)
    offline = None
    if offline_judge is not None:
        trained = AdherenceJudge.load(offline_judge)
        embeddings = load(trained.embeddings)
        trained.check_model(embeddings)
        offline = trained, embeddings
    systems: dict[str, list[RagSample]] = {}
    described: dict[str, Any] = {}
    reader = None
    if index is not None and dataset is not None:
        asked = {"split": split, "k": k, "context": context, "questions": questions}
        search = {"engine": engine, "options": query_options(option, card)}
        systems, described, reader = _retrieve(
            index, dataset, model or [], beside or [], plan or [], backend, asked, search
        )
    else:
        systems = _given(answers or [], recorded, split, questions)
    report = measure(
        systems,
        generator=answering,
        prices=prices,
        judge=judging,
        judge_prices=judge_prices,
        again=again,
        adherence=offline,
        tokenized_by=reader,
        described=described,
        dataset=dataset,
        output=output,
        baseline=baseline,
        allow_unlike=allow_unlike,
        **statistics,
    )
    console = Console(stderr=json)
    if not console.is_terminal:
        console.width = 200  # a file or a pipe has no edge to wrap at
    console.print(report)
    for comparison in report.comparisons if len(report.results) > 1 else ():
        console.print(comparison.model_copy(update={"recorded": {}}))
    if json:
        echo_json(report.to_json(), indent=2)


def _prices(incoming: float | None, outgoing: float | None, name: str) -> tuple[float, float] | None:
    from hyperseek.errors import InputError

    if incoming is None and outgoing is None:
        return None
    if incoming is None or outgoing is None:
        raise InputError(f"give both {name}-in and {name}-out, of a million tokens each")
    return incoming, outgoing


def _judge(model: str, url: str, variable: str, measures: str | None, embeddings: str, at_once: int) -> RagasJudge:
    import os

    from hyperseek.evaluation import JUDGED_MEASURES, RagasJudge
    from hyperseek.models import load

    names = [*JUDGED_MEASURES] if measures is None else [name.strip() for name in measures.split(",") if name.strip()]
    compared = load(embeddings) if "answer_relevancy" in names else None
    key = os.environ.get(variable) or None
    return RagasJudge(model, url=url, key=key, measures=names, embeddings=compared, at_once=at_once)


def _retrieve(
    place: Path,
    source: str,
    models: list[str],
    others: list[Path],
    plans: list[Path],
    backend: str | None,
    asked: dict[str, Any],
    search: dict[str, Any],
) -> tuple[dict[str, list[RagSample]], dict[str, Any], Retriever]:
    """Return the samples of each system, what it is, and the model of the first one."""
    from hyperseek.data import open_dataset
    from hyperseek.errors import InputError
    from hyperseek.evaluation import retrieve_contexts
    from hyperseek.index import Index
    from hyperseek.models import load
    from hyperseek.plan import Plan

    opened = open_dataset(source)
    first = Index.open(place, backend=backend)
    loaded = [(name, Index.open(place, model=load(model, backend=backend))) for name, model in short_names(models)]
    chosen: list[tuple[str, Index, dict[str, Any]]] = [
        (name, index, search) for name, index in loaded or [(Path(first.info.source or "index").name, first)]
    ]
    chosen += [(name, Index.open(path, backend=backend), search) for name, path in short_names(others)]
    chosen += [(file.stem, chosen[0][1], {**search, "plan": Plan.load(file)}) for file in plans]
    names = [name for name, _, _ in chosen]
    if len(set(names)) < len(names):
        raise InputError(f"every system needs a name of its own, not {', '.join(names)}; rename a folder or a file")
    found, described = {}, {}
    for name, index, how in chosen:
        found[name] = retrieve_contexts(index, opened, **asked, **how)
        described[name] = {
            "model": index.model.source, "fingerprint": index.model.fingerprint, "k": asked["k"],
            "context": asked["context"], "documents": len(index), "passages": index.passages,
            "search": how["plan"].model_dump(mode="json") if "plan" in how else how["engine"],
            "options": how["options"].to_json(),
        }  # fmt: skip
    return found, described, chosen[0][1].model


def _given(files: list[Path], recorded: str | None, split: str, questions: int | None) -> dict[str, list[RagSample]]:
    from hyperseek.data import open_dataset
    from hyperseek.evaluation import read_samples, recorded_samples

    if recorded is not None:
        return {"recorded": recorded_samples(open_dataset(recorded), split=split, questions=questions)}
    return {name: read_samples(path)[:questions] for name, path in short_names(files)}


def evaluate_adherence(
    dataset: Annotated[str, typer.Argument(help="Labelled responses: ragbench:SET, or a folder of its form.")],
    output: Annotated[Path, typer.Option(help="JSON file for the judge.")],
    model: Annotated[str, typer.Option(help="Model that embeds sentences.")] = "minilm",
    train_split: Annotated[str, typer.Option(help="Split to learn from.")] = "train",
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "test",
    json: Annotated[bool, typer.Option("--json", help="Write the areas as JSON to standard output.")] = False,
) -> None:
    """Train an offline judge of adherence on labelled responses, and measure it: AUROC."""
    from hyperseek.data import open_dataset
    from hyperseek.evaluation import train_adherence
    from hyperseek.models import load

    opened, embeddings = open_dataset(dataset), load(model)
    judge = train_adherence(opened, embeddings, split=train_split)
    scores = judge.measure(opened, embeddings, split=split)
    judge.save(output)
    if json:
        echo_json(scores.model_dump(mode="json"), indent=2)
        return
    for what, count, area in (
        ("sentences", scores.sentences, scores.sentence_auroc),
        ("responses", scores.responses, scores.response_auroc),
    ):
        shown = "none, since all have one label" if area is None else f"{area:.4f}"
        echo(f"{count:,} {what} of {opened.name} {split}: AUROC {shown}")

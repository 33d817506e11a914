"""`hyperseek mine` and `hyperseek prepare preferences`: training data that models and teachers find."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperseek.cli._echo import echo, echo_json
from hyperseek.cli._prepare import Json, OnError, Overwrite, divided, echo_prepared
from hyperseek.cli._search import CardOption, with_card

if TYPE_CHECKING:
    from hyperseek.types import Qrels


def mine(
    prepared: Annotated[Path, typer.Argument(help="A folder that `prepare` or `mine` wrote.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    corpora: Annotated[
        list[str] | None,
        typer.Argument(
            help="Indexes to search, NAME=INDEX if an index's name is not that of its collection, and at most one "
            "model, which encodes the collections without an index. Settings, section.field=value, go between or "
            "after them, as in mining.negatives=15.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Cross-encoder, retriever, or cohere:MODEL or openai:MODEL behind $HYPERSEEK_TEACHER_URL, that scores "
            "positives and negatives and drops false negatives."
        ),
    ] = None,
    exclude_relevant: Annotated[
        list[str] | None,
        typer.Option(
            help="Further judgements of the collection NAME, NAME=FILE: their relevant documents are never negatives."
        ),
    ] = None,
    card: CardOption = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    device: Annotated[str | None, typer.Option(help="For models, as in cuda:0; a GPU if there is one.")] = None,
    on_error: OnError = "raise",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Add hard negatives to prepared examples, and drop inconsistent positives and false negatives.

    \b
    hyperseek mine training mined medquad.index
    hyperseek mine training mined minilm mining.negatives=15 mining.margin=0.9
    hyperseek mine training consistent medquad.index consistency.top=2
    hyperseek mine training filtered --teacher cross-encoder/ms-marco-MiniLM-L6-v2

    Each section but options is a step; giving only some leaves out the others.

    \b
    mining       negatives (7), depth (100), skip_top, max_score, min_score,
                 margin (0.95; 0.9 to 0.98 are usual, null for none), seed,
                 sampling (top or random), keep_negatives, engine,
                 plan (stages that find candidates, or a YAML file of them)
    consistency  top (2), pool, seed, engine
    teacher      margin (0.95), max_score
    options      for the model that searches, as in options.level=2
    """  # noqa: D301 (click's mark for unwrapped lines is the character itself)
    from hyperseek._config import apply_overrides
    from hyperseek._recipe_files import recipe_values
    from hyperseek.mining import RefineOptions, load_teacher, refine

    named, settings = divided(corpora or (), RefineOptions.model_fields)
    values = apply_overrides({}, settings) if recipe is None else recipe_values(recipe, settings)
    options = RefineOptions.from_mapping(values, source="the command line" if recipe is None else str(recipe))
    options = options.model_copy(update={"options": with_card(options.options, card, "options.card=...")})
    info = refine(
        prepared,
        out,
        mine=named or None,
        options=options,
        teacher=None if teacher is None else load_teacher(teacher, device=device),
        judged=_judged(exclude_relevant) if exclude_relevant else None,
        device=device,
        on_error=on_error,
        overwrite=overwrite,
    )
    if json_output:
        echo_json(info.model_dump(mode="json"), indent=2)
    echo_prepared(out, info)


def prepare_preferences(
    collection: Annotated[
        str,
        typer.Argument(
            help="What is ranked: a BEIR folder, pydocs, ir_datasets:ID, hub:NAME or another data source, with :SPLIT "
            "after it (train if not given; all queries if there are no judgements).",
            show_default=False,
        ),
    ],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings, as in pairs=8.", show_default=False)] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="bm25; dense (the model of --index); another index of the collection; a cross-encoder or retriever; "
            "cohere:MODEL or openai:MODEL behind --url. Give it once for each teacher.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", show_default=False)] = Path(),
    index: Annotated[
        str | None,
        typer.Option(help="Finds candidates beside BM25: an index of the collection, or a model, which encodes it."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Folder that keeps the teachers' scores for further commands.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(envvar="HYPERSEEK_TEACHER_URL", help="Endpoint, as in https://api.example.com/v1.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="HYPERSEEK_TEACHER_KEY", help="Its key; rather set the variable, others see options."),
    ] = None,
    allow_test: Annotated[bool, typer.Option("--allow-test", help="Take a test split nevertheless.")] = False,
    card: CardOption = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    device: Annotated[str | None, typer.Option(help="For models, as in cuda:0; a GPU if there is one.")] = None,
    on_error: OnError = "raise",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Let teachers rank candidates for queries, and write what they prefer as training examples with weights.

    \b
    hyperseek prepare preferences medquad --teacher bm25 --teacher dense --index medquad.index -o preferences
    hyperseek prepare preferences medquad --teacher bm25 --teacher cross-encoder/ms-marco-MiniLM-L6-v2 \\
        weights=[1,3] form=lists -o lists
    hyperseek prepare preferences medquad --teacher cohere:rerank-v3.5 --url https://api.cohere.com/v2 -o reranked

    \b
    bm25, dense, candidates   candidates by words (50), by the index (50), in
                              all, the others at random (100)
    weights                   one for each teacher
    fusion, rrf_k             zscore, minmax or rrf (60)
    form                      pairs or lists
    sampling                  confident or hydra
    pairs, negatives          pairs of a query (16), negatives of a list (15)
    positives, skip, hard     places in the teachers' order: positives (3),
                              neither (2), hard negatives (15)
    hard_ratio                share of hard negatives (0.5)
    least_confidence          what pairs and lists must exceed (0)
    judged                    whether relevant documents are the positives (true)
    exclude_same_id, options, task, seed
    """  # noqa: D301 (click's mark for unwrapped lines is the character itself)
    from hyperseek._config import apply_overrides
    from hyperseek._recipe_files import recipe_values
    from hyperseek.errors import InputError
    from hyperseek.mining import PreferenceOptions
    from hyperseek.mining import prepare_preferences as write

    if output == Path():
        raise InputError("preferences need a folder to be written to; give --output FOLDER")
    values = apply_overrides({}, settings or ()) if recipe is None else recipe_values(recipe, settings or ())
    options = PreferenceOptions.from_mapping(values, source="the command line" if recipe is None else str(recipe))
    options = options.model_copy(update={"options": with_card(options.options, card, "options.card=...")})
    info = write(
        collection,
        output,
        teachers=teacher or (),
        dense=index,
        options=options,
        scores=scores,
        url=url,
        key=key,
        allow_test=allow_test,
        device=device,
        on_error=on_error,
        overwrite=overwrite,
    )
    if json_output:
        echo_json(info.model_dump(mode="json"), indent=2)
    echo_prepared(output, info)
    weights = info.options["preferences"]["weights_given"]
    echo("  " + ", ".join(f"{name.replace('_', ' ')} weight {value:.3f}" for name, value in weights.items()), err=True)


def _judged(named: list[str]) -> dict[str, Qrels]:
    from hyperseek.data import read_qrels
    from hyperseek.errors import InputError

    judged: dict[str, Qrels] = {}
    for text in named:
        name, equals, path = text.partition("=")
        if not equals:
            raise InputError(f"--exclude-relevant {text!r} must name its collection, as in NAME={text}")
        for query_id, own in read_qrels(path).items():
            judged.setdefault(name, {}).setdefault(query_id, {}).update(own)
    return judged

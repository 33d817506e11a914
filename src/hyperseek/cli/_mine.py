"""`hyperseek mine`: hard negatives and filters for prepared training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperseek.cli._echo import echo_json
from hyperseek.cli._prepare import Json, OnError, Overwrite, divided, echo_prepared

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
        typer.Option(help="Cross-encoder or retriever that scores positives and negatives and drops false negatives."),
    ] = None,
    exclude_relevant: Annotated[
        list[str] | None,
        typer.Option(
            help="Further judgements of the collection NAME, NAME=FILE: their relevant documents are never negatives."
        ),
    ] = None,
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

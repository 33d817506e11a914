"""`hyperseek evaluate --cards`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import echo_json, result_console


def evaluate_cards(
    study: Annotated[Path, typer.Argument(help="YAML file of tasks (index, dataset, card) and of models.")],
    output: Annotated[Path | None, typer.Option(help="Folder that keeps rankings, to go on from later.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write everything as JSON to standard output.")] = False,
) -> None:
    """Measure what task cards are worth beside all that does without them."""
    from hyperseek.evaluation import CardStudy
    from hyperseek.evaluation import evaluate_cards as measure

    table = measure(CardStudy.from_yaml(study), output=output)
    result_console(stderr=json).print(table)
    if json:
        echo_json(table.model_dump(mode="json"), indent=2)

"""`hyperseek recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from hyperseek.cli._echo import echo


def recipes(
    name: Annotated[str | None, typer.Argument(help="The recipe to print; by default all are listed.")] = None,
) -> None:
    """List the recipes that `train` and `pretrain` accept by name, or print one as a starting point.

    \b
    hyperseek recipes
    hyperseek recipes qnet-minilm-pydocs > my.yaml
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek._files import reading
    from hyperseek._recipe_files import find_recipe, list_recipes

    if name is None:
        known = list_recipes()
        width = max(map(len, known), default=0)
        for each, summary in known.items():
            echo(f"{each:{width}}  {summary}".rstrip())
        return
    path = find_recipe(name)
    with reading(path, "a recipe"):
        text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        echo(line)

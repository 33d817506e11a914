"""`hyperseek prepare hierarchy`: training data, a collection and HiT's splits from edges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import echo, echo_json
from hyperseek.cli._prepare import Json, OnError, Overwrite, echo_dropped


def prepare_hierarchy(
    edges: Annotated[
        Path,
        typer.Argument(
            help="Tab-separated file of children and parents, or a folder with edges.tsv and nodes.jsonl or "
            "corpus.jsonl; each may be .gz.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings, as in share=0.1.", show_default=False)] = None,
    nodes: Annotated[
        Path | None,
        typer.Option(help="Names (titles) and definitions (texts) of nodes: a corpus file.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the collection.", show_default=False)] = None,
    on_error: OnError = "raise",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Write a hierarchy as training data with hops, as a collection of ancestors, and as the pairs of HiT.

    \b
    hyperseek prepare hierarchy edges.tsv animals --nodes nodes.jsonl --name animals
    hyperseek train recipe.yaml data.sources.animals.source=animals/train
    hyperseek evaluate INDEX animals/animals --split test --hierarchy animals/animals/edges.tsv.gz

    \b
    share               of leaves and pairs held out, twice (0.05)
    seed                of all draws (42)
    negatives           of a pair and of a training example (10)
    training_negatives  hard (siblings) or random
    itself              whether a node is its own nearest positive (false)
    queries             text (name and definition) or name
    entities            in HiT's files: name, text or id
    coarse              rules of coarse positives ([far])
    hit                 whether HiT's files are written (true)
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek._config import apply_overrides
    from hyperseek.data import ErrorReport, HierarchyOptions
    from hyperseek.data import prepare_hierarchy as write

    options = HierarchyOptions.from_mapping(apply_overrides({}, settings or ()), source="the command line")
    info = write(edges, output, nodes=nodes, name=name, options=options, on_error=on_error, overwrite=overwrite)
    if json_output:
        echo_json(info.model_dump(mode="json"), indent=2)
    echo(
        f"{output}: {info.nodes:,} nodes, {info.edges:,} edges, {info.pairs:,} pairs of a node and an ancestor, "
        f"{info.roots:,} roots, {info.deepest} edges deep",
        err=True,
    )
    echo(f"  {output / 'train'}: {info.examples:,} examples", err=True)
    asked = ", ".join(f"{count:,} queries in {split}" for split, count in info.queries.items())
    echo(f"  {output / info.name}: {asked}", err=True)
    for task, counts in info.hit.items():
        pairs = ", ".join(f"{count:,} pairs in {split}" for split, count in counts.items())
        echo(f"  {output / 'hit' / task}-random, -hard: {pairs}", err=True)
    echo_dropped(ErrorReport.from_dict(info.dropped))

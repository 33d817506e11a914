"""`hyperseek adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperseek.cli._echo import echo, echo_json, shown_text

if TYPE_CHECKING:
    from hyperseek.adapting import Adaptation, Gain


def adapt(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    judged: Annotated[
        str | None,
        typer.Argument(
            help="COLLECTION:SPLIT, a folder that `hyperseek prepare` wrote, or FILE.jsonl of query, document and "
            "grade; without it, the card's pairs or titles and first sentences of documents."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the adapted model.")] = Path("adapted"),
    card: Annotated[Path | None, typer.Option(help="A task card: its pairs and example documents are used.")] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Heads to try: ridge, low_rank, linear, examples, card, card_ridge, qnet, lora; with commas."
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(help="INDEX=COLLECTION:SPLIT of the same model, to measure what the head costs there; repeat."),
    ] = None,
    certain: Annotated[
        bool, typer.Option("--certain", help="Keep only what is proven on these queries, not the default.")
    ] = False,
    rank: Annotated[int, typer.Option(min=1, help="Rank of low_rank and lora.")] = 32,
    depth: Annotated[int, typer.Option(min=0, help="Hidden layers of qnet.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Adapt this model of the same document side instead of the index's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and draws.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Write the record as JSON to standard output.")] = False,
) -> None:
    """Fit a head of queries on the vectors of an index in seconds, and keep it only if it helps.

    \b
    hyperseek adapt docs.index pairs.jsonl --output adapted
    hyperseek search docs.index "a question" --model adapted
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek.adapting import adapt as run
    from hyperseek.adapting import read_judged
    from hyperseek.cards import read_card
    from hyperseek.errors import InputError
    from hyperseek.index import Index
    from hyperseek.models import load

    others = {}
    for text in beside or ():
        folder, equals, place = text.partition("=")
        if not equals:
            raise InputError(f"--beside is INDEX=COLLECTION:SPLIT, not {text!r}")
        other = Index.open(folder)
        others[place] = (other, read_judged(place, other))
    opened = Index.open(index, model=None if model is None else load(model))
    adapted = run(
        opened,
        None if judged is None else read_judged(judged, opened),
        card=None if card is None else read_card(card),
        kinds=None if kinds is None else [kind.strip() for kind in kinds.split(",")],
        beside=others,
        certain=certain,
        rank=rank,
        depth=depth,
        seed=seed,
    )
    adapted.save(output)
    if json:
        echo_json(adapted.record.model_dump(mode="json"), indent=2)
    else:
        _show(adapted, index, output)


def _show(adapted: Adaptation, index: Path, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    record = adapted.record
    what = {"judged": "judged queries", "examples": "example documents", "documents": "titles and first sentences"}
    table = Table("candidate", "nDCG@10", "gain", "at least", title=f"{record.queries} {what[record.source]}, held out")
    for gain in sorted(record.candidates, key=lambda one: -one.low):
        style = "bold" if gain.name == record.chosen else ""
        numbers = (f"{gain.before + gain.gain:.4f}", f"{gain.gain:+.4f}", f"{gain.low:+.4f}")
        table.add_row(shown_text(gain.name, style=style), *numbers)
    Console().print(table)
    echo(_sentence(adapted))
    for cost in record.beside:
        echo(f"beside, {cost.name}: {_interval(cost)}")
    plan = "" if adapted.plan is None else f" --plan {output / 'plan.yaml'}"
    echo(f"hyperseek search {index} TEXT --model {output}{plan}", err=True)


def _sentence(adapted: Adaptation) -> str:
    record, gain = adapted.record, adapted.record.gain
    if record.chosen == "nothing":
        return "nothing helps: the model in the folder is that of the index"
    if record.proven:
        return f"chosen: {record.chosen}, proven on these queries: {_interval(gain)}"
    return (
        f"chosen: {record.chosen}, the default, which these queries neither prove nor refute: {_interval(gain)}; "
        f"--certain leaves it out"
    )


def _interval(gain: Gain) -> str:
    return (
        f"nDCG@10 {gain.before:.4f} to {gain.before + gain.gain:.4f}, {gain.gain:+.4f} ({gain.low:+.4f} to "
        f"{gain.high:+.4f}) on {gain.queries} queries"
    )

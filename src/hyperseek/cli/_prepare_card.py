"""`hyperseek prepare card`: cards of tasks, drafted from a collection, checked, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperseek.cli._echo import echo, echo_json
from hyperseek.cli._prepare import Json, Overwrite

if TYPE_CHECKING:
    from hyperseek.cards import Card
    from hyperseek.models import Retriever


def prepare_card(
    source: Annotated[
        str,
        typer.Argument(
            help="What to draft from: a BEIR folder, pydocs, ir_datasets:ID, hub:NAME or another data source, with "
            ":SPLIT after it (train if not given; never a test). With --check or --compare, a card's file.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The card to write, .yaml or .json.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check a card instead; exit code 1 if it is wrong.")] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Evaluation whose queries and answers the card must not hold, as in scifact:test."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Compare a card with this one instead.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="For --check, tells which parts are too long for it; for --compare, gives cosines."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The card's name; that of the collection if not given.")] = None,
    queries: Annotated[int, typer.Option(help="Example queries.")] = 20,
    documents: Annotated[int, typer.Option(help="Example documents.")] = 10,
    judged: Annotated[int, typer.Option(help="Judged pairs.")] = 0,
    characters: Annotated[int, typer.Option(help="Longest example document; longer ones end before.")] = 600,
    seed: Annotated[int, typer.Option(help="Of the sample that examples are chosen from.")] = 0,
    device: Annotated[str | None, typer.Option(help="For the model, as in cuda:0; a GPU if there is one.")] = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Draft the card of a task, check one, or compare two.

    \b
    hyperseek prepare card medquad --output medquad.yaml
    hyperseek prepare card medquad.yaml --check --against medquad:test --model minilm
    hyperseek prepare card medquad.yaml --compare scifact.yaml --model minilm

    A draft is printed if no output is given. What it does not know begins with TODO, and the check reports that.
    """  # noqa: D301 (click's mark for unwrapped lines is the character itself)
    from hyperseek.cards import read_card
    from hyperseek.data import draft_card
    from hyperseek.errors import InputError

    if check and compare is not None:
        raise InputError("--check and --compare are two things; give one of them")
    if not check and (against or (model is not None and compare is None)):
        raise InputError("--against is for --check, and --model for --check or --compare; give one of these too")
    if (check or compare is not None) and output is not None:
        raise InputError("--output is for a draft; leave it out with --check and --compare")
    if check:
        _check(read_card(source), against or [], _loaded(model, device), json_output)
    elif compare is not None:
        _compare(read_card(source), read_card(compare), _loaded(model, device), json_output)
    else:
        if output is not None and output.exists() and not overwrite:
            raise InputError(f"{output} exists; name another file, or replace it with --overwrite")
        card = draft_card(
            source, name=name, queries=queries, documents=documents, judged=judged, characters=characters, seed=seed
        )
        if output is not None:
            card.write(output)
        if output is None or json_output:
            echo_json(card.to_mapping(), indent=2)
        _echo_draft(card, output)


def _echo_draft(card: Card, output: Path | None) -> None:
    from hyperseek.data import check_card

    echo(
        f"{output or card.name}: {len(card.query_examples)} example queries, {len(card.doc_examples)} example "
        f"documents, {len(card.judged)} judged pairs",
        err=True,
    )
    for found in check_card(card):
        echo(f"  {found.place} {found.message}", err=True)


def _check(card: Card, against: list[str], model: Retriever | None, json_output: bool) -> None:
    from hyperseek.data import check_card

    findings = check_card(card, against=against, model=model)
    if json_output:
        echo_json([one.model_dump(mode="json") for one in findings], indent=2)
    else:
        for one in findings:
            echo(f"{'wrong' if one.wrong else 'advice'}: {one.place} {one.message}")
        if not findings:
            echo(f"{card.name}: nothing to mend")
    if any(one.wrong for one in findings):
        raise typer.Exit(1)


def _compare(first: Card, second: Card, model: Retriever | None, json_output: bool) -> None:
    from hyperseek.data import compare_cards

    found = compare_cards(first, second, model=model)
    if json_output:
        echo_json(found.model_dump(mode="json"), indent=2)
        return
    if found.same:
        echo("the cards differ in their names at most")
    for what, shared, overlap in (
        ("queries", found.shared_queries, found.query_overlap),
        ("documents", found.shared_documents, found.document_overlap),
    ):
        echo(f"{len(shared)} shared example {what}, {overlap:.0%} of all")
    for what, cosine in found.cosines.items():
        echo(f"cosine of {what}: {cosine:.3f}")


def _loaded(name: str | None, device: str | None) -> Retriever | None:
    from hyperseek.models import load

    return None if name is None else load(name, device=device)

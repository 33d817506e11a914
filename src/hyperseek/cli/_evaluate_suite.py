"""`hyperseek evaluate --suite`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import echo, echo_json, result_console


def evaluate_suite(
    suite: Annotated[
        str,
        typer.Argument(help="Name of a suite of this project, a YAML file, or a folder of results (as ./mini), of "
                            "which only the table is computed.", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.field=value, as training.train.max_steps=100.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of results, models and indexes; by default runs/suite-NAME.")
    ] = None,
    systems: Annotated[
        list[str] | None, typer.Option(help="Only this system and the baseline; repeat for several.")
    ] = None,
    collections: Annotated[list[str] | None, typer.Option(help="Only this collection; repeat for several.")] = None,
    retime: Annotated[
        bool, typer.Option("--retime", help="Measure the times of queries again, as of a machine that was busy.")
    ] = False,
    baseline: Annotated[str | None, typer.Option(help="With a folder: the system to compare with.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Compare with the published results in this folder; exit code 1 on a drift.")
    ] = None,
    publish: Annotated[Path | None, typer.Option(help="Also write results without scores into this folder.")] = None,
    rankings: Annotated[
        list[str] | None, typer.Option(help="With --publish: keep the rankings of this collection; repeat for several.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the Markdown report to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the table as JSON to standard output.")] = False,
) -> None:  # fmt: skip
    """Measure many systems on many collections, and compare them: quality beside cost."""
    from hyperseek._files import atomic_write
    from hyperseek._long_work import is_quiet
    from hyperseek.errors import InputError
    from hyperseek.evaluation.suite import (
        drifts,
        list_suites,
        publish_results,
        read_results,
        read_suite,
        read_table,
        run_suite,
    )

    if rankings and publish is None:
        raise InputError("--rankings says what --publish FOLDER keeps; give that too")
    if Path(suite).is_dir() and suite not in list_suites():
        given = {"section.field=value": overrides, "--output": output, "--retime": retime}
        if useless := [name for name, value in given.items() if value]:
            raise InputError(f"{', '.join(useless)}: without effect on a folder of results, where nothing is measured")
        folder = Path(suite)
        table = read_table(folder, systems=systems or [], collections=collections or [], baseline=baseline)
    else:
        if baseline is not None:
            raise InputError("--baseline is for a folder of results; a suite names its own: baseline=NAME changes it")
        read = read_suite(suite, overrides or [])
        folder = output or Path("runs") / f"suite-{read.name or 'suite'}"
        tell = (lambda _: None) if is_quiet() else (lambda line: echo(line, err=True))
        chosen = {"systems": systems or [], "collections": collections or []}
        table = run_suite(read, output=folder, retime=retime, tell=tell, **chosen)
    shown = {(cell.system, cell.column.partition(" ")[0]) for cell in table.cells}
    results = [one for one in read_results(folder) if (one.system, one.collection) in shown]
    if publish is not None:
        written = publish_results(results, publish, rankings=rankings or [])
        echo(f"{len(written)} files of {sum(written.values()):,} bytes in {publish}", err=True)
    if markdown is not None:
        with atomic_write(markdown) as file:
            file.write(table.to_markdown())
    result_console(stderr=json).print(table)
    if json:
        echo_json(table.model_dump(mode="json"), indent=2)
    if check is None:
        return
    found = drifts(results, read_results(check))
    for one in found:
        if one.drifted:
            now = "" if one.measured is None else f", now {one.measured:.4f}"
            echo(f"DRIFTED: {one.system} on {one.collection}, {one.measure}: {one.published:.4f} was published{now}; "
                 f"{one.reason}", err=True)  # fmt: skip
    drifted = sum(one.drifted for one in found)
    echo(f"{len(found) - drifted} of {len(found)} values agree with {check}", err=True)
    if drifted:
        raise typer.Exit(1)

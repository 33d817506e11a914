"""`hyperseek train`, `pretrain` and `adapt`, and the recipes of the first two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperseek.cli._echo import echo, echo_json, shown_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperseek.adapting import Adaptation, Gain
    from hyperseek.training import Forecast, RunRecord, TrainedPart

Overrides = Annotated[list[str] | None, typer.Argument(help="Changes: section.field=value, as in train.max_steps=200.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", show_default="runs/RECIPE", help="Folder for the trained model and run.json."),
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Resume an interrupted run, or start from scratch.")]


def folder_of(recipe: str, named: str | None, output: Path | None) -> Path:
    """Return the folder of a run: from the command, else from the recipe, else by the recipe's name."""
    return output or (Path(named) if named else Path("runs") / Path(recipe).stem)


def tell(folder: Path, record: RunRecord) -> bool:
    """Report a run, and return whether this process is the one that reports, as only it has the whole record."""
    from hyperseek.runs.recipe import is_first_process

    if not is_first_process():
        return False
    echo(f"{folder}: {record.steps} steps in {record.seconds.get('training', 0.0):.0f} s", err=True)
    if not record.changed:
        echo(f"{folder}: this run changed nothing; the model is unchanged", err=True)
    return True


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A YAML file, or the name of one in recipes/, as qnet-minilm-pydocs or lorentz-minilm."),
    ],
    overrides: Overrides = None,
    output: Output = None,
    resume: Resume = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing; print lengths, steps, and memory and time per part.")
    ] = False,
) -> None:
    """Train a model by a recipe, and save it for use by every other verb.

    \b
    hyperseek train qnet-minilm-pydocs --output model
    hyperseek train my.yaml train.learning_rate=3e-4 losses.anchor.weight=0.5
    hyperseek train reasoning_colbert --dry-run
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek.training import read_recipe
    from hyperseek.training import train as run

    read = read_recipe(recipe, overrides or ())
    if dry_run:
        from hyperseek.training import dry_run as forecast

        _show_forecast(forecast(read))
        return
    folder = folder_of(recipe, read.output.folder, output)
    record = run(read, output=folder, resume=resume, tell=lambda parts: _show_parts(parts, err=True))
    if tell(folder, record) and record.validation:
        _show_validation(record.metric or "", record.validation[0].scores, record.final_scores)


def _show_parts(parts: Sequence[TrainedPart], *, err: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from hyperseek._long_work import is_quiet

    if err and is_quiet():
        return
    table = Table("part", "parameters", "trained", title="trained parts")
    for part in parts:
        table.add_row(shown_text(part.name), f"{part.parameters:,}", f"{part.trained:,}")
    table.add_section()
    table.add_row("all", *(f"{sum(getattr(part, name) for part in parts):,}" for name in ("parameters", "trained")))
    Console(stderr=err).print(table)


def _show_forecast(said: Forecast) -> None:
    from rich.console import Console
    from rich.table import Table

    lengths = Table("tokens", "limit", "longest", "mean", title="lengths of a sample")
    for side, of in said.lengths.items():
        lengths.add_row(side, f"{of['limit']:g}", f"{of['longest']:g}", f"{of['mean']:.1f}")
    memory = Table("memory", "MiB", title="memory by part")
    for name, size in said.memory.items():
        memory.add_row(name, f"{size / _MIB:,.1f}")
    memory.add_section()
    memory.add_row("peak", f"{said.peak / _MIB:,.1f}")
    spent = Table("time", "seconds", title="time of a step")
    for name, seconds in said.seconds.items():
        spent.add_row(name, f"{seconds:.3f}")
    a_step = sum(said.seconds.values())
    spent.add_section()
    spent.add_row("a step", f"{a_step:.3f}")
    if said.steps is not None:
        spent.add_row(f"{said.steps:,} steps", f"{a_step * said.steps:,.0f}")
    _show_parts(said.parts, err=False)
    for table in (lengths, memory, spent):
        Console().print(table)


_MIB = 1 << 20


def _show_validation(metric: str, before: dict[str, float], after: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("dev set", "untrained", "trained", title=shown_text(metric))
    for name, score in before.items():
        table.add_row(shown_text(name), f"{score:.4f}", f"{after[name]:.4f}")
    Console().print(table)


def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of one in recipes/, as mlm-tiny-pydocs or albert_mlm.")
    ],
    overrides: Overrides = None,
    output: Output = None,
    resume: Resume = True,
) -> None:
    """Pre-train an encoder on masked tokens of any texts; its folder is a trunk for `hyperseek train`.

    \b
    hyperseek pretrain mlm-tiny-pydocs --output encoder
    hyperseek train qnet-minilm-pydocs model.trunk=encoder
    torchrun --nproc-per-node 8 -m hyperseek pretrain albert_mlm --output encoder
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek.pretraining import pretrain as run
    from hyperseek.pretraining import read_pretrain_recipe

    read = read_pretrain_recipe(recipe, overrides or ())
    folder = folder_of(recipe, read.output.folder, output)
    record = run(read, output=folder, resume=resume)
    if tell(folder, record) and record.validation:
        before, after = record.validation[0].scores, record.validation[-1].scores
        for name in before:
            echo(f"validation {name}: {before[name]:.4g} before, {after[name]:.4g} after")


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
        _show_adaptation(adapted, index, output)


def _show_adaptation(adapted: Adaptation, index: Path, output: Path) -> None:
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

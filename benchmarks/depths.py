"""What depth is worth: q-nets of several depths, cold and warm, beside linear and LoRA bi-encoders, on equal budgets.

    python benchmarks/depths.py OUTPUT [--steps 100] [--seconds 40] [--systems NAME ...]

Every system trains on the same examples in the same order (recipe qnet-minilm-union without validation), once for a
number of steps and once for a number of seconds of processor time, and is measured on the same judgements with paired
tests against the frozen model. Documents keep their vectors throughout. What is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from _hardware import describe_hardware
from hyperseek._files import write_json
from hyperseek.data import Dataset, open_dataset
from hyperseek.evaluation import compare, rank_index
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.training import read_recipe, read_record, train

DEPTHS = (0, 1, 2, 4, 6)
SETS = {
    "medquad": "test",
    "scifact": "test",
    "nfcorpus": "dev",
    "cranfield": "test",
    "cisi": "test",
    "trec-dl19-pool5k": "test",
}
DATA = Path(os.environ.get("HYPERSEEK_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def systems() -> dict[str, tuple[str, list[str]]]:
    """Return the recipe and the overrides of each system, by name."""
    found: dict[str, tuple[str, list[str]]] = {}
    for start in ("warm", "cold"):
        for depth in DEPTHS:
            changes = [f"model.qnet.depth={depth}", f"model.qnet.warm_start={'true' if start == 'warm' else 'false'}"]
            found[f"{start} {depth}"] = ("qnet-minilm-union", changes)
    found["linear"] = ("dense-minilm-linear", [])
    found["query LoRA"] = ("dense-minilm-query-lora", [])
    return found


def limited(dataset: Dataset, split: str, most: int) -> Dataset:
    """Keep every n-th judged query, so that deep q-nets can be measured in time."""
    judgements = dataset.qrels(split)
    kept = sorted(judgements)[:: max(1, len(judgements) // most)][:most]
    queries = [query for query in dataset.queries(split) if query.id in set(kept)]
    return Dataset.from_records(
        dataset.name, dataset.documents(), queries=queries, qrels={split: {name: judgements[name] for name in kept}}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--queries", type=int, default=150, help="most queries of a set")
    parser.add_argument("--indexes", type=Path, help="folder of one MiniLM index a set, by name; made if missing")
    parser.add_argument("--override", action="append", default=[], help="for every system")
    parser.add_argument("--systems", nargs="*", choices=list(systems()))
    parser.add_argument("--budgets", nargs="*", choices=("steps", "time"), default=("steps", "time"))
    arguments = parser.parse_args()
    print(describe_hardware(), flush=True)

    folder = arguments.indexes or arguments.output / "indexes"
    frozen = load("minilm", device="cpu")
    sets = {}
    for name in SETS:
        dataset = open_dataset(DATA / name)
        if not (folder / name / "index.json").exists():
            Index.build(folder / name, dataset.documents(), frozen, name=name)
        sets[name] = limited(dataset, SETS[name], arguments.queries)
    budgets = {"steps": f"train.max_steps={arguments.steps}", "time": f"train.max_seconds={arguments.seconds}"}
    for budget in arguments.budgets:
        end = budgets[budget]
        for system, (recipe, changes) in systems().items():
            if arguments.systems and system not in arguments.systems:
                continue
            place = arguments.output / budget / system.replace(" ", "-")
            common = ["validation={}", "train.clock=cpu", "train.batch_size=32"]
            common += ["train.schedule=constant", "train.save_every=", "train.warmup=10", "train.learning_rate=5e-5"]
            common.append(end)
            if budget == "time":
                common.append("train.max_steps=1000000")
            train(read_recipe(recipe, [*common, *changes, *arguments.override]), output=place)
            if not (place / "measured.json").exists():
                measure(place, system, sets, folder)
        table(arguments.output / budget, budget)


def measure(place: Path, system: str, sets: dict[str, Dataset], folder: Path) -> None:
    """Compare one trained model with the frozen one on all sets, and keep the numbers."""
    results = {}
    for name, dataset in sets.items():
        split = SETS[name]
        judged = dataset.qrels(split)
        rankings = [
            rank_index(Index.open(folder / name), dataset, split=split, name="frozen", k=100),
            rank_index(Index.open(folder / name, model=load(place)), dataset, split=split, name=system, k=100),
        ]
        comparison = compare([ranking.evaluate(judged, measures="nDCG@10") for ranking in rankings])
        results[name] = comparison.model_dump(mode="json")
    write_json(place / "measured.json", results)


def table(folder: Path, budget: str) -> None:
    """Print nDCG@10, the difference to the frozen model, and where the paired test says it is no accident."""
    rows, columns = [], dict[str, None]()
    for path in sorted(folder.glob("*/measured.json")):
        record = read_record(path.parent)
        cells = {}
        for name, comparison in json.loads(path.read_text()).items():
            for section in comparison["sections"]:
                heading = f"{name}, {section['title']} ({section['queries']})"
                columns[heading] = None
                cells[heading] = cell(section["rows"][1])
        steps = record.steps if record else 0
        seconds = record.seconds.get("training", 0.0) if record else 0.0
        rows.append((f"| {path.parent.name} | {steps} | {seconds:.0f} | ", cells))
    print(f"\nEqual {budget}: nDCG@10, difference to frozen (* p < 0.05, paired permutation test)\n")
    print("| system | steps | cpu s | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 3) + "|")
    for start, cells in rows:
        print(start + " | ".join(cells.get(heading, "") for heading in columns) + " |", flush=True)


def cell(row: dict[str, Any]) -> str:
    """Return a system's mean, its difference to the baseline, and a star where that is significant."""
    star = "*" if min((row["p_values"] or {"": 1.0}).values()) < 0.05 else ""
    return f"{row['mean']:.3f} ({row['difference']:+.3f}{star})"


if __name__ == "__main__":
    main()

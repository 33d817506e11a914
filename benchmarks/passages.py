"""What passages find of long documents that a cut document loses: nDCG@10 and recall@100, with paired tests.

    python benchmarks/passages.py COLLECTION [--split test] [--articles] [--tokens 256 128] [--overlap 32] [--folder F]

`--articles` puts windows of articles together first, as COVID-QA has them: windows of 200 words, of which 50 are the
next one's first, with ids `ARTICLE-NUMBER`. A question is about every article that one of its windows is of.
Beside each index of passages stand the soft maximum of its scores and, for the first, BM25 over its passages.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import hyperseek
from _hardware import describe_hardware
from hyperseek import Index, open_dataset
from hyperseek.data import Dataset
from hyperseek.evaluation import Evaluation, compare, rank_bm25, rank_index
from hyperseek.plan import FullText

MEASURES = ("nDCG@10", "R@100")
DEPTH = 100
_SHARED_WORDS = 50


def articles_of(dataset: Dataset, split: str, folder: Path) -> Dataset:
    """Write a collection of articles, from one of their windows."""
    windows: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for document in dataset.documents():
        article, _, number = document.id.rpartition("-")
        windows[article].append((int(number), document.title, document.text))
    with (folder / "corpus.jsonl").open("w") as file:
        for article, parts in windows.items():
            parts.sort()
            words = parts[0][2].split()
            for _, _, text in parts[1:]:
                words += text.split()[_SHARED_WORDS:]
            print(json.dumps({"_id": article, "title": parts[0][1], "text": " ".join(words)}), file=file)
    with (folder / "queries.jsonl").open("w") as file:
        for query in dataset.queries(split):
            print(json.dumps({"_id": query.id, "text": query.text}), file=file)
    (folder / "qrels").mkdir()
    with (folder / "qrels" / f"{split}.tsv").open("w") as file:
        print("query-id\tcorpus-id\tscore", file=file)
        for query, judged in dataset.qrels(split).items():
            for article in {document.rpartition("-")[0] for document in judged}:
                print(f"{query}\t{article}\t1", file=file)
    return open_dataset(folder)


def measured(index: Index, dataset: Dataset, split: str, name: str) -> list[Evaluation]:
    """Measure an index by its best passages, and if it has any by soft maxima."""
    qrels = dataset.qrels(split)
    ranking = rank_index(index, dataset, split=split, k=DEPTH, name=name)
    rankings = [ranking]
    if index.passages is not None:
        run = index.run(dataset.queries(split), k=DEPTH, combine="soft")
        rankings.append(dataclasses.replace(ranking, name=f"{name}, soft", run=run))
    return [one.evaluate(qrels, measures=MEASURES) for one in rankings]


def main() -> None:
    """Build the indexes, measure them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--split", default="test")
    parser.add_argument("--articles", action="store_true")
    parser.add_argument("--tokens", type=int, nargs="+", default=[256])
    parser.add_argument("--overlap", type=int, nargs="*", default=[])
    parser.add_argument("--folder", type=Path, help="for the indexes, which are resumed")
    options = parser.parse_args()
    print(describe_hardware(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        dataset = open_dataset(options.collection)
        if options.articles:
            place = Path(temporary) / "articles"
            place.mkdir()
            dataset = articles_of(dataset, options.split, place)
        qrels = dataset.qrels(options.split)
        model = hyperseek.load("minilm", device="cpu")
        results = [rank_bm25(dataset, split=options.split, k=DEPTH).evaluate(qrels, measures=MEASURES)]
        settings: list[tuple[str, dict[str, int] | None]] = [("cut", None)]
        settings += [(f"passages of {tokens}", {"tokens": tokens}) for tokens in options.tokens]
        settings += [
            (f"passages of {options.tokens[0]}, overlap {overlap}", {"tokens": options.tokens[0], "overlap": overlap})
            for overlap in options.overlap
        ]
        for name, passages in settings:
            start = time.perf_counter()
            index = Index.build(folder / name.replace(" ", "-"), dataset.documents(), model, passages=passages)
            print(f"{name}: {index}, {time.perf_counter() - start:.0f} s", flush=True)
            results += measured(index, dataset, options.split, name)
            if passages is not None and len(results) == 4:
                ranking = rank_index(
                    index, dataset, split=options.split, k=DEPTH, name="BM25 of passages", plan=FullText(n=20 * DEPTH)
                )
                results.append(ranking.evaluate(qrels, measures=MEASURES))
            print(compare(results, baseline="cut", allow_unlike=True).to_markdown(), flush=True)


if __name__ == "__main__":
    main()

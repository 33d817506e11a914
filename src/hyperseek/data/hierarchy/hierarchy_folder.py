"""A hierarchy as training data: examples with hops, a collection, and the pairs of HiT.

```
hierarchy.json            description: counts, options, what was left out and why
train/                    prepared examples: each node that is not held out, and all of its ancestors with hops
NAME/                     a BEIR folder: nodes, queries, ancestors as judgements (train, dev, test), edges.tsv.gz
hit/TASK-NEGATIVES/       {train,validation,test}.jsonl.gz: {"child", "parent", "negative", "hops"}
```
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hyperseek._ancestors import Hierarchy, hop_grade
from hyperseek._bounded import PathLike, path_text
from hyperseek._config import Config
from hyperseek._files import write_json
from hyperseek._folders import staged_folder
from hyperseek._long_work import progress
from hyperseek.data._dataset import Dataset
from hyperseek.data._text_files import read_corpus, write_beir
from hyperseek.data.examples import CoarseOptions, ExampleItem, TrainingExample, qualified, with_coarse
from hyperseek.data.hierarchy import (
    NEGATIVES,
    SPLITS,
    Negatives,
    NegativeSampler,
    PairSplits,
    held_out_leaves,
    read_hierarchy,
    split_pairs,
)
from hyperseek.data.preparing import write_examples
from hyperseek.data.reading import ErrorReport, OnError, base_stem, gzip_json_lines
from hyperseek.errors import DataError, InputError
from hyperseek.types import Document, Qrels, Query

_INFO, _TRAIN, _HIT = "hierarchy.json", "train", "hit"
_EDGES = ("edges.tsv", "edges.tsv.gz")
_NODES = ("nodes.jsonl", "nodes.jsonl.gz", "nodes.tsv", "nodes.tsv.gz", "corpus.jsonl", "corpus.jsonl.gz")
_MOST_PAIRS = 20_000_000  # WordNet's nouns have 700,000; these take gigabytes


class HierarchyOptions(Config):
    """How a hierarchy is turned into training data.

    Attributes:
        share: Share of the leaves, of the edges and of the pairs further apart that is held out for validation, and
            again for the test.
        seed: Seed of all draws.
        negatives: Negatives of a pair, and of a training example; at least 1 with `hit`.
        training_negatives: `hard` ones are siblings, filled up with others; `random` ones are any.
        itself: Whether a node is its own nearest positive, 0 hops away: the last level of a model with levels then
            learns to rank it above its ancestors. Otherwise queries leave out their own node.
        queries: Text of queries: `text` for name and definition, `name` for the name alone, where the definition says
            what is above.
        entities: How HiT's files name nodes: by `name`, as HiT does, by `text`, name and definition, or by `id`.
        coarse: Where coarse positives of training examples come from; ancestors further up than the positive unless
            given.
        hit: Whether HiT's files are written.
    """

    share: float = Field(default=0.05, gt=0, lt=0.5)
    seed: int = 42
    negatives: int = Field(default=10, ge=0, le=10_000)
    training_negatives: Negatives = "hard"
    itself: bool = False
    queries: Literal["text", "name"] = "text"
    entities: Literal["name", "text", "id"] = "name"
    coarse: CoarseOptions = CoarseOptions(rules=("far",))
    hit: bool = True

    @model_validator(mode="after")
    def _check_hit(self) -> Self:
        if self.hit and not self.negatives:
            raise ValueError(
                "negatives: 0 leaves nothing for HiT's files, which have a line per negative; set hit=false"
            )
        return self


class HierarchyInfo(Config):
    """What was written of a hierarchy.

    Attributes:
        name: Name of the collection, and of its folder.
        nodes: Number of nodes, those without edges included.
        edges: Number of edges.
        pairs: Number of pairs of a node and an ancestor.
        roots: Number of nodes with nothing above them that have others below.
        deepest: Edges from the deepest node to the nearest root.
        queries: Queries by split of the collection.
        examples: Number of training examples.
        hit: Pairs by task and split.
        options: The options.
        dropped: Records left out, as in `SourceInfo`.
    """

    name: str
    nodes: int
    edges: int
    pairs: int
    roots: int
    deepest: int
    queries: dict[str, int]
    examples: int
    hit: dict[str, dict[str, int]]
    options: dict[str, Any]
    dropped: dict[str, dict[str, Any]]


def prepare_hierarchy(
    edges: PathLike,
    folder: PathLike,
    *,
    nodes: PathLike | None = None,
    name: str | None = None,
    options: HierarchyOptions | None = None,
    on_error: OnError = "raise",
    overwrite: bool = False,
) -> HierarchyInfo:
    """Write a hierarchy as training examples, as a collection, and as the pairs of HiT.

    Args:
        edges: A tab-separated file of children and parents, or a folder with `edges.tsv` and `nodes.jsonl` or
            `corpus.jsonl`, each plain or `.gz`.
        folder: The folder, written atomically.
        nodes: A corpus file with names (titles) and definitions (texts) of nodes; None for the one in the folder, or
            for ids as names.
        name: Name of the collection; None derives it.
        options: How; None for the defaults.
        on_error: Stop at a bad record or an edge that closes a circle, or leave it out and count it.
        overwrite: Replace a folder that an earlier call wrote.

    Returns:
        What was written.

    Raises:
        DataError: A file is missing or damaged, or edges lead in a circle.
        InputError: The hierarchy is too small to be split, or the folder exists.
    """
    chosen, report = options or HierarchyOptions(), ErrorReport()
    source, nodes = _found(Path(path_text(edges)), nodes)
    name = name or (source.resolve().parent.name if base_stem(source) == "edges" else base_stem(source))
    if name in (_INFO, _TRAIN, _HIT) or "/" in name:
        raise InputError(f"a collection cannot be called {name!r} here; give another name")
    hierarchy = read_hierarchy(source, on_error=on_error, report=report)
    count = _counted_pairs(hierarchy, source)
    documents = _documents(hierarchy, nodes, on_error, report)
    made = _Made(name, hierarchy, documents, chosen)
    with staged_folder(folder, overwrite=overwrite, owned=(_INFO, _TRAIN, _HIT, name)) as staging:
        info = write_examples(made.examples(), staging / _TRAIN, source=name)
        dropped = ErrorReport.from_dict(info.sources[0].dropped)
        report.merge(dropped)
        write_beir(made.collection(), staging / name)
        with gzip.GzipFile(staging / name / "edges.tsv.gz", "wb", mtime=0) as file:
            file.write(b"child\tparent\n")
            file.writelines(f"{child}\t{parent}\n".encode() for child, parent in made.edges)
        splits = split_pairs(hierarchy, share=chosen.share, seed=chosen.seed) if chosen.hit else {}
        for task, pairs in splits.items():
            for kind in NEGATIVES:
                made.write_pairs(staging / _HIT / f"{task}-{kind}", pairs, kind)
        described = HierarchyInfo(
            name=name,
            nodes=len(documents),
            edges=len(made.edges),
            pairs=count,
            roots=len(hierarchy.roots),
            deepest=max(hierarchy.depths.values()),
            queries={split: len(judged) for split, judged in made.qrels.items()},
            examples=info.examples,
            hit={task: {split: len(getattr(pairs, split)) for split in SPLITS} for task, pairs in splits.items()},
            options=chosen.model_dump(mode="json"),
            dropped=report.to_dict(),
        )
        write_json(staging / _INFO, described.model_dump(mode="json"))
    return described


class _Made:
    """What the parts of the folder are made of."""

    def __init__(
        self, name: str, hierarchy: Hierarchy, documents: Mapping[str, Document], options: HierarchyOptions
    ) -> None:
        self.name, self.hierarchy, self.documents, self.options = name, hierarchy, documents, options
        self.edges = [(child, parent) for child, above in hierarchy.parents.items() for parent in above]
        validation, test = held_out_leaves(hierarchy, share=options.share, seed=options.seed)
        self.held_out = validation | test
        asking = [node for node in hierarchy.nodes if node in hierarchy.parents]
        self.split_of = {node: "dev" if node in validation else "test" if node in test else "train" for node in asking}
        self.qrels: dict[str, Qrels] = {"train": {}, "dev": {}, "test": {}}
        for node, split in self.split_of.items():
            grades = {name: hop_grade(hops) for name, hops in self.answers(node).items()}
            self.qrels[split][f"q-{node}"] = grades

    def answers(self, node: str) -> dict[str, int]:
        """Return what is to be found for a node, with its hops."""
        return ({node: 0} if self.options.itself else {}) | self.hierarchy.ancestors(node)

    def query(self, node: str) -> Query:
        document = self.documents[node]
        # As in other collections of hierarchies; a document joins its title and its text by a blank.
        parts = [document.title, document.text] if self.options.queries == "text" else [_name(document)]
        # The node is a document too, and would always be found first.
        metadata = {"node": node} | ({} if self.options.itself else {"excluded_ids": [node]})
        return Query(f"q-{node}", ": ".join(part for part in parts if part.strip()), metadata)

    def examples(self) -> Iterator[TrainingExample]:
        """Yield the nodes that are not held out, with all of their ancestors; no other item is held out."""
        sampler = NegativeSampler(self.hierarchy, seed=self.options.seed, without=self.held_out)
        with progress("writing examples", unit="examples") as bar:
            for node, split in self.split_of.items():
                if split != "train":
                    continue
                query = self.query(node)
                above = self.answers(node)
                drawn = sampler.sample(node, self.options.negatives, self.options.training_negatives)
                example = TrainingExample(
                    Query(qualified(self.name, query.id), query.text, {"node": node}),
                    tuple(self._item(name, hops) for name, hops in above.items()),
                    tuple(self._item(name) for name in drawn),
                    self.name,
                    relevant=() if self.options.itself else (qualified(self.name, node),),
                )
                known = {qualified(self.name, one): self.documents[one] for one in (node, *above)}
                yield with_coarse(example, self.options.coarse, known)
                bar.advance()

    def _item(self, node: str, hops: int | None = None) -> ExampleItem:
        return ExampleItem(qualified(self.name, node), self.documents[node].full_text, hops=hops)

    def collection(self) -> Dataset:
        queries = [self.query(node) for node in self.split_of]
        return Dataset.from_records(self.name, list(self.documents.values()), queries=queries, qrels=self.qrels)

    def write_pairs(self, folder: Path, splits: PairSplits, kind: Negatives) -> None:
        sampler = NegativeSampler(self.hierarchy, seed=self.options.seed)
        folder.mkdir(parents=True)
        for split in SPLITS:
            pairs = getattr(splits, split)
            with (
                gzip_json_lines(folder / f"{split}.jsonl.gz") as write,
                progress(f"writing {folder.name} {split}", unit="pairs") as bar,
            ):
                for child, parent, hops in pairs:
                    named = {"child": self._entity(child), "parent": self._entity(parent)}
                    for negative in sampler.sample(child, self.options.negatives, kind):
                        write({**named, "negative": self._entity(negative), "hops": hops})
                    bar.advance()

    def _entity(self, node: str) -> str:
        if self.options.entities == "id":
            return node
        document = self.documents[node]
        return _name(document) if self.options.entities == "name" else document.full_text


def _name(document: Document) -> str:
    return document.title.strip() or document.text.strip()


def _counted_pairs(hierarchy: Hierarchy, source: Path) -> int:
    """Return the number of pairs of a node and an ancestor; it grows with the square of the depth, and all are held."""
    count = 0
    for node in hierarchy.nodes:
        count += len(hierarchy.ancestors(node))
        if count > _MOST_PAIRS:
            raise DataError(
                f"has more than {_MOST_PAIRS:,} pairs of a node and an ancestor, as its nodes are up to "
                f"{max(hierarchy.depths.values()):,} edges deep; give a hierarchy of kinds or parts, not long chains",
                path=source,
            )
    return count


def _found(source: Path, nodes: PathLike | None) -> tuple[Path, PathLike | None]:
    """Return the files of edges and of nodes."""
    if not source.is_dir():
        return source, nodes
    edges = [source / name for name in _EDGES if (source / name).is_file()]
    if not edges:
        raise DataError(f"has no {_EDGES[0]}, plain or .gz; give a file of children and parents", path=source)
    found = [source / name for name in _NODES if (source / name).is_file()]
    return edges[0], nodes or (found[0] if found else None)


def _documents(
    hierarchy: Hierarchy, nodes: PathLike | None, on_error: OnError, report: ErrorReport
) -> dict[str, Document]:
    """Return a document for every node; those without a text are called by their id."""
    given: Iterable[Document] = () if nodes is None else read_corpus(nodes, on_error=on_error, report=report)
    found = {document.id: document for document in given}
    for node in hierarchy.nodes:
        document = found.get(node)
        if document is None or not document.full_text:
            if nodes is not None:
                report.add("node_without_text", f"{node} has its id as its name")
            found[node] = Document(node, "", node)
    named = {name: _name(document) for name, document in found.items()}
    for node in hierarchy.nodes:
        document = found[node]
        path = [named[one] for one in (*reversed(hierarchy.path(node)), node)]
        metadata = {"path": path, "parents": list(hierarchy.parents.get(node, ())), **document.metadata}
        found[node] = Document(node, document.text, document.title, metadata)
    return found

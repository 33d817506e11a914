"""The demo behind `make demo`, every step in one call: data, index, search, training, evaluation, a picture.

It uses only public functions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hyperseek._files import atomic_write, writing
from hyperseek.data import Dataset, open_dataset
from hyperseek.errors import require
from hyperseek.evaluation import Comparison, compare, rank_bm25, rank_index
from hyperseek.index import Index
from hyperseek.models import Retriever, load
from hyperseek.scoring import Points, vectors_of
from hyperseek.training import read_recipe, train
from hyperseek.types import Hits

__all__ = ["DemoResult", "run_demo"]

# Of the Python standard library's documentation; none of them uses the words of an answer's name.
_QUESTIONS = (
    "find words that are spelled almost like this one",
    "make a password hash that is slow to guess",
    "wait until one of several running tasks is finished",
)
_MODEL = "minilm"
_RECIPE = "qnet-minilm-pydocs"

# Of the map.
_LABELLED = 5
_SEED = 0
_ACCENT = "#7df9ff"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Results of the demo.

    Attributes:
        folder: Holds the index, the trained model, `comparison.md`, `comparison.json` and `map.png`.
        hits: The best documents of each question, found by the untrained model.
        comparison: Frozen, trained and BM25 on held-out modules, with paired tests.
        picture: The map of the corpus.
        seconds: Time that each part took.
    """

    folder: Path
    hits: dict[str, Hits]
    comparison: Comparison
    picture: Path
    seconds: dict[str, float]


def run_demo(folder: str | os.PathLike[str] = "demo", *, tell: Callable[[str], None] = lambda _: None) -> DemoResult:
    """Build an index of the Python documentation, search it, train a q-net head, and measure the gain.

    Nothing is downloaded: the texts are the docstrings of the running Python's standard library, the encoder is the
    packaged MiniLM. An interrupted call can be resumed.

    Args:
        folder: Folder for all results; about 200 MiB.
        tell: Called with a line of text at the beginning and the end of each part.

    Returns:
        The hits, the comparison, and the path of the picture.

    Raises:
        ModelError: The packaged MiniLM is not installed.
        MissingExtraError: The extras `train`, `eval` or `plot` are not installed.
        WriteError: The folder cannot be made or is a file.
    """
    for module in ("bm25s", "Stemmer", "ir_measures"):  # before minutes of work rather than after them
        require(module, extra="eval")
    require("matplotlib", extra="plot")
    place = Path(folder)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    @contextmanager
    def part(name: str, text: str) -> Iterator[None]:
        tell(text)
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 1)
        tell(f"  {seconds[name]:.1f} s")

    dataset = open_dataset("pydocs")
    with part("index", f"1. Encoding {dataset.count():,} docstrings of the standard library"):
        frozen = load(_MODEL)
        index = Index.build(place / "index", dataset.documents(), frozen, total=dataset.count())
    with part("search", "2. Searching three questions"):
        hits = {question: index.search(question, k=3) for question in _QUESTIONS}
    with part("train", "3. Training a q-net head on the docstrings of other modules; the index stays as it is"):
        cache = [f"train.cache.folder={place / 'cache'}", f"train.cache.indexes=[{place / 'index'}]"]
        train(read_recipe(_RECIPE, cache), output=place / "model")
    with part("evaluate", "4. Measuring both on modules unseen in training"):
        comparison = _compare(place, dataset)
    with part("picture", "5. Drawing a map of the documentation"):
        picture = draw_map(place / "map.png", index, {"MiniLM": frozen, "q-net": load(place / "model")}, _QUESTIONS[0])
    return DemoResult(place, hits, comparison, picture, seconds)


def _compare(place: Path, dataset: Dataset) -> Comparison:
    judgements = dataset.qrels("test")
    rankings = [
        rank_index(Index.open(place / "index"), dataset, split="test", name="MiniLM"),
        rank_index(
            Index.open(place / "index", model=load(place / "model")), dataset, split="test", name="MiniLM + q-net"
        ),
        rank_bm25(dataset, split="test", name="BM25"),
    ]
    comparison = compare([ranking.evaluate(judgements) for ranking in rankings])
    comparison.save(place / "comparison.json")
    with atomic_write(place / "comparison.md") as file:
        file.write(comparison.to_markdown())
    return comparison


def draw_map(path: str | os.PathLike[str], index: Index, models: Mapping[str, Retriever], question: str) -> Path:
    """Draw every document as a dot near the documents it resembles, coloured by its score; one panel per model.

    Positions are a t-SNE of the vectors, the same in all panels. Colours show the rank of each score within its
    model, since the scores of different models have no common scale. The best documents are labelled, and a legend
    explains the colours.

    Args:
        path: PNG file to write.
        index: The corpus.
        models: Models with the index's document side, by the name to show.
        question: The query.

    Returns:
        The path.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ids, points = _all_points(index)
    positions = _positions(points)
    figure = Figure(figsize=(7.2 * len(models), 7.6), facecolor="#0e1117", layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, model) in enumerate(models.items(), 1):
        scores = model.compile([question]).score(points)[0]
        axes = figure.add_subplot(1, len(models), number)
        _panel(axes, name, positions, scores.numpy(), ids)
    _legend(figure)
    figure.suptitle(f"“{question}”", color="white", fontsize=17)
    figure.savefig(Path(path), dpi=110)
    return Path(path)


def _legend(figure: Any) -> None:
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    shades = colormaps["magma"]
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgewidth": 0}
    handles = [
        Line2D([], [], color=shades(0.08), markersize=4, label="a document that the model scores low", **dot),
        Line2D([], [], color=shades(0.6), markersize=6, label="scored higher", **dot),
        Line2D([], [], color=shades(0.98), markersize=8, label="among the highest", **dot),
        Line2D([], [], linestyle="none", marker="o", markersize=10, markerfacecolor="none", markeredgecolor=_ACCENT,
               label=f"the best {_LABELLED}, with rank and name"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, labelcolor="white", fontsize=11
    )


def _all_points(index: Index) -> tuple[list[str], Points]:
    ids: list[str] = []
    parts: list[Points] = []
    for names, points in index.points():
        ids.extend(names)
        parts.append(points)
    return ids, Points.concatenate(parts)


def _positions(points: Points) -> npt.NDArray[np.float64]:
    from sklearn.manifold import TSNE

    vectors = torch.nn.functional.normalize(vectors_of(points), dim=1).numpy()
    map_ = TSNE(n_components=2, metric="cosine", init="pca", perplexity=30, random_state=_SEED)
    return np.asarray(map_.fit_transform(vectors), dtype=np.float64)


def _panel(
    axes: Any, name: str, positions: npt.NDArray[np.float64], scores: npt.NDArray[np.float32], ids: Sequence[str]
) -> None:
    order = scores.argsort()
    ranks = np.empty(len(scores))
    # The square of the rank keeps the lower half dark, so that the few good documents stand out.
    ranks[order] = np.linspace(0, 1, len(scores)) ** 4
    axes.scatter(*positions[order].T, c=ranks[order], cmap="magma", s=6 + 26 * ranks[order], linewidths=0)
    best = order[::-1][:_LABELLED]
    axes.scatter(*positions[best].T, s=90, facecolors="none", edgecolors=_ACCENT, linewidths=1.4)
    span = np.ptp(positions, axis=0)
    heights = _spread(positions[best, 1], 0.035 * float(span[1]))
    for rank, (document, height) in enumerate(zip(best, heights, strict=True), 1):
        # Names of documents on the right half are written to their left, where there is room.
        left = positions[document, 0] < positions[:, 0].mean() + 0.1 * float(span[0])
        label = axes.annotate(
            f"{rank}  {ids[document]}",
            positions[document],
            xytext=(positions[document, 0] + (0.03 if left else -0.03) * float(span[0]), height),
            horizontalalignment="left" if left else "right",
            color="white",
            fontsize=10,
            arrowprops={"arrowstyle": "-", "color": _ACCENT, "lw": 0.6},
            bbox={"boxstyle": "round,pad=0.2", "fc": "#0e1117", "ec": "none", "alpha": 0.75},
        )
        # A long name may cover dots, but must not squeeze the map.
        label.set_in_layout(False)
    axes.set_title(name, color="white", fontsize=14)
    axes.set_facecolor("#0e1117")
    axes.set_axis_off()
    axes.margins(0.04)


def _spread(heights: npt.NDArray[np.float64], gap: float) -> list[float]:
    """Move labels up until they no longer cover one another."""
    placed: dict[int, float] = {}
    previous = -np.inf
    for position in np.argsort(heights):
        previous = max(float(heights[position]), previous + gap)
        placed[int(position)] = previous
    return [placed[position] for position in range(len(heights))]

"""What `make demo` does, with nothing but the public functions of the other packages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hyperseek._errors import require
from hyperseek._files import atomic_write, writing
from hyperseek.data import Dataset, open_dataset
from hyperseek.demo._picture import draw_map
from hyperseek.evaluation import Comparison, compare, rank_bm25, rank_index
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.records import Hit
from hyperseek.training import read_recipe, train

QUESTIONS = (
    "find words that are spelled almost like this one",
    "make a password hash that is slow to guess",
    "wait until one of several running tasks is finished",
)
"""Asked of the Python standard library's own documentation; none of them uses the words of an answer's name."""

_MODEL = "minilm"
_RECIPE = "qnet-minilm-pydocs"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made.

    Attributes:
        folder: Holds the index, the trained model, `comparison.md`, `comparison.json` and `map.png`.
        hits: The best documents of each question, found by the untrained model.
        comparison: Frozen, trained and BM25 on held-out modules, with paired tests.
        picture: The map of the corpus.
        seconds: Time of each part.
    """

    folder: Path
    hits: dict[str, list[Hit]]
    comparison: Comparison
    picture: Path
    seconds: dict[str, float]


def run_demo(folder: str | os.PathLike[str] = "demo", *, tell: Callable[[str], None] = lambda _: None) -> DemoResult:
    """Build an index of the Python documentation, search it, train a q-net head, and measure what that gained.

    Nothing is downloaded: the texts are the docstrings of the running Python's standard library, the encoder is the
    packaged MiniLM. What a killed call finished is not done again.

    Args:
        folder: Where everything goes; about 200 MiB.
        tell: Called with a line of text for a person at the beginning and the end of each part.

    Returns:
        The hits, the comparison, and where the picture is.

    Raises:
        ModelError: The packaged MiniLM is not installed.
        MissingExtraError: The extras `train`, `eval` or `plot` are not installed.
        WriteError: The folder cannot be made or is a file.
    """
    for module in ("bm25s", "Stemmer", "ir_measures"):  # before minutes of work, not behind them
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
        hits = {question: index.search(question, k=3) for question in QUESTIONS}
    with part("train", "3. Training a q-net head on the docstrings of other modules; the index stays as it is"):
        cache = [f"train.cache.folder={place / 'cache'}", f"train.cache.indexes=[{place / 'index'}]"]
        train(read_recipe(_RECIPE, cache), output=place / "model")
    with part("evaluate", "4. Measuring both on modules that training never saw"):
        comparison = _compare(place, dataset)
    with part("picture", "5. Drawing a map of the documentation"):
        picture = draw_map(place / "map.png", index, {"MiniLM": frozen, "q-net": load(place / "model")}, QUESTIONS[0])
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

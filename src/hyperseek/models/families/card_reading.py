"""Reading a task card: its texts become vectors of the frozen encoder, once for each card.

A card is compared with those of the training by what is saved of them, so that their texts are not encoded again. What
it was compiled to is kept in a file, which saves reading it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hyperseek._config import Config
from hyperseek._files import read_json, read_tensors, write_tensors
from hyperseek._fingerprint import fingerprint_json
from hyperseek._machine import Kept
from hyperseek.cards import Card
from hyperseek.errors import HyperseekError, ModelError, WriteError, shortened, shown
from hyperseek.models.retriever import Side
from hyperseek.nn.card_encoder import CardFeatures, EncoderName, distances

logger = logging.getLogger(__name__)

Encode: TypeAlias = Callable[[Sequence[str], Side], Tensor]
Divide: TypeAlias = Callable[[str, Side], list[str]]

_REMEMBERED = 1 << 26  # bytes of vectors
_LARGEST_CARDS = 1 << 28  # bytes of a file of them
_DIVIDED = 1 << 13  # texts whose parts are remembered
_READ_SETS = ("attention", "statistics")
_MOST_KEPT = 256  # files of compiled cards in a folder
_KEPT_FILES = "[0-9a-f]" * 32 + ".safetensors"  # named by fingerprints


class SeenCard(Config):
    """A card of the training.

    Attributes:
        card: The card.
        means: Its description, mean query and mean document, as the encoder gives them.
    """

    card: Card
    means: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def read_seen(path: str, dimension: int) -> tuple[SeenCard, ...]:
    """Read the cards that are saved with a model.

    Args:
        path: Their file.
        dimension: Numbers of a vector.

    Returns:
        The cards.

    Raises:
        ModelError: The file is damaged, or of another model.
    """
    listed = read_json(path, "the cards of a model", error=ModelError, largest=_LARGEST_CARDS)
    if not isinstance(listed, list):
        raise ModelError(f"{path} must hold a list of cards, not {shown(listed)}")
    found = tuple(SeenCard.from_mapping(each, source=path, error=ModelError) for each in listed)
    if any(len(part) != dimension for seen in found for part in seen.means):
        raise ModelError(f"{path} holds vectors of another size than the model's, {dimension}")
    if not all(torch.tensor(seen.means).norm(dim=-1).isfinite().all() for seen in found):
        raise ModelError(f"{path} holds numbers that are too large for vectors")
    return found


class CardReader:
    """Reads cards, and remembers what they say.

    Args:
        dimension: Numbers of a vector.
        kind: The card encoder, which decides what is read.
        unit: Whether vectors have norm 1.
    """

    def __init__(self, dimension: int, kind: EncoderName, *, unit: bool) -> None:
        self._dimension = dimension
        self._kind = kind
        self._unit = unit
        self._encode: Encode | None = None
        self._divide: Divide = _whole
        self._known = Kept(most_bytes=_REMEMBERED)

    def take(self, encode: Encode, divide: Divide | None) -> None:
        """Take the functions that read texts; see `CardHead.reads_texts`."""
        self._encode = encode
        if divide is not None:
            # Cards of training have the same examples again and again, and dividing a text is tokenising it.
            self._divide = lru_cache(maxsize=_DIVIDED)(divide)
        self._known = Kept(most_bytes=_REMEMBERED)

    def name(self, card: Card) -> str:
        """Return what identifies a card: its content, and its name where that is read, as in Hydra's text."""
        return fingerprint_json([card.name, card.fingerprint]) if self._kind == "text" else card.fingerprint

    def features(self, card: Card) -> CardFeatures:
        """Return the vectors of a card's texts; see `CardHead.card_features`."""

        def make() -> CardFeatures:
            with torch.inference_mode(False), torch.no_grad():  # training uses them, too
                return self._read(card)

        found: CardFeatures = self._known.get(
            self.name(card), make, size=lambda made: sum(part.nbytes for part in made.parts)
        )
        return found

    def _read(self, card: Card) -> CardFeatures:
        if self._encode is None:
            raise ModelError("a card cannot be read: ask through hyperseek.load(...), whose model encodes its texts")
        none = torch.empty(0, self._dimension)
        if self._kind == "text":
            text = card.to_text()
            if (parts := len(self._divide(text, "document"))) > 1:
                logger.warning(
                    "the text of the card %r is cut, as in Hydra: it is about %d times as long as what the model "
                    "reads; other card encoders read all of a card",
                    card.name,
                    parts,
                )
            return CardFeatures(self._unit_length(self._encode([text], "document"))[0], none, none)
        description = self._vectors(self._encode, [card.about], "query")[0]
        if self._kind not in _READ_SETS:
            return CardFeatures(description, none, none)
        queries = [*card.query_examples, *(pair.query for pair in card.judged)]
        documents = [*card.doc_examples, *(pair.document for pair in card.judged if pair.grade)]
        return CardFeatures(
            description,
            self._vectors(self._encode, queries, "query"),
            self._vectors(self._encode, documents, "document"),
        )

    def _vectors(self, encode: Encode, texts: Sequence[str], side: Side) -> Tensor:
        """Encode distinct texts, each as the mean of its parts."""
        if not texts:
            return torch.empty(0, self._dimension)
        parts = [self._divide(text, side) for text in dict.fromkeys(texts)]
        vectors = self._unit_length(encode([part for own in parts for part in own], side))
        means = torch.stack([part.mean(dim=0) for part in torch.split(vectors, [len(own) for own in parts])])
        return self._unit_length(means)

    def _unit_length(self, vectors: Tensor) -> Tensor:
        """Return vectors as points of the space are: of norm 1 where it is one of unit vectors."""
        return nn.functional.normalize(vectors.float(), dim=-1) if self._unit else vectors.float()


class Comparison:
    """How far cards are from those of the training.

    Args:
        seen: The cards of the training.
        reader: Says what identifies a card.
    """

    def __init__(self, seen: tuple[SeenCard, ...], reader: CardReader) -> None:
        self.seen = seen
        self._names = [reader.name(each.card) for each in seen]
        self._name = reader.name
        self._means = torch.tensor([each.means for each in seen])  # (n, 3, d)

    def named(self, means: Sequence[Tensor]) -> list[tuple[str, float]]:
        """Return names and distances, the nearest first; see `CardHead.nearest_tasks`."""
        far = self._distances(means).tolist()
        named = [(each.card.name, distance) for each, distance in zip(self.seen, far, strict=True)]
        return sorted(named, key=lambda pair: pair[1])

    def nearest(self, means: Sequence[Tensor] | Tensor) -> Tensor:
        """Return the distance to the nearest task, 0-dim; 0 where none is known."""
        return self._distances(means).min() if self.seen else means[0].new_zeros(())

    def nearest_other(self, name: str, means: Sequence[Tensor] | Tensor) -> Tensor:
        """Return the distance to the nearest task that has another card; 0 without one.

        Args:
            name: What identifies the card.
            means: Of the card, as in `CardFeatures`.

        Returns:
            0-dim.
        """
        others = [place for place, known in enumerate(self._names) if known != name]
        return self._distances(means)[others].min() if others else means[0].new_zeros(())

    def unlike(self, card: Card, means: Sequence[Tensor]) -> str:
        """Return a warning about a card that is farther from those of the training than they are; else nothing."""
        if self.farthest is None or self._name(card) in self._names:
            return ""
        nearest, distance = self.named(means)[0]
        if distance <= self.farthest:
            return ""
        return (
            f"the card {card.name!r} is unlike all cards of the model's training: its distance to the nearest, "
            f"{nearest!r}, is {distance:.2f}, and none of theirs is above {self.farthest:.2f}; measure before you "
            f"rely on it"
        )

    @cached_property
    def farthest(self) -> float | None:
        """The largest distance from a card of the training to the nearest other one; None for fewer than two."""
        if len(self.seen) < 2:
            return None
        return max(float(self.nearest_other(*one)) for one in zip(self._names, self._means, strict=True))

    def _distances(self, means: Sequence[Tensor] | Tensor) -> Tensor:
        return distances(means, self._means.to(means[0].device)) if self.seen else means[0].new_zeros(0)


def _whole(text: str, side: Side) -> list[str]:
    return [text]


@dataclass(frozen=True)
class CompiledFile:
    """The file of a compiled card; who misses one compiles the card again.

    Attributes:
        path: Its place.
    """

    path: Path

    def read(self, count: int, device: torch.device) -> tuple[Tensor, str] | None:
        """Return the `(count,)` numbers, and the warning about the card or nothing; None without a file that fits."""
        if not self.path.is_file():
            return None
        try:
            tensors, notes = read_tensors(self.path, "a compiled card", device=device)
            numbers = tensors["numbers"]
        except (HyperseekError, KeyError) as error:
            logger.warning("%s; the card is compiled again", error)
            return None
        fits = numbers.dtype == torch.float32 and numbers.shape == (count,) and bool(numbers.isfinite().all())
        return (numbers, shortened(notes.get("unlike", ""))) if fits else None

    def write(self, numbers: Tensor, card: Card, unlike: str) -> None:
        """Keep numbers, if the disk lets us, and delete the oldest files beyond the newest 256."""
        try:
            write_tensors(self.path, {"numbers": numbers}, {"card": card.name, "unlike": unlike})
        except WriteError as error:
            logger.info("the compiled card is not kept: %s", error)
            return
        found = []
        for path in self.path.parent.glob(_KEPT_FILES):
            with suppress(OSError):  # another process has deleted it
                found.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(found)[:-_MOST_KEPT]:
            with suppress(OSError):  # or has it open, on Windows
                path.unlink()

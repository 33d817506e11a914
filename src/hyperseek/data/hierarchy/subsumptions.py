"""Pairs of a child and an ancestor, what is told from them, and their splits, as in HiT (arXiv 2401.11374).

**Multi-hop inference** trains on all edges and asks for ancestors further up, which follow from them. **Mixed-hop
prediction** holds out edges too: nothing in training implies them. Of the edges, and of the further pairs, 5 % each are
for validation and for the test. Entities are not held out; `held_out_leaves` does that.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, get_args

from hyperseek._ancestors import Hierarchy
from hyperseek.errors import InputError

T = TypeVar("T")
Pair: TypeAlias = tuple[str, str, int]
"""A child, one of its ancestors, and the hops between them."""

Negatives: TypeAlias = Literal["random", "hard"]
"""Any nodes that are not above the child, or its siblings, and others if these are too few."""

NEGATIVES: tuple[Negatives, ...] = get_args(Negatives)
"""Their kinds."""

SPLITS = ("train", "validation", "test")


class NegativeSampler:
    """Draws nodes that are neither a given one nor above it.

    Args:
        hierarchy: The hierarchy.
        seed: Seed of the draws, which depend on the order in which they are asked for.
        without: Nodes that are never drawn.
    """

    def __init__(self, hierarchy: Hierarchy, *, seed: int, without: Collection[str] = ()) -> None:
        self._hierarchy = hierarchy
        self._without = frozenset(without)
        self._nodes = [name for name in hierarchy.nodes if name not in self._without]
        self._draw = random.Random(f"{seed}-negatives")

    def sample(self, child: str, count: int, kind: Negatives) -> list[str]:
        """Draw negatives of a child.

        Args:
            child: A node.
            count: How many; fewer if there are no more.
            kind: Of which nodes.

        Returns:
            Distinct nodes, siblings first.
        """
        above = {child, *self._hierarchy.ancestors(child)}
        count = min(count, len(self._nodes))
        found: dict[str, None] = {}
        if kind == "hard":
            siblings = dict.fromkeys(
                sibling
                for parent in self._hierarchy.parents.get(child, ())
                for sibling in self._hierarchy.children[parent]
                if sibling not in above and sibling not in self._without
            )
            found |= dict.fromkeys(self._draw.sample(list(siblings), min(count, len(siblings))))
        # Nearly all nodes can be drawn; where few can, they are listed.
        tries = 10 * count
        while len(found) < count and tries and self._nodes:
            tries -= 1
            name = self._draw.choice(self._nodes)
            if name not in above:
                found[name] = None
        if len(found) < count:
            left = [name for name in self._nodes if name not in above and name not in found]
            found |= dict.fromkeys(self._draw.sample(left, min(count - len(found), len(left))))
        return list(found)


@dataclass(frozen=True, slots=True)
class PairSplits:
    """The pairs of one task.

    Attributes:
        train: Pairs to train on.
        validation: Pairs to choose settings on.
        test: Pairs to report.
    """

    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]


def split_pairs(hierarchy: Hierarchy, *, share: float = 0.05, seed: int = 42) -> dict[str, PairSplits]:
    """Split the pairs of a hierarchy.

    Args:
        hierarchy: The hierarchy.
        share: Share of the edges, and of the pairs further apart, for validation and for the test, each; in (0, 0.5).
        seed: Seed of the draws.

    Returns:
        `multi_hop` and `mixed_hop`; the second alone where no ancestor is further than one hop away.

    Raises:
        InputError: There are too few pairs for the share.
    """
    pairs = [(child, name, hops) for child in hierarchy.nodes for name, hops in hierarchy.ancestors(child).items()]
    edges = [pair for pair in pairs if pair[2] == 1]
    further = [pair for pair in pairs if pair[2] > 1]
    kept, *edges_held = _parts(edges, share, random.Random(f"{seed}-edges"), "edges")
    if not further:
        return {"mixed_hop": PairSplits(kept, *edges_held)}
    _, *further_held = _parts(further, share, random.Random(f"{seed}-further"), "pairs of two hops and more")
    validation, test = ([*one, *other] for one, other in zip(edges_held, further_held, strict=True))
    return {"multi_hop": PairSplits(edges, *further_held), "mixed_hop": PairSplits(kept, validation, test)}


def held_out_leaves(hierarchy: Hierarchy, *, share: float = 0.05, seed: int = 42) -> tuple[set[str], set[str]]:
    """Draw leaves for validation and for the test; nothing is below them, so no other node needs them.

    Args:
        hierarchy: The hierarchy.
        share: Share of the leaves in each, in (0, 0.5).
        seed: Seed of the draw.

    Returns:
        Their ids; at least one each.

    Raises:
        InputError: There are too few leaves for the share.
    """
    _, validation, test = _parts(hierarchy.leaves, share, random.Random(f"{seed}-leaves"), "leaves")
    return set(validation), set(test)


def _parts(items: Sequence[T], share: float, draw: random.Random, what: str) -> tuple[list[T], list[T], list[T]]:
    """Return what is left, in order, and two drawn parts of at least one each."""
    if not 0 < share < 0.5:
        raise InputError(f"share must be above 0 and below 0.5, not {share}")
    count = max(1, round(share * len(items)))
    if len(items) <= 2 * count:
        raise InputError(f"a hierarchy with {len(items)} {what} is too small to hold out {count} twice")
    drawn = draw.sample(range(len(items)), 2 * count)
    held = set(drawn)
    left = [item for place, item in enumerate(items) if place not in held]
    first, second = ([items[place] for place in sorted(part)] for part in (drawn[:count], drawn[count:]))
    return left, first, second

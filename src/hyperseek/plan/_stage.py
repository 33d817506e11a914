"""Stages: the parts that search plans are made of."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from hyperseek._config import Config
from hyperseek.plan._candidates import Candidates
from hyperseek.plan._context import Search

if TYPE_CHECKING:
    from hyperseek.plan._combine import Union
    from hyperseek.plan._plan import Plan


class Source(Config):
    """A stage that finds candidates. `a | b` is the union of two, `a >> stage` a plan.

    Attributes:
        n: Candidates of each query.
    """

    n: int

    @abstractmethod
    def find(self, search: Search) -> Candidates:
        """Find candidates for the queries of a search."""

    @property
    def title(self) -> str:
        """Name of the stage in explanations."""
        return str(getattr(self, "kind", type(self).__name__))

    def __or__(self, other: Source) -> Union:
        from hyperseek.plan._combine import Union

        parts = [*(self.sources if isinstance(self, Union) else [self]), other]
        return Union(sources=parts)  # type: ignore[arg-type]  # pydantic makes the tuple of known stages

    def __rshift__(self, other: Step) -> Plan:
        from hyperseek.plan._plan import Plan

        return Plan(stages=[self, other])  # type: ignore[arg-type]


class Step(Config):
    """A stage that turns candidates into other candidates."""

    @abstractmethod
    def apply(self, search: Search, candidates: Candidates) -> Candidates:
        """Turn candidates into others."""

    @property
    def title(self) -> str:
        """Name of the stage in explanations."""
        return str(getattr(self, "kind", type(self).__name__))

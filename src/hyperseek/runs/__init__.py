"""Shared code of training runs: loop, clock, record and resuming. Internal: it exports nothing."""

from hyperseek.errors import require

# Without these, imports of this package's modules fail deep inside transformers.
for _package in ("accelerate", "datasets"):
    require(_package, extra="train")

__all__: list[str] = []

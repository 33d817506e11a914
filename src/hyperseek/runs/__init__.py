"""What every long training run shares: its loop, clock, record and way to resume. Internal: it exports nothing."""

from hyperseek.errors import require

# Without these, what the modules of this package import fails deep inside of transformers.
for _package in ("accelerate", "datasets"):
    require(_package, extra="train")

__all__: list[str] = []

"""What every long training run shares: its loop, clock, record and way to resume. Internal: it exports nothing."""

__all__: list[str] = []

"""Forked processes: Lance reads tables with threads of its own, which a forked child has not.

Some calls of such a child wait for ever, others crash it. Nothing that a child can do helps, so it is told.
"""

from __future__ import annotations

import os

from hyperseek._errors import StoreError

_users: list[int] = []
"""The process that used tables first, if there was one: this one, or one that it was forked from."""


def use_tables() -> None:
    """Note that this process reads or writes tables.

    Raises:
        StoreError: It was forked from one that had done so before.
    """
    process = os.getpid()
    if not _users:
        _users.append(process)
    if _users[0] != process:
        raise StoreError(
            f"the process {process} was forked after its parent {_users[0]} had opened an index, and can open none: "
            f"threads that read the disk are not forked. Fork first and open the index in each process, or start "
            f"processes with the method 'spawn' or 'forkserver' of multiprocessing"
        )

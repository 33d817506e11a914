"""What tests of the server share: a server in a thread, and texts for an index."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conftest import WORDS


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an app by uvicorn in a thread, at a free port; the URL."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def texts(count: int, *, seed: int = 0) -> list[str]:
    """Return texts of known words, all different."""
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(4, 30))) for _ in range(count)]

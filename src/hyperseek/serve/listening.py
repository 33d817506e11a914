"""How servers listen, and how they stop."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from hyperseek.errors import InputError
from hyperseek.serve.keys import keys_of_environment

logger = logging.getLogger("hyperseek.serve")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Listen at an address, with a warning where other machines reach it and no API keys are set.

    Args:
        host: Name or number of this machine.
        port: 0 for a free one.

    Yields:
        A socket, and the URL of what answers at it.

    Raises:
        InputError: The address cannot be listened at.
    """
    if not is_loopback(host) and not keys_of_environment():
        logger.warning("anybody who reaches this address may ask: no API keys are set")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once, instead of waiting for the client's acknowledgement (40 ms), only where TCP is named.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            said = f"cannot listen at {host}:{port} ({error.strerror}); give another --port or --host"
            raise InputError(said) from None
        name, port = listener.getsockname()[:2]
        yield listener, f"http://{f'[{name}]' if ':' in name else name}:{port}"


class Server(uvicorn.Server):
    """Answers the requests that run when it is told to stop, and then ends as a program that has done its work.

    Args:
        config: Of uvicorn.
        ready: Called when it listens.
        seconds: How long a connection may take to send the head of a request, and to read its answer.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], seconds: float) -> None:
        super().__init__(config)
        self._ready = ready
        self._seconds = seconds
        self._idle: dict[Any, tuple[Any, float]] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done ten times a second."""
        if counter % 10 == 0:
            self._end_idle()
        return await super().on_tick(counter)

    def _end_idle(self) -> None:
        """End connections that send no whole head of a request, or do not read their answer; uvicorn keeps them."""
        before, now, self._idle = self._idle, time.monotonic(), {}
        for connection in tuple(self.server_state.connections):
            transport, request = connection.transport, getattr(connection, "cycle", None)
            if request is not None and not request.response_complete and not transport.is_closing():
                continue  # it is answered, within a time that the gate bounds
            last, since = before.get(connection, (request, now))
            if last is not request:
                since = now
            if now - since > self._seconds:
                transport.abort()  # closing would wait until the client has read the rest
            else:
                self._idle[connection] = (request, since)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at Ctrl-C and SIGTERM, without raising them again."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

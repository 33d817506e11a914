"""The connection of a client to a server: attempts while it is busy, the time that they may take, and its errors."""

from __future__ import annotations

import functools
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from hyperseek.errors import HyperseekError, InputError, ServerError, brief, error_named, shown

T = TypeVar("T")

_MOST_BYTES = 1 << 28  # of an answer
_LONGEST_WAIT = 10.0  # seconds between attempts, where the server does not say
_LONGEST_TIMEOUT = 1_000_000  # seconds; sockets take no more everywhere


class Connection:
    """Asks a server, again where it is busy, and turns its errors into ours; see `connect` for the arguments."""

    def __init__(self, url: str, *, api_key: str | None, timeout: float) -> None:
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname)
        except (TypeError, ValueError, AttributeError):
            known = False
        if not known or "@" in parts.netloc:
            raise InputError("the address of a server is as http://127.0.0.1:8080, without a user name or a password")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST_TIMEOUT:
            most = f"{_LONGEST_TIMEOUT:,}"
            raise InputError(f"timeout is a number of seconds above 0, at most {most}, not {shown(timeout)}")
        if api_key and not (isinstance(api_key, str) and api_key.isascii() and api_key.isprintable()):
            raise InputError("an API key consists of printable ASCII characters")
        self.url = url.rstrip("/")
        self._timeout = float(timeout)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            proxies = parts.hostname not in ("127.0.0.1", "::1", "localhost")  # which no proxy leads to
            self._client = httpx.Client(base_url=self.url, headers=headers, trust_env=proxies)
        except (httpx.InvalidURL, ValueError, OSError, ImportError) as error:  # also of proxies and certificates
            raise InputError(f"the address {shown(url)} cannot be used: {brief(error)}") from None

    def close(self) -> None:
        """Close it."""
        self._client.close()

    def indexes(self) -> list[dict[str, Any]]:
        """Return what the server says of its indexes."""
        listed = self.ask("GET", "/indexes")
        return self.read(lambda: [{**one, "name": str(one["name"])} for one in listed])

    def read(self, make: Callable[[], T]) -> T:
        """Return what is made of an answer; ServerError if it is not one that a server of hyperseek gives."""
        try:
            return make()
        except HyperseekError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
            raise ServerError(f"{self.url} did not answer as a server of hyperseek; check the address") from None

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the value of an answer, or raise the error that the server raised."""
        try:
            content = None if body is None else json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"this cannot be sent, since it is not plain JSON: {brief(error)}") from None
        if self._client.is_closed:
            raise InputError(f"this connection to {self.url} was closed; connect again")
        deadline, attempt = time.monotonic() + self._timeout, 0
        while True:
            attempt += 1
            status, headers, text = self._sent(method, path, content, deadline, again=attempt == 1)
            if 200 <= status < 300:
                return self.read(functools.partial(json.loads, text, parse_constant=_no_number))
            wait = _wait(status, headers, attempt)
            if wait is None or time.monotonic() + wait >= deadline:
                raise self._error(status, text)
            time.sleep(wait)

    def _sent(
        self, method: str, path: str, content: bytes | None, deadline: float, *, again: bool
    ) -> tuple[int, httpx.Headers, bytes]:
        headers = {} if content is None else {"Content-Type": "application/json"}
        left = max(0.001, deadline - time.monotonic())
        try:
            with self._client.stream(method, path, content=content, headers=headers, timeout=left) as answer:
                text = bytearray()
                for part in answer.iter_bytes():
                    text += part
                    if len(text) > _MOST_BYTES:
                        raise ServerError(f"the answer of {self.url} has more than {_MOST_BYTES:,} bytes; ask for less")
                    if time.monotonic() > deadline:
                        raise self._late()
                return answer.status_code, answer.headers, bytes(text)
        except httpx.TimeoutException:
            raise self._late() from None
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            # A server may close a connection that was kept open, just as the next request is sent.
            if again and path != "/documents":
                return self._sent(method, path, content, deadline, again=False)
            raise ServerError(f"the server {self.url} ended the connection: {brief(error)}") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise ServerError(f"the server {self.url} cannot be reached: {brief(error)}") from None

    def _late(self) -> ServerError:
        return ServerError(
            f"the server {self.url} did not answer within {self._timeout:g} s; ask for less, or give a longer timeout"
        )

    def _error(self, status: int, text: bytes) -> HyperseekError:
        try:
            said = json.loads(text)["error"]
            kind, message = str(said["type"]), str(said["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ServerError(f"the server {self.url} answered with status {status}, and not as one of hyperseek does")
        return error_named(kind, message) or ServerError(f"{self.url}: {message}")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _wait(status: int, headers: Mapping[str, str], attempt: int) -> float | None:
    """Return the seconds before the next attempt; None where there is no use in one."""
    asked = headers.get("retry-after", "")
    if status not in (429, 503) or (status == 503 and not asked):
        return None
    if asked.isascii() and asked.isdecimal() and len(asked) < 6:
        return max(0.05, float(asked))
    return min(_LONGEST_WAIT, 0.25 * 2.0**attempt) * random.uniform(0.5, 1)

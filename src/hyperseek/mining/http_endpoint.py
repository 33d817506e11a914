"""Requests to a model behind an HTTP endpoint: retries, bounds, and where a key may travel.

The address and the key come from the caller or the environment, never from data; the key is sent to that address alone,
redirects are refused, and answers are read within bounds.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from hyperseek._bounded import json_value
from hyperseek.errors import InputError, ModelError, brief, shortened, shown

_LARGEST_ANSWER = 1 << 24  # bytes
_PART = 1 << 16
_LONGEST_WAIT = 60.0  # seconds before another attempt, whatever the server asks for
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # answers that may differ a moment later
_REFUSED = frozenset({400, 413, 422})  # of one request; the next one may be answered

logger = logging.getLogger(__name__)


class RefusedError(ModelError):
    """An endpoint refuses one request, as one that is too long; others may be answered."""


class Endpoint:
    """One method of an endpoint.

    Args:
        what: What is behind it, for messages, as in `the teacher openai:small`.
        url: The endpoint, as in `https://api.example.com/v1`, with or without the method's own path.
        path: The method's path, as in `/chat/completions`.
        key: Sent as a bearer token; None sends none.
        key_variable: The environment's variable that holds the key, for messages.
        timeout: Seconds to wait for an answer.
        retries: Further attempts after a busy server or a lost connection.
        wait: Seconds before the first of them; each further wait is twice as long.

    Raises:
        InputError: The address or a number cannot be used, or a key would travel unencrypted.
    """

    def __init__(
        self,
        what: str,
        url: str,
        path: str,
        *,
        key: str | None = None,
        key_variable: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        wait: float = 1.0,
    ) -> None:
        self.url = check_address(url, key) + ("" if url.rstrip("/").endswith(path) else path)
        if retries < 0 or timeout <= 0:
            raise InputError(
                f"an endpoint needs retries of 0 or more and a timeout above 0, not {retries} and {timeout}"
            )
        self._what, self._key, self._key_variable = what, key, key_variable
        self._timeout, self._retries, self._wait = timeout, retries, wait
        self._opener = urllib.request.build_opener(_NoRedirect())

    def ask(self, body: Mapping[str, Any]) -> Any:
        """Return the answer to a request, asking again while the server is busy.

        Args:
            body: Plain values, sent as JSON.

        Returns:
            The answer's JSON.

        Raises:
            RefusedError: The endpoint refuses this request.
            ModelError: It refuses all, cannot be reached, or answers something else than JSON.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "hyperseek"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        wait = self._wait
        for attempt in range(self._retries + 1):
            asked_to_wait: float | None = None
            try:
                with self._opener.open(request, timeout=self._timeout) as answer:
                    return self._value(self._content(answer))
            except urllib.error.HTTPError as error:
                reason = f"answers {error.code} {error.reason}{self._detail(error)}"
                if error.code not in _BUSY:
                    refused = RefusedError if error.code in _REFUSED else ModelError
                    raise refused(str(self.error(f"{reason}{self._advice(error.code)}"))) from None
                asked_to_wait = _seconds(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
                reason = f"cannot be reached ({brief(getattr(error, 'reason', None) or error)})"
            if attempt < self._retries:
                pause = min(wait if asked_to_wait is None else asked_to_wait, _LONGEST_WAIT)
                logger.info("%s %s; asking again in %.3g s", self.url, reason, pause)
                time.sleep(pause)
                wait *= 2
        attempts = self._retries + 1
        raise self.error(
            f"{reason}, {attempts} time{'s' * (attempts > 1)}; check the address, or run the same command later, which "
            f"resumes"
        )

    def error(self, reason: str) -> ModelError:
        """Return an error that says what the endpoint does wrong."""
        return ModelError(f"{self._what} at {self.url} {reason}")

    def _content(self, answer: http.client.HTTPResponse) -> bytes:
        """Read an answer within bounds of size and time: a server may send a byte now and then, without end."""
        end = time.monotonic() + self._timeout
        content = bytearray()
        while part := answer.read1(_PART):
            content += part
            if len(content) > _LARGEST_ANSWER:
                raise self.error(f"answers with more than {_LARGEST_ANSWER:,} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"its answer has not ended after {self._timeout:g} s")
        if answer.length:  # the connection was closed before
            raise http.client.IncompleteRead(bytes(content), answer.length)
        return bytes(content)

    def _value(self, content: bytes) -> Any:
        if self._key:  # an echo must reach no message and no file
            content = content.replace(self._key.encode(), b"(key)")
        try:
            return json_value(content.decode("utf-8"))
        except ValueError as error:
            raise self.error(f"answers with something that is not JSON ({brief(error)})") from None

    def _detail(self, error: urllib.error.HTTPError) -> str:
        try:
            text = " ".join(error.read(10_000).decode("utf-8", "replace").split())
        except (OSError, http.client.HTTPException):
            return ""
        if self._key:
            text = text.replace(self._key, "(key)")
        return f": {shortened(text)}" if text else ""

    def _advice(self, code: int) -> str:
        if code in (401, 403):
            return f"; check the key in {self._key_variable}" if self._key_variable else "; check the key"
        if code == 404:
            return "; check the address and the model's name"
        return "; redirects are not followed, give the final address" if 300 <= code < 400 else ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would carry the key to another address."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def check_address(url: str, key: str | None = None) -> str:
    """Return an endpoint's address without a final slash.

    Args:
        url: The address.
        key: What would be sent to it.

    Returns:
        The address.

    Raises:
        InputError: It is none, or the key would travel unencrypted to another machine, or no header can carry it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{shown(url)} is not an address ({brief(error)}); give https://HOST/PATH") from None
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        raise InputError(f"{shown(url)} is not an address; give https://HOST/PATH without user, query or fragment")
    if key and parts.scheme == "http" and not _is_local(host):
        raise InputError(f"the key would travel unencrypted to {host}; give an https:// address")
    if key and not (key.isascii() and key.isprintable()):
        raise InputError("the endpoint's key has characters that no header can carry; set it again")
    return url.rstrip("/")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(header: str | None) -> float | None:
    try:
        seconds = float(header or "")
    except ValueError:
        return None  # none, or a date
    return seconds if 0 <= seconds < math.inf else None

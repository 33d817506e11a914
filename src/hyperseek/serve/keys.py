"""API keys of servers: where they are read from, and whether a request has one."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping

KEYS_VARIABLE = "HYPERSEEK_API_KEYS"


def keys_of_environment() -> tuple[str, ...]:
    """Return the API keys that the environment names; none where requests need no key."""
    return tuple(key for part in os.environ.get(KEYS_VARIABLE, "").split(",") if (key := part.strip()))


class Keys:
    """The keys that a server takes, of which it keeps digests.

    Args:
        keys: None where requests need no key.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def admit(self, headers: Mapping[str, str]) -> bool:
        """Whether a request may pass, by its headers, whose names are in small letters."""
        if not self._digests:
            return True
        given = _digest(_key(headers).encode("latin-1"))
        # All are compared, and whole, so that the time says nothing about them.
        return sum(hmac.compare_digest(given, own) for own in self._digests) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", headers.get("api-key", ""))

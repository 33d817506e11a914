"""The few rules of the protobuf wire format that reading one foreign file needs.

A message is a sequence of fields: a key (number and wire type, as a variable-length integer) and a value. See
"Encoding" in the Protocol Buffers documentation.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Split a message into its fields.

    Args:
        message: One serialised message.

    Yields:
        Field number and value: an integer for variable-length integers, bytes for everything else.

    Raises:
        ValueError: The message is cut short or is none.
    """
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = _read_varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} is not known")
        if position + size > len(message):
            raise ValueError(f"field {number} needs {size} bytes and {len(message) - position} are left")
        yield number, message[position : position + size]
        position += size


def read_varints(packed: bytes) -> list[int]:
    """Read a packed list of variable-length integers."""
    values, position = [], 0
    while position < len(packed):
        value, position = _read_varint(packed, position)
        values.append(value)
    return values


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        if position == len(message):
            raise ValueError("the message ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than ten bytes")

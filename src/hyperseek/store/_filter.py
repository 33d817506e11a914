"""The subset of SQL that filters are written in, parsed into a tree within bounds.

    condition := condition OR condition | condition AND condition | NOT condition | (condition) | TRUE | FALSE
               | value | value = value | value [NOT] IN (literal, ...) | value [NOT] BETWEEN value AND value
               | value [NOT] LIKE 'form' | value [NOT] ILIKE 'form' | value IS [NOT] NULL | value IS [NOT] TRUE
    value     := field | `field` | literal | function(value, ...)
    literal   := 'text' | "text" | 12 | -1.5e3 | TRUE | FALSE

`=` stands for any of `=`, `==`, `!=`, `<>`, `<`, `<=`, `>`, `>=`. A condition that is a value is a boolean field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from hyperseek.errors import InputError, shown, suggestion
from hyperseek.store._conditions import (
    Field,
    Function,
    Is,
    Joined,
    Like,
    Literal,
    Membership,
    Node,
    comparison,
    opposite,
)

ALLOWED = (
    "a filter compares fields with =, !=, <, <=, >, >=, [NOT] IN, [NOT] BETWEEN, [NOT] LIKE, [NOT] ILIKE, IS [NOT] "
    "NULL, IS [NOT] TRUE, joins comparisons by AND, OR, NOT and parentheses, and knows the functions lower, upper, "
    "length, starts_with, ends_with, contains, array_has and array_length"
)

# Far beyond what people write, and small enough that no filter takes long to read.
MOST_CHARACTERS = 4 << 20
MOST_VALUES = 200_000
MOST_CONDITIONS = 2_000
DEEPEST = 50
_MOST_TOKENS = 3 * MOST_VALUES
LONGEST_FORM = 256
LONGEST_NUMBER = 4_000

# By name in SQL: the kind of the first part, whether a text follows, and the kind of the value.
_SIGNATURES = {
    "lower": ("string", False, "string"),
    "upper": ("string", False, "string"),
    "length": ("string", False, "number"),
    "starts_with": ("string", True, "boolean"),
    "ends_with": ("string", True, "boolean"),
    "contains": ("string", True, "boolean"),
    "array_has": ("list of strings", True, "boolean"),
    "array_length": ("list of strings", False, "number"),
}
_OTHER_NAMES = {
    "char_length": "length",
    "character_length": "length",
    "array_contains": "array_has",
    "list_has": "array_has",
    "list_contains": "array_has",
    "cardinality": "array_length",
    "list_length": "array_length",
}
_WORDS = frozenset({"AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "ILIKE", "IS", "NULL", "TRUE", "FALSE"})
_COMPARING = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")
_SYNONYMS = {"==": "=", "<>": "!="}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<quoted>`[^`]+`)
    |(?P<name>[^\W\d]\w*(?:\.\w+)*)
    |(?P<sign>==|!=|<>|<=|>=|(?!--)[-+=<>(),])
    |(?P<end>\Z)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


def read_filter(condition: str, fields: Mapping[str, Field]) -> Node:
    """Read a condition.

    Args:
        condition: SQL.
        fields: What it may name.

    Returns:
        A tree of kind "boolean".

    Raises:
        InputError: It is not a condition, is too long, or names something that is not a field. The message is only the
            reason.
    """
    if len(condition) > MOST_CHARACTERS:
        raise InputError(f"it has {len(condition):,} characters; at most {MOST_CHARACTERS:,} are read")
    try:
        condition.encode()
    except UnicodeEncodeError:
        raise InputError("it is not valid Unicode") from None
    if not condition.strip():
        raise InputError(f"it is empty; leave it out, or write a condition: {ALLOWED}")
    return _Reader(_tokens(condition), fields).read()


def _tokens(condition: str) -> list[_Token]:
    tokens: list[_Token] = []
    place = 0
    while not tokens or tokens[-1].kind != "end":
        found = _TOKEN.match(condition, place)
        if found is None or found.lastgroup is None:
            rest = condition[place:].lstrip()
            if rest[0] in "'\"`":
                raise InputError(f"the quote before {shown(rest[1:], 40)} is not closed")
            raise InputError(f"{shown(rest[:40])} is not understood; {ALLOWED}")
        kind = found.lastgroup
        text, place = found[kind], found.end()
        if kind == "name" and text.upper() in _WORDS:
            kind, text = "word", text.upper()
        tokens.append(_Token(kind, text, found.start(found.lastgroup)))
        if len(tokens) > _MOST_TOKENS:
            raise InputError(f"it has more than {_MOST_TOKENS:,} words and signs")
    return tokens


class _Reader:
    """Reads tokens from left to right, each once."""

    def __init__(self, tokens: list[_Token], fields: Mapping[str, Field]) -> None:
        self.tokens = tokens
        self.fields = fields
        self.place = 0
        self.depth = 0
        self.conditions = 0

    def read(self) -> Node:
        node = self.any_of()
        if self.token.kind != "end":
            self.refuse()
        return self.condition(node)

    @property
    def token(self) -> _Token:
        return self.tokens[self.place]

    def take(self, *texts: str) -> str:
        """Consume the next token and return its text if it is one of `texts`; else return an empty text."""
        token = self.token
        if token.kind in ("word", "sign") and token.text in texts:
            self.place += 1
            return token.text
        return ""

    def want(self, text: str) -> None:
        if not self.take(text):
            self.refuse(f"{text} is missing")

    def refuse(self, reason: str = "") -> NoReturn:
        token = self.token
        where = "at its end" if token.kind == "end" else f"at {shown(token.text, 40)} (character {token.place + 1:,})"
        raise InputError(f"{reason or 'it is not understood'} {where}; {ALLOWED}")

    def condition(self, node: Node) -> Node:
        if node.kind != "boolean":
            raise InputError(f"a {node.kind} is not a condition; compare it, as in `year > 2000`")
        return node

    def any_of(self) -> Node:
        parts = [self.all_of()]
        while self.take("OR"):
            parts = [*map(self.condition, parts)] if len(parts) == 1 else parts
            parts.append(self.condition(self.all_of()))
        return parts[0] if len(parts) == 1 else Joined(False, tuple(parts))

    def all_of(self) -> Node:
        parts = [self.negated()]
        while self.take("AND"):
            parts = [*map(self.condition, parts)] if len(parts) == 1 else parts
            parts.append(self.condition(self.negated()))
        return parts[0] if len(parts) == 1 else Joined(True, tuple(parts))

    def negated(self) -> Node:
        # A loop, since people's tools write any number of them.
        negations = 0
        while self.take("NOT"):
            negations += 1
        node = self.predicate()
        if not negations:
            return node
        self.condition(node)
        return opposite(node) if negations % 2 else node

    def predicate(self) -> Node:
        self.conditions += 1
        if self.conditions > MOST_CONDITIONS:
            raise InputError(f"it has more than {MOST_CONDITIONS:,} conditions; write `field IN (...)` for many values")
        left = self.value()
        if operator := self.take(*_COMPARING):
            node = self.checked(_SYNONYMS.get(operator, operator), left, self.value())
            if self.token.kind == "sign" and self.token.text in _COMPARING:
                self.refuse("AND is missing between two comparisons")
            return node
        while self.take("IS"):
            left = self.state(left)
        negated = self.token.text == "NOT" and self.token.kind == "word"
        self.place += negated
        if self.take("IN"):
            node = self.membership(left)
        elif self.take("BETWEEN"):
            low = self.value()
            self.want("AND")
            node = Joined(True, (self.checked(">=", left, low), self.checked("<=", left, self.value())))
        elif word := self.take("LIKE", "ILIKE"):
            if left.kind != "string":
                raise InputError(f"{word} is for strings, not for a {left.kind}")
            node = Like((left,), self.form(word), word == "ILIKE")
            if isinstance(left, Literal):
                self.refuse(f"{word} is for fields")
        elif negated:
            self.refuse()
        else:
            return left
        return opposite(node) if negated else node

    def checked(self, operator: str, left: Node, right: Node) -> Node:
        kinds = left.kind, right.kind
        if "list of strings" in kinds:
            raise InputError(
                "a list of strings cannot be compared; ask for one of its strings: array_has(tags, 'survey')"
            )
        if kinds[0] != kinds[1]:
            if set(kinds) == {"number", "string"}:
                hint = "; put texts in quotes, numbers without, and names with blanks in backquotes"
            else:
                hint = ""
            raise InputError(f"a {kinds[0]} cannot be compared with a {kinds[1]}{hint}")
        if kinds[0] == "boolean" and operator not in ("=", "!="):
            raise InputError(f"booleans are compared with = and !=, not with {operator}")
        return comparison(operator, left, right)

    def state(self, left: Node) -> Node:
        negated = bool(self.take("NOT"))
        word = self.take("NULL", "TRUE", "FALSE")
        if not word:
            self.refuse("NULL, TRUE or FALSE is missing")
        if word != "NULL" and left.kind != "boolean":
            raise InputError(f"IS {word} is for booleans, not for a {left.kind}")
        if isinstance(left, Literal):
            node: Node = Literal(word != "NULL" and left.value is (word == "TRUE"))
        else:
            node = Is((left,), None if word == "NULL" else word == "TRUE")
        return opposite(node) if negated else node

    def membership(self, left: Node) -> Node:
        self.want("(")
        values: list[str | bool | int | float] = []
        while not values or self.take(","):
            value = self.value()
            if not isinstance(value, Literal):
                self.refuse("IN must be followed by literals")
            if value.kind != left.kind:
                self.checked("=", left, value)
                raise InputError(f"a {left.kind} cannot be one of a list")
            values.append(value.value)
            if len(values) > MOST_VALUES:
                raise InputError(f"a list has at most {MOST_VALUES:,} values")
        self.want(")")
        if isinstance(left, Literal):
            return Literal(left.value in values)
        if left.kind == "list of strings":
            self.checked("=", left, left)
        return Membership((left,), frozenset(values))

    def form(self, word: str) -> str:
        value = self.value()
        if not isinstance(value, Literal) or not isinstance(value.value, str):
            self.refuse(f"{word} must be followed by a text in quotes")
        if len(value.value) > LONGEST_FORM:
            raise InputError(
                f"the pattern of {word} may have at most {LONGEST_FORM} characters, not {len(value.value):,}"
            )
        return value.value

    def value(self) -> Node:
        token = self.token
        if self.take("("):
            node = self.deeper(self.any_of)
            self.want(")")
            return node
        sign = self.take("-", "+")
        if sign and self.token.kind != "number":
            self.refuse("a sign must be followed by a number")
        token = self.token
        if token.kind in ("end", "sign"):
            self.refuse()
        self.place += 1
        match token.kind:
            case "number":
                return Literal(_number(sign, token.text))
            case "text":
                quote = token.text[0]
                return Literal(token.text[1:-1].replace(quote * 2, quote))
            case "name" if self.take("("):
                return self.deeper(lambda: self.function(token.text))
            case "name":
                return self.field(token.text)
            case "quoted":
                return self.field(token.text[1:-1])
        if token.text == "NULL":
            raise InputError("nothing equals NULL; write `field IS NULL` or `field IS NOT NULL`")
        if token.text not in ("TRUE", "FALSE"):
            self.place -= 1
            self.refuse()
        return Literal(token.text == "TRUE")

    def deeper(self, read: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"it has more than {DEEPEST} nested parentheses")
        node = read()
        self.depth -= 1
        return node

    def function(self, given: str) -> Node:
        name = _OTHER_NAMES.get(given.lower(), given.lower())
        if name not in _SIGNATURES:
            near = suggestion(given, [*_SIGNATURES, *_OTHER_NAMES])
            raise InputError(f"there is no function {shown(given, 60)}{near}; {ALLOWED}")
        wanted, with_text, kind = _SIGNATURES[name]
        part = self.any_of()
        if part.kind != wanted or isinstance(part, Literal):
            what = "a literal" if part.kind == wanted else f"a {part.kind}"
            raise InputError(f"{given} is for fields that are a {wanted}, not for {what}")
        text = None
        if with_text:
            self.want(",")
            value = self.value()
            if not isinstance(value, Literal) or not isinstance(value.value, str):
                raise InputError(f"the second part of {given} must be a text in quotes")
            text = value.value
        self.want(")")
        return Function(name, kind, (part,), text)

    def field(self, name: str) -> Node:
        if name in self.fields:
            return self.fields[name]
        same = [field for field in self.fields if field.casefold() == name.casefold()]
        if len(same) == 1:
            return self.fields[same[0]]
        if same:
            raise InputError(f"{name} could be any of the fields {', '.join(same)}, which differ in case")
        raise InputError(f"there is no field {name[:60]}{suggestion(name, self.fields)}")


def _number(sign: str, text: str) -> int | float:
    if len(text) > LONGEST_NUMBER:
        raise InputError(f"a number may have at most {LONGEST_NUMBER:,} digits, not {len(text):,}")
    value = int(text) if text.isdigit() else float(text)
    return -value if sign == "-" else value

"""The little of Go's templates that image lines are made of; what goes beyond it is never guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\(|\)|\||[^\s()|]+')
_CONTROL = ("if", "else", "end", "with", "range", "define", "block")
_DEPTH = 8


class Unresolved(Exception):
    """An expression that only helm can evaluate."""


@dataclass(frozen=True)
class Scope:
    """What expressions may ask for: values, Chart.yaml, and named templates without control structures."""

    values: Mapping[str, Any]
    chart: Mapping[str, Any]
    defines: Mapping[str, str]


def evaluate(text: str, scope: Scope) -> list[str]:
    """Return the images that the value of an ``image:`` line stands for; Unresolved where that cannot be told.

    None where it is empty by default, for then the user has yet to choose.
    """
    plain = _fill(_unquoted(text.split(" #", maxsplit=1)[0].strip()), scope, 0)
    found = _unquoted(plain.strip())
    if re.search(r"\s", found) or found.endswith(":") or found.startswith((":", "/")):
        raise Unresolved(text)
    return [found] if found else []


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _fill(text: str, scope: Scope, depth: int) -> str:
    if depth > _DEPTH:
        raise Unresolved(text)
    filled = _ACTION.sub(lambda match: _action(match[1], scope, depth), text)
    if "{{" in filled:
        raise Unresolved(text)
    return filled


def _action(text: str, scope: Scope, depth: int) -> str:
    if text.startswith("/*"):
        return ""
    tokens = _TOKEN.findall(text)
    if not tokens or tokens[0] in _CONTROL or re.match(r"\$\w*\s*:?=", text):
        raise Unresolved(text)
    value = _pipeline(tokens, scope, depth)
    if tokens:
        raise Unresolved(text)
    return _text(value)


def _pipeline(tokens: list[str], scope: Scope, depth: int) -> Any:
    value = _command(tokens, scope, depth, [])
    while tokens and tokens[0] == "|":
        tokens.pop(0)
        value = _command(tokens, scope, depth, [value])
    return value


def _command(tokens: list[str], scope: Scope, depth: int, last: Sequence[Any]) -> Any:
    if not tokens:
        raise Unresolved("|")
    head = tokens[0]
    if head in _FUNCTIONS or head in ("include", "template"):
        tokens.pop(0)
        arguments = [*_operands(tokens, scope, depth), *last]
        if head in _FUNCTIONS:
            try:
                return _FUNCTIONS[head](*arguments)
            except (TypeError, ValueError, IndexError) as reason:
                raise Unresolved(head) from reason
        if not arguments or arguments[0] not in scope.defines:
            raise Unresolved(head)
        return _fill(scope.defines[arguments[0]], scope, depth + 1).strip()
    operands = _operands(tokens, scope, depth)
    if len(operands) != 1 or last:
        raise Unresolved(head)
    return operands[0]


def _operands(tokens: list[str], scope: Scope, depth: int) -> list[Any]:
    found = []
    while tokens and tokens[0] not in ("|", ")"):
        word = tokens.pop(0)
        if word == "(":
            found.append(_pipeline(tokens, scope, depth))
            if not tokens or tokens.pop(0) != ")":
                raise Unresolved(word)
        else:
            found.append(_operand(word, scope))
    return found


def _operand(token: str, scope: Scope) -> Any:
    if token[0] in '"`':
        return token[1:-1]
    if token in (".", "$"):
        return None
    path = token.lstrip("$").split(".")
    if token.isdigit():
        return int(token)
    if path[:2] == ["", "Values"]:
        return _get(scope.values, path[2:], token)
    if path[:2] == ["", "Chart"] and len(path) == 3:
        return scope.chart.get(path[2][:1].lower() + path[2][1:])
    raise Unresolved(token)


def _get(node: Any, path: Sequence[str], token: str) -> Any:
    for key in path:
        if node is None:
            return None
        if not isinstance(node, Mapping):
            raise Unresolved(token)
        node = node.get(key)
    return node


def _text(value: Any) -> str:
    if isinstance(value, (Mapping, list)):
        raise Unresolved("a mapping")
    return "" if value is None else str(value)


def _printf(form: str, *values: Any) -> str:
    if re.sub(r"%[svd]", "", form).count("%"):
        raise ValueError(form)
    return re.sub(r"%[svd]", "%s", form) % tuple(map(_text, values))


_FUNCTIONS: Mapping[str, Any] = {
    "default": lambda default, value=None: value if value not in (None, "", 0, False) else default,
    "printf": _printf,
    "quote": _text,
    "squote": _text,
    "toString": _text,
    "trim": lambda value: _text(value).strip(),
    "trimSuffix": lambda end, value: _text(value)[: -len(end)] if end and _text(value).endswith(end) else _text(value),
    "trimPrefix": lambda start, value: _text(value)[len(start) :] if _text(value).startswith(start) else _text(value),
    "required": lambda _, value: _need(value),
    "coalesce": lambda *values: next((value for value in values if value), None),
    "print": lambda *values: "".join(map(_text, values)),
    "tpl": lambda value, _=None: _plain(value),
}


def _need(value: Any) -> Any:
    if value in (None, ""):
        raise ValueError("empty")
    return value


def _plain(value: Any) -> str:
    if "{{" in _text(value):
        raise ValueError(value)
    return _text(value)

r"""Program of the process that compares expressions: a small grammar for plain and LaTeX notation, and sympy.

``saccade.rewards.sandbox`` starts this file as a script, sends one JSON object a line, ``{"answer": ..., "target":
...}``, and reads one phrase a line: "equal", "different", "unreadable" or "bad target". Nothing is evaluated as Python.

Grammar: numbers (decimals are exact), symbols, ``+ - * / ^ ** ! %``, implicit products (``2x``, ``3(x+1)``), functions
(``sqrt sin cos tan asin acos atan sinh cosh tanh exp log ln abs factorial``), ``pi e i oo``, ``\frac{a}{b}``,
``\sqrt[n]{x}``, ``\boxed{x}``, tuples ``(1, 2)``, sets ``{1, 2}``, and ``x = ...``, which stands for its right side.
"""

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import sympy

_MEMORY = 2**30
_LONGEST = 2000
_DEEPEST = 60

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<name>\\?[A-Za-z]+[0-9]*)|(?P<sign>\*\*|[-+*/^!%()\[\]{},=]))"
)
_ALIASES = {
    "\u2212": "-", "\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u03c0": " pi ", "\u221a": " sqrt ",
    "$": "", "\\left": "", "\\right": "", "\\{": "{", "\\}": "}", "\\,": " ", "\\;": " ", "\\!": "", "\\ ": " ",
    "\\%": "%", "\\cdot": "*", "\\times": "*", "\\div": "/",
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": sympy.sqrt, "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "asin": sympy.asin, "acos": sympy.acos,
    "atan": sympy.atan, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh,
    "cosh": sympy.cosh, "tanh": sympy.tanh, "exp": sympy.exp, "log": sympy.log, "ln": sympy.log, "abs": sympy.Abs,
    "factorial": sympy.factorial,
}  # fmt: skip
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E, "i": sympy.I, "I": sympy.I, "oo": sympy.oo, "infty": sympy.oo}
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Unreadable(Exception):
    """The text is not in the grammar."""


def read(text: str) -> Any:
    """A sympy expression, or a tuple or frozenset of them.

    Raises:
        Unreadable: the text is not in the grammar, too long or too deep.
    """
    if len(text) > _LONGEST:
        raise Unreadable
    for alias, meaning in _ALIASES.items():
        text = text.replace(alias, meaning)
    tokens: list[str] = []
    position = 0
    text = text.strip().rstrip(". ")
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable
        tokens.append(match[match.lastgroup or 0].lstrip("\\"))
        position = match.end()
    return _Reader(tokens).statement()


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0

    @property
    def next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.next
        if not token or (expected and token != expected):
            raise Unreadable
        self.position += 1
        return token

    def statement(self) -> Any:
        values = self.listed("")
        if self.next == "=":
            if len(values) != 1 or not isinstance(values[0], sympy.Symbol):
                raise Unreadable
            self.take()
            values = self.listed("")
        if self.next:
            raise Unreadable
        return values[0] if len(values) == 1 else tuple(values)

    def listed(self, closing: str) -> list[Any]:
        values = [self.sum()]
        while self.next == ",":
            self.take()
            values.append(self.sum())
        if closing:
            self.take(closing)
        return values

    def sum(self) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable
        value = self.product()
        while self.next in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = _scalar(value) + sign * _scalar(self.product())
        self.depth -= 1
        return value

    def product(self) -> Any:
        value = self.signed()
        while True:
            if self.next in ("*", "/"):
                inverse = self.take() == "/"
                factor = _scalar(self.signed())
                value = _scalar(value) / factor if inverse else _scalar(value) * factor
            elif self.next and (self.next in _CLOSING or self.next[0].isalpha()):
                value = _scalar(value) * _scalar(self.power())
            else:
                return value

    def signed(self) -> Any:
        negative = False
        while self.next in ("+", "-"):
            negative ^= self.take() == "-"
        value = self.power()
        return -_scalar(value) if negative else value

    def power(self) -> Any:
        value = self.atom()
        while self.next in ("!", "%"):
            value = sympy.factorial(_scalar(value)) if self.take() == "!" else _scalar(value) / 100
        if self.next in ("^", "**"):
            self.take()
            self.depth += 1
            if self.depth > _DEEPEST:
                raise Unreadable
            value = _scalar(value) ** _scalar(self.signed())
            self.depth -= 1
        return value

    def atom(self) -> Any:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return sympy.Rational(token)
        if token in _CLOSING:
            values = self.listed(_CLOSING[token])
            if token == "{" and len(values) > 1:
                return frozenset(values)
            return values[0] if len(values) == 1 else tuple(values)
        if token in ("frac", "dfrac", "tfrac"):
            return self.group() / self.group()
        if token == "boxed":
            return self.group()
        if token == "sqrt" and self.next == "[":
            self.take()
            root = self.listed("]")
            return _scalar(self.group()) ** (1 / _scalar(root[0]))
        if token in _FUNCTIONS:
            if self.next == "(":
                self.take()
                return _FUNCTIONS[token](*map(_scalar, self.listed(")")))
            return _FUNCTIONS[token](_scalar(self.power()))
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token[0].isalpha():
            return sympy.Symbol(token)
        raise Unreadable

    def group(self) -> Any:
        self.take("{")
        values = self.listed("}")
        return _scalar(values[0] if len(values) == 1 else tuple(values))


def _scalar(value: Any) -> Any:
    if isinstance(value, tuple | frozenset):
        raise Unreadable
    return value


def same(a: Any, b: Any) -> bool:
    """Equality as mathematics: entry by entry for tuples, as sets for sets."""
    if isinstance(a, tuple) or isinstance(b, tuple):
        return isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, frozenset) or isinstance(b, frozenset):
        left, right = (sorted(x, key=str) if isinstance(x, frozenset) else [x] for x in (a, b))
        return all(any(same(x, y) for y in right) for x in left) and all(any(same(x, y) for x in left) for y in right)
    return bool(a == b or (a - b).equals(0))


def verdict(answer: str, target: str) -> str:
    """One of "equal", "different", "unreadable" (the answer), "bad target"."""
    try:
        wanted = read(target)
    except Exception:
        return "bad target"
    try:
        return "equal" if same(read(answer), wanted) else "different"
    except Exception:
        # Whatever sympy makes of a hostile answer (MemoryError, OverflowError, TypeError, ...), the answer is wrong.
        return "unreadable"


def main() -> None:
    """Answer requests until the input ends."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    verdict("x*(x + 1)/sqrt(2)", "(x^2 + x)/2^(1/2)")
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(verdict(request["answer"], request["target"]), flush=True)


if __name__ == "__main__":
    main()

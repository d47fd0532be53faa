"""Pickles of plain data, taken apart without being loaded.

The instructions are read one by one (``pickletools.genops`` only takes them apart), and the few that describe numbers,
texts, dicts and plain arrays are followed. Nothing in the file can name a function that would be called.
"""

from __future__ import annotations

import pickletools
from typing import Any


class Inert:
    """What a name in the pickle stands for. Nothing is imported and nothing is called by that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None
        self.arguments: tuple = ()


_NAMES = {
    "_reconstruct": "array",
    "ndarray": "class",
    "dtype": "dtype",
    "scalar": "scalar",
    "encode": "bytes",
    "_frombuffer": "buffer",
}
_MODULES = (
    "numpy",
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "_codecs",
    "numpy.core.numeric",
    "numpy._core.numeric",
)


_CONSTANTS = frozenset({
    "BININT", "BININT1", "BININT2", "INT", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def interpret(pickle: bytes) -> Any:
    """Follow the instructions of a pickle that only describes data."""
    machine = _Machine()
    for code, argument, _ in pickletools.genops(pickle):
        if code.name == "STOP":
            return machine.stack.pop()
        machine.follow(code.name, argument)
    raise ValueError("it ends too early")


class _Machine:
    """The stack that a pickle's instructions work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.mark = object()

    def follow(self, code: str, argument: Any) -> None:
        if code in _CONSTANTS:
            self.stack.append(argument)
        elif code in _FIXED:
            self.stack.append(_FIXED[code])
        elif code in ("BINSTRING", "SHORT_BINSTRING"):  # pickles of Python 2: texts that are bytes
            self.stack.append(argument.encode("latin-1") if isinstance(argument, str) else argument)
        elif not (self._remember(code, argument) or self._collect(code) or self._describe(code, argument)):
            raise ValueError(f"it holds the instruction {code}")

    def _remember(self, code: str, argument: Any) -> bool:
        match code:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _:
                return False
        return True

    def _collect(self, code: str) -> bool:
        """Lists, tuples and dicts."""
        stack = self.stack
        match code:
            case "MARK":
                stack.append(self.mark)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(code[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = self._since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                items = stack[-2:]
                del stack[-2:]
                _fill(stack[-1], items)
            case "SETITEMS":
                items = self._since_mark()
                _fill(stack[-1], items)
            case _:
                return False
        return True

    def _describe(self, code: str, argument: Any) -> bool:
        """What a pickle would import and call: only described."""
        stack = self.stack
        match code:
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(_named(module, name))
            case "STACK_GLOBAL":
                module, name = stack[-2:]
                stack[-2:] = [_named(module, name)]
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_made(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case _:
                return False
        return True

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1 - next(back for back, item in enumerate(reversed(self.stack)) if item is self.mark)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items


def _named(module: str, name: str) -> Inert:
    if module not in _MODULES or name not in _NAMES:
        raise ValueError(f"it asks to run {module}.{name}")
    return Inert(_NAMES[name])


def _fill(into: dict, items: list[Any]) -> None:
    if not all(isinstance(key, (str, bytes, int, Inert)) for key in items[::2]):
        raise ValueError("keys that are neither texts nor numbers")  # hashing nested tuples can exhaust the stack
    into.update(zip(items[::2], items[1::2], strict=True))


def _made(what: Any, arguments: tuple) -> Any:
    """What a call in the pickle would give, described."""
    if what.name == "bytes":
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes in '{encoding}'")
        return text.encode("latin-1")
    thing = Inert(what.name)
    thing.arguments = arguments
    if what.name == "dtype" and isinstance(arguments[0], bytes):  # Python 2
        thing.arguments = (arguments[0].decode("ascii"), *arguments[1:])
    if what.name == "buffer":  # protocol 5: (bytes, dtype, shape, order)
        content, dtype, shape, _ = arguments
        thing.name, thing.state = "array", (1, shape, dtype, False, content)
    return thing

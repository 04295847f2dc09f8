"""Read pickles of arrays and numbers without unpickling: nothing that a file names is imported or called.

A pickle is a program for a small stack machine. This module is that machine for the instructions that numpy arrays,
numbers, text and plain containers need. The few names that such pickles contain stand for functions of this module; any
other name is refused. The elements of an outermost list are yielded one by one, so a large list is never in memory.

An allow-list on `pickle.Unpickler` does not replace it: the unpickler builds the full list, gets cached extension codes
past ``find_class``, and allocates gigabytes for nine bytes that use a large memo index.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_KEPT = 1024  # bytes: the memo drops longer strings after the element that they belong to


def elements(path: Path) -> Iterator[Any]:
    """The elements of a pickled list, one by one, in bounded memory.

    Parameters
    ----------
    path : Path
        A file that ``pickle.dump`` wrote, with any protocol, any version of numpy, Python 2 or 3.

    Yields
    ------
    object

    Raises
    ------
    ValueError
        If the file is truncated, not a pickle, not of a list, or names anything but numpy arrays and numbers; the
        message has the name.
    FileNotFoundError
        If there is no such file.
    """
    last = yield from _read(path, streaming=True)
    if not isinstance(last, list):
        raise ValueError(f"{path} is not a list but {_kind(last)}.")


def load(path: Path) -> Any:
    """The pickled object; strings of Python 2 become bytes. Raises as `elements`."""
    reading = _read(path, streaming=False)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


@dataclass(frozen=True)
class _Name:
    """An allowed name, and the function that stands for it; None for a class that is only referred to."""

    make: Callable[..., Any] | None = None


class _Array:
    """An array before its content is read, and its index in the memo."""

    place: int | None = None


@dataclass
class _Type:
    """A dtype of numbers; its byte order is read later."""

    code: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _RefusedError(Exception):
    """Something that is not allowed; the message names it."""


class _Bounded:
    """A file that refuses to read more bytes than it has, whatever lengths a pickle states."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.left = size
        self.size = size

    def read(self, n: int) -> bytes:
        if n > self.left:
            raise ValueError(f"{n} bytes are expected, {self.left} are left")
        self.left -= n
        return self.file.read(n)

    def readline(self) -> bytes:
        line = self.file.readline()
        self.left -= len(line)
        return line

    def tell(self) -> int:
        return self.size - self.left


def _read(path: Path, *, streaming: bool) -> Generator[Any, None, Any]:
    """Run the file; yields the elements of the outermost list if `streaming`, and returns the object at the end."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}.")
    with path.open("rb") as file:
        try:
            return (yield from _Machine(streaming=streaming).run(_Bounded(file, path.stat().st_size)))
        except _RefusedError as refused:
            raise ValueError(
                f"{path} contains {refused}, which is refused: only numpy arrays, numbers, text and plain containers "
                f"are read from a pickle."
            ) from None
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path} is truncated or not a valid pickle ({type(error).__name__}: {error}).") from error


class _Machine:
    def __init__(self, *, streaming: bool) -> None:
        self.streaming = streaming
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stack below each mark
        self.memo: dict[int, Any] = {}
        self.memorized = 0  # number of entries that the memo ever had
        self.fresh: list[int] = []  # indices filled since the last element was yielded
        self.outermost: list[Any] | None = None

    def run(self, file: Any) -> Generator[Any, None, Any]:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == "STOP":
                (held,) = self.stack
                return held
            if name in ("APPEND", "APPENDS", "LIST"):
                added = self._to_add(name)
                target = self.stack[-1]
                if target is not self.outermost:
                    _require(target, list).extend(added)
                    continue
                yield from added
                del added  # before the next ones are read
                self._forget()
            elif name in _VALUES:
                self.stack.append(_VALUES[name](argument))
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                # the argument of INST and the like is a name
                held = f" {argument.replace(' ', '.')!r}" if isinstance(argument, str) else ""
                raise _RefusedError(f"the instruction {name}{held}")
        raise ValueError("it ends too early")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_list(self) -> None:
        self.push([])
        if self.streaming and self.outermost is None and len(self.stack) == 1 and not self.marked:
            self.outermost = self.stack[0]

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        taken = self.stack
        self.stack = self.marked.pop()
        return taken

    def last(self, n: int) -> list[Any]:
        if len(self.stack) < n:
            raise ValueError("an instruction lacks its arguments")
        taken = self.stack[-n:]
        del self.stack[-n:]
        return taken

    def set_items(self, items: list[Any]) -> None:
        _require(self.stack[-1], dict).update(_pairs(items))

    def put(self, place: int | None) -> None:
        place = self.memorized if place is None else place
        if place not in self.memo:
            self.memorized += 1
        held = self.memo[place] = self.stack[-1]
        if isinstance(held, _Array):
            held.place = place
        if self.streaming:
            self.fresh.append(place)

    def reduce(self) -> None:
        name, arguments = self.last(2)
        make = _require(name, _Name).make
        if make is None:
            raise ValueError("an array is called")
        self.push(make(*_require(arguments, tuple)))

    def build(self) -> None:
        target, state = self.last(2)
        if isinstance(target, _Type):
            target.order = _one_of(_text(_require(state, tuple)[1]), "<>|=")
            self.push(target)
            return
        place = _require(target, _Array).place
        _, shape, kind, fortran, contents = _require(state, tuple)
        array = _filled(contents, kind, shape, "F" if fortran else "C")
        if place is not None:
            self.memo[place] = array
        self.push(array)

    def _to_add(self, name: str) -> list[Any]:
        if name == "LIST":  # makes the list and fills it
            added = self.since_mark()
            self.push_list()
            return added
        return self.since_mark() if name == "APPENDS" else self.last(1)

    def _forget(self) -> None:
        """Drop the arrays of the yielded elements from the memo."""
        for place in self.fresh:
            if place in self.memo and not _light(self.memo[place]):
                del self.memo[place]
        self.fresh.clear()


def _admitted(name: str) -> _Name:
    if name not in _NAMES:
        raise _RefusedError(f"the name {name.replace(' ', '.')!r}")
    return _NAMES[name]


def _require(value: Any, *kinds: type[Any]) -> Any:
    if not isinstance(value, kinds):
        raise ValueError(f"{_kind(value)} instead of a {kinds[0].__name__.strip('_').lower()}")
    return value


def _kind(value: Any) -> str:
    return f"a {type(value).__name__.strip('_').lower()}"


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(_require(value, str))


def _one_of(value: str, values: str) -> str:
    if len(value) != 1 or value not in values:
        raise ValueError(f"{value!r} is not one of {values}")
    return value


def _light(value: Any) -> bool:
    """Whether the memo keeps a value: text, numbers, dtypes, and short tuples of these."""
    atoms = value[:8] if isinstance(value, tuple) else (value,)
    small = all(
        isinstance(atom, int | float | str | _Name | _Type | None) or (isinstance(atom, bytes) and len(atom) <= _KEPT)
        for atom in atoms
    )
    return small and not (isinstance(value, tuple) and len(value) > 8)


def _filled(contents: Any, kind: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    dtype = _require(kind, _Type).dtype
    raw = _require(contents, bytes)
    size = 1
    for length in _require(shape, tuple):
        size *= _require(length, int)
    if size < 0 or size * dtype.itemsize != len(raw):
        raise ValueError(f"an array of shape {shape} and type {dtype} has {len(raw)} bytes")
    array = np.frombuffer(raw, dtype)
    return array.reshape(shape, order="F" if _one_of(_text(order), "CF") == "F" else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise ValueError("an array is of another class")
    return _Array()


def _number_type(code: Any, *alignment: Any) -> _Type:
    matched = _TYPE.fullmatch(_text(code))
    if matched is None:
        raise _RefusedError(f"an array of type {_text(code)!r}")
    return _Type(matched[1])


def _scalar(kind: Any, contents: Any) -> int | float | bool:
    value: int | float | bool = _filled(contents, kind, (), "C").item()
    return value


def _latin1(text: Any, encoding: Any) -> bytes:
    if _text(encoding) != "latin1":
        raise _RefusedError(f"an encoding {_text(encoding)!r}")
    return str(_require(text, str)).encode("latin1")


_TYPE = re.compile(r"[|<>=]?([biuf]\d{1,2})")
_NDARRAY = _Name()
_NAMES = {
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _Name(_number_type),
    "_codecs encode": _Name(_latin1),  # how protocols 0 to 2 write bytes
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    _NAMES[f"{_core}.multiarray _reconstruct"] = _Name(_reconstruct)
    _NAMES[f"{_core}.multiarray scalar"] = _Name(_scalar)
    _NAMES[f"{_core}.numeric _frombuffer"] = _Name(_filled)

# Instructions that push a value, and those that change the stack.
_VALUES: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
    "GLOBAL": _admitted,
    "INT": lambda number: number,  # True and False too
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), int),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), float),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), str),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), bytes),
    # text and bytes were one type in Python 2
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), lambda text: text.encode("latin1")),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.mark(),
    "EMPTY_LIST": lambda machine, _: machine.push_list(),
    "SETITEM": lambda machine, _: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "DICT": lambda machine, _: machine.push(_pairs(machine.since_mark())),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "STACK_GLOBAL": lambda machine, _: machine.push(_admitted(" ".join(map(_text, machine.last(2))))),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    **dict.fromkeys(("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"), lambda machine, place: machine.put(place)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.push(machine.memo[place])),
}

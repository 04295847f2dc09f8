"""The attention graph that scoring, attention and training share.

The same `Pattern` is scored, attended over, drawn and saved with the model, so the graph that is trained is the graph
that was scored. Its vertices are blocks of tokens (single tokens if the block size is 1).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import operator
import os
import sys
import weakref
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nip.atomic import replacing

FILE_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Pattern:
    """A graph on the vertices 0 … n − 1, stored as compressed sparse rows.

    Row i lists the vertices that i attends to. Every vertex also attends to itself: these self edges are implied and
    never stored. The graph is directed if the rows are not symmetric. Patterns are immutable; two are equal if their
    graphs are equal, regardless of their names.

    Parameters
    ----------
    n : int
        Number of vertices, at least 1.
    indptr : ndarray of shape (n + 1,)
        Row i is ``indices[indptr[i]:indptr[i + 1]]``.
    indices : ndarray of shape (n_edges,)
        The attended vertices, ascending in each row, without the row's own vertex.
    name : str, default="custom"
        The name under which `nip.pattern` rebuilds the graph, or any label for another graph.
    parameters : mapping, default={}
        The parameters, including the seed, with which `nip.pattern` rebuilds it.
    causal : bool, default=False
        Attend to earlier tokens only: rows contain earlier vertices only, and a token attends to the earlier tokens of
        its own block but not to the later ones. See `nip.graphs.causal`.

    Raises
    ------
    ValueError
        If a row is not sorted, contains a vertex twice, its own vertex or one outside 0 … n − 1, or (causal) a later
        vertex.

    Examples
    --------
    >>> square = Pattern.from_edges(4, [0, 1, 2, 3], [1, 2, 3, 0], symmetric=True, name="square")
    >>> square.row(0).tolist(), square.mean_degree, square.density
    ([1, 3], 2.0, 0.75)
    """

    n: int
    indptr: NDArray[np.int64]
    indices: NDArray[np.int64]
    name: str = "custom"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    causal: bool = False
    key: int = field(init=False, repr=False)
    """A unique integer in this process, with which `pattern_of` finds the pattern."""

    def __post_init__(self) -> None:
        n = check_int("n", self.n, "Pattern", minimum=1)
        indptr = np.array(self.indptr, dtype=np.int64)
        indices = np.array(self.indices, dtype=np.int64)
        if indptr.shape != (self.n + 1,) or indptr[0] != 0 or indptr[-1] != indices.size or (np.diff(indptr) < 0).any():
            raise ValueError(
                f"The 'indptr' parameter of Pattern must be n + 1 = {self.n + 1} ascending offsets from 0 to "
                f"len(indices) = {indices.size}. Got shape {indptr.shape} instead."
            )
        rows = np.repeat(np.arange(self.n), np.diff(indptr))
        if indices.size and (indices.min() < 0 or indices.max() >= self.n):
            raise ValueError(
                f"A pattern's vertices must be in [0, {self.n}). Got {indices.min()} … {indices.max()} instead."
            )
        if (indices == rows).any():
            raise ValueError(
                "A pattern's self edges are implied and must not be stored; Pattern.from_edges drops them."
            )
        if (np.diff(rows * self.n + indices) <= 0).any():
            raise ValueError(
                "A pattern's rows must be ascending without repetition; Pattern.from_edges sorts and merges them."
            )
        if self.causal and (indices > rows).any():
            raise ValueError(
                "A causal pattern's rows must contain earlier vertices only; nip.graphs.causal drops the others."
            )
        indptr.setflags(write=False)
        indices.setflags(write=False)
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "indptr", indptr)
        object.__setattr__(self, "indices", indices)
        object.__setattr__(
            self, "parameters", MappingProxyType({k: python_number(v) for k, v in self.parameters.items()})
        )
        object.__setattr__(self, "causal", bool(self.causal))
        object.__setattr__(self, "key", next(_KEYS))
        _PATTERNS[self.key] = self

    @classmethod
    def from_edges(
        cls,
        n: int,
        rows: ArrayLike,
        columns: ArrayLike,
        *,
        symmetric: bool = False,
        name: str = "custom",
        parameters: Mapping[str, Any] | None = None,
        causal: bool = False,
    ) -> Pattern:
        """Build a pattern from edges in any order; self edges are dropped (they are implied), repeated edges merged.

        Parameters
        ----------
        n : int
            Number of vertices, at least 1.
        rows, columns : array of shape (n_edges,)
            Vertex ``rows[e]`` attends to ``columns[e]``.
        symmetric : bool, default=False
            Add the reverse of every edge.
        name, parameters, causal
            As for `Pattern`.

        Returns
        -------
        Pattern

        Raises
        ------
        ValueError
            If an edge joins a vertex outside 0 … n − 1 or, in a causal pattern, attends to a later one.
        """
        n = check_int("n", n, "Pattern", minimum=1)
        i = np.asarray(rows, dtype=np.int64)
        j = np.asarray(columns, dtype=np.int64)
        for end in (i, j):
            if end.size and (end.min() < 0 or end.max() >= n):
                raise ValueError(f"Edges must join vertices in [0, {n}). Got {end.min()} … {end.max()} instead.")
        if symmetric:
            i, j = np.concatenate([i, j]), np.concatenate([j, i])
        keys = np.unique((i * n + j)[i != j])
        indptr = np.concatenate([[0], np.cumsum(np.bincount(keys // n, minlength=n))])
        return cls(n, indptr, keys % n, name=name, parameters=parameters or {}, causal=causal)

    def row(self, i: int) -> NDArray[np.int64]:
        """The vertices that `i` attends to, ascending, without `i` itself."""
        return self.indices[self.indptr[i] : self.indptr[i + 1]]

    @cached_property
    def degrees(self) -> NDArray[np.int64]:
        """Number of vertices each vertex attends to, without itself; ndarray of shape (n,)."""
        return np.diff(self.indptr)

    @property
    def edge_rows(self) -> NDArray[np.int64]:
        """The attending vertex of every entry of `indices`; ndarray of shape (n_edges,)."""
        return np.repeat(np.arange(self.n), self.degrees)

    @property
    def n_edges(self) -> int:
        """Number of stored (directed) edges; an undirected edge counts twice."""
        return int(self.indices.size)

    @property
    def mean_degree(self) -> float:
        """Mean number of vertices a vertex attends to, without itself."""
        return self.n_edges / self.n

    @property
    def density(self) -> float:
        """Attended pairs, self edges included, over n²."""
        return (self.n_edges + self.n) / self.n**2

    @cached_property
    def symmetric(self) -> bool:
        """Whether attention is mutual: i attends to j if and only if j attends to i."""
        rows = self.edge_rows
        return bool(np.array_equal(np.sort(self.indices * self.n + rows), rows * self.n + self.indices))

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the graph (not of its name); equal for equal patterns on every machine."""
        digest = hashlib.sha256(f"nip-pattern {self.n} {int(self.causal)}\n".encode())
        digest.update(self.indptr.astype("<i8").tobytes())
        digest.update(self.indices.astype("<i8").tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.checksum == other.checksum

    def __hash__(self) -> int:
        return hash(self.checksum)

    def __repr__(self) -> str:
        parameters = "".join(f", {key}={value!r}" for key, value in self.parameters.items())
        return f"<Pattern {self.name}, n={self.n}{parameters}; mean degree {self.mean_degree:.4g}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Pattern, (self.n, self.indptr, self.indices, self.name, dict(self.parameters), self.causal)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the graph, its name and its parameters to an ``.npz`` file, atomically.

        Raises
        ------
        ValueError
            If a parameter is no JSON value; nothing is written then.
        """
        path = Path(path)
        header = {"format": FILE_FORMAT, "name": self.name, "parameters": dict(self.parameters), "causal": self.causal}
        try:
            text = json.dumps(header)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"A pattern's parameters must be JSON values to be saved. Got {self!r}: {error}."
            ) from error
        with replacing(path) as file:
            np.savez_compressed(
                file,
                nip_pattern=np.array(text),
                n=np.array(self.n),
                indptr=self.indptr,
                indices=self.indices,
            )
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pattern:
        """Read a file written by `save`. Nothing in it is executed; a damaged or foreign file raises ValueError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(str(file["nip_pattern"]))
                if header["format"] != FILE_FORMAT:
                    raise ValueError(f"pattern format {header['format']}, this version of nip reads {FILE_FORMAT}")
                return cls(
                    int(file["n"]),
                    file["indptr"],
                    file["indices"],
                    name=str(header["name"]),
                    parameters=header["parameters"],
                    causal=bool(header["causal"]),
                )
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a pattern file as Pattern.save writes it: {error}") from error


_KEYS = itertools.count()
_PATTERNS: weakref.WeakValueDictionary[int, Pattern] = weakref.WeakValueDictionary()


def pattern_of(key: int) -> Pattern:
    """The pattern with that `Pattern.key`: torch.compile can pass an integer, but not a Pattern that it has made."""
    return _PATTERNS[key]


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def not_traced(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make torch.compile call a function of integers and patterns while it compiles, instead of compiling its numpy.

    Numbers that torch.compile keeps variable, such as the length of an input, are fixed: each value is compiled.
    """

    def called(*args: Any, **keywords: Any) -> Result:
        # After a break in its graph torch.compile would compile the function by itself.
        run = _outside_torch_compile(function) if "torch._dynamo" in sys.modules else function
        return run(*map(_restored, args), **{name: _restored(value) for name, value in keywords.items()})

    called._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result

    @functools.wraps(function)
    def call(*args: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        return called(*[_fixed(x) for x in args], **{name: _fixed(value) for name, value in keywords.items()})

    return call


@functools.cache
def _outside_torch_compile(function: Callable[..., Result]) -> Callable[..., Result]:
    outside: Callable[..., Result] = sys.modules["torch"].compiler.disable(function)
    return outside


def _fixed(value: Any) -> Any:
    if isinstance(value, Pattern):
        return Pattern, operator.index(value.key)
    return operator.index(value) if type(value) is int else value


def _restored(value: Any) -> Any:
    return pattern_of(value[1]) if isinstance(value, tuple) and value[:1] == (Pattern,) else value


def python_number(value: Any) -> Any:
    """Return a numpy number as a Python number, which can be written as JSON; any other value as it is."""
    return value.item() if isinstance(value, np.generic) else value


def check_int(parameter: str, value: object, caller: str, *, minimum: int) -> int:
    """Return `value`, which may be a numpy integer, as an int.

    Parameters
    ----------
    parameter, caller : str
        The parameter and the function that the message names.
    value : object
    minimum : int

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the value is not an integer of at least `minimum`.

    Examples
    --------
    >>> check_int("n", np.int64(8), "hypercube", minimum=1)
    8
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(
            f"The '{parameter}' parameter of {caller} must be an integer of at least {minimum}. Got {value!r} instead."
        )
    return int(value)


def read_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse the ``name=value`` pairs of a command line into the parameters of a pattern or data set.

    Values are parsed as JSON; a value that is not JSON stays a string.

    Raises
    ------
    ValueError
        If a pair is not name=value, or a name occurs twice.

    Examples
    --------
    >>> read_parameters(["seed=3", "symmetric=true", "split=whole texts"])
    {'seed': 3, 'symmetric': True, 'split': 'whole texts'}
    """
    read: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--param takes name=value, such as --param seed=3. Got {pair!r} instead.")
        if name in read:
            raise ValueError(f"--param names {name!r} twice. Name it once.")
        try:
            read[name] = json.loads(text)
        except json.JSONDecodeError:
            read[name] = {"True": True, "False": False}.get(text, text)
    return read

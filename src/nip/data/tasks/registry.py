"""The tasks: names, lengths, vocabularies and splits. A new task is a new entry of `TASKS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nip.data.offline.corpora import BOOKS, GENRES
from nip.data.tasks.listops.language import TOKENS

SPLITS = ("train", "dev", "test")

Kind = Literal["expression", "bytes", "pixels", "symbols"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """The facts about a task that a model depends on.

    Parameters
    ----------
    name : str
        On the command line, and of the data folder.
    kind : {"expression", "bytes", "pixels", "symbols"}
        The meaning of a token id. Expressions and symbols: an index into `tokens`. Bytes: the byte id − 1 of a text; 0
        is padding. Pixels: the grey level 0 … 255 of a pixel, row by row; all images have the same size, so there is no
        padding, and 0 is black.
    max_length : int
        Tokens kept of an example; longer ones are truncated.
    vocab_size : int
        Rows of the embedding table; token ids are in [0, vocab_size).
    n_classes : int
        Labels are in [0, n_classes).
    sizes : tuple of int
        Examples in the train, dev and test splits of the official setting.
    pair : bool, default=False
        Whether an example is two sequences with one label.
    tokens : tuple of str, default=()
        For expressions and symbols: the name of every token id; that of padding is empty.
    shape : tuple of int, optional
        For pixels: height and width.
    classes : tuple of str, default=()
        The names of the labels.
    targets : bool, default=False
        Whether tokens have labels of their own: see `nip.data.Examples`.
    parts : tuple of tuple of int, default=()
        The symbols that every token id is composed of, if ids share symbols; symbols count from 0.
    read : bool, default=False
        Whether the data must be read from files that the user names (``--from``).

    Raises
    ------
    ValueError
        If the sizes do not fit the kind.
    """

    name: str
    kind: Kind
    max_length: int
    vocab_size: int
    n_classes: int
    sizes: tuple[int, int, int]
    pair: bool = False
    tokens: tuple[str, ...] = ()
    shape: tuple[int, int] | None = None
    classes: tuple[str, ...] = ()
    targets: bool = False
    parts: tuple[tuple[int, ...], ...] = ()
    read: bool = False

    def __post_init__(self) -> None:
        named = self.kind in ("expression", "symbols")
        fits = {
            "a name for every token id": bool(self.tokens) == named,
            "a shape": (self.shape is not None) == (self.kind == "pixels"),
            "one token per pixel": self.shape is None or self.shape[0] * self.shape[1] == self.max_length,
            "a vocabulary that contains its ids": self.ids.stop <= self.vocab_size,
            "the parts of every token id or of none": len(self.parts) in (0, self.vocab_size),
            "a name for every class or none": len(self.classes) in (0, self.n_classes),
        }
        for need, fulfilled in fits.items():
            if not fulfilled:
                raise ValueError(f"The task {self.name} of kind {self.kind!r} needs {need}.")

    @property
    def padded_length(self) -> int:
        """The power of two that sequences are padded to in the original's setting: 2048 for ListOps."""
        return 1 << (self.max_length - 1).bit_length()

    @property
    def ids(self) -> range:
        """The token ids that an example can have.

        Examples
        --------
        >>> TASKS["listops"].ids, TASKS["text"].ids, TASKS["image"].ids
        (range(1, 16), range(1, 257), range(0, 256))
        """
        if self.kind == "pixels":
            return range(256)
        return range(1, 257 if self.kind == "bytes" else len(self.tokens))

    @property
    def vocabulary(self) -> str:
        """The meaning of the token ids, in a sentence for the manifest."""
        return {
            "expression": "0 is padding; the id of a token is its place among 'tokens'",
            "symbols": "0 is padding; the id of a token is its place among 'tokens'",
            "bytes": "0 is padding (or a text without a byte), else the byte + 1",
            "pixels": "the grey level of a pixel, row by row; there is no padding",
        }[self.kind]


PROBE_KEYS, PROBE_VALUES = 16, 8

_PROBE = (
    *("", "."),
    *(f"?{key}" for key in range(PROBE_KEYS)),
    *(f"{key}={value}" for key in range(PROBE_KEYS) for value in range(PROBE_VALUES)),
)

# padding, filler, query, pair; then the keys, which a query shares with its pair; then the values
_KEY, _VALUE = 4, 4 + PROBE_KEYS
_PROBE_PARTS = (
    *((0,), (1,)),
    *((2, _KEY + key) for key in range(PROBE_KEYS)),
    *((3, _KEY + key, _VALUE + value) for key in range(PROBE_KEYS) for value in range(PROBE_VALUES)),
)

_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _pathfinder(level: str) -> Task:
    return Task(
        name=f"pathfinder32-{level}",
        kind="pixels",
        max_length=1024,
        vocab_size=256,
        n_classes=2,
        sizes=(160000, 20000, 20000),
        shape=(32, 32),
        classes=("apart", "connected"),
    )


def _texts(
    name: str, classes: tuple[str, ...], sizes: tuple[int, int, int], *, pair: bool = False, read: bool = False
) -> Task:
    return Task(
        name=name,
        kind="bytes",
        max_length=4000,
        vocab_size=257,
        n_classes=len(classes),
        sizes=sizes,
        pair=pair,
        classes=classes,
        read=read,
    )


def _by_name(*tasks: Task) -> dict[str, Task]:
    return {task.name: task for task in tasks}


TASKS: dict[str, Task] = _by_name(
    Task(
        name="listops",
        kind="expression",
        max_length=2000,
        vocab_size=32,  # 15 tokens and padding; the original's embedding table has 32 rows
        n_classes=10,
        sizes=(96000, 2000, 2000),
        tokens=TOKENS,
    ),
    Task(
        name="text",
        kind="bytes",
        max_length=4000,
        vocab_size=257,
        n_classes=2,
        sizes=(25000, 25000, 25000),
        classes=("negative", "positive"),
        read=True,
    ),
    Task(
        name="retrieval",
        kind="bytes",
        max_length=4000,
        vocab_size=257,
        n_classes=2,
        sizes=(147086, 18090, 17437),
        pair=True,
        classes=("unrelated", "related"),
        read=True,
    ),
    Task(
        name="image",
        kind="pixels",
        max_length=1024,
        vocab_size=256,
        n_classes=10,
        sizes=(45000, 5000, 10000),
        shape=(32, 32),
        classes=_CIFAR,
        read=True,
    ),
    _pathfinder("curv_baseline"),
    _pathfinder("curv_contour_length_9"),
    _pathfinder("curv_contour_length_14"),
    # The rest are not tasks of Long Range Arena: real data that needs no network, and a probe of attention itself.
    Task(
        name="fashion-mnist",
        kind="pixels",
        max_length=1024,
        vocab_size=256,
        n_classes=10,
        sizes=(54000, 6000, 10000),
        shape=(32, 32),
        classes=_FASHION,
    ),
    _texts("bible-books", BOOKS, (2566, 307, 307)),
    _texts("bible-pairs", ("another book", "same book"), (20000, 2000, 2000), pair=True),
    _texts("brown-genres", GENRES, (5084, 528, 530), read=True),
    _texts("brown-pairs", ("another text", "same text"), (20000, 2000, 2000), pair=True, read=True),
    Task(
        name="probe",
        kind="symbols",
        max_length=512,
        vocab_size=len(_PROBE),
        n_classes=PROBE_VALUES,
        sizes=(65536, 512, 1024),
        tokens=_PROBE,
        classes=tuple(str(value) for value in range(PROBE_VALUES)),
        targets=True,
        parts=_PROBE_PARTS,
    ),
)


def find_task(name: str) -> Task:
    """The task of that name; a ValueError lists the names.

    Examples
    --------
    >>> find_task("listops").padded_length
    2048
    """
    if name not in TASKS:
        raise ValueError(f"There is no task {name!r}. The tasks are {', '.join(TASKS)}.")
    return TASKS[name]

"""Passages of real texts as tasks like Long Range Arena's: which text is it from, are two from the same text.

Stand-ins for its text and retrieval tasks. They have names of their own, so that their results are not mistaken for
those of Long Range Arena.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nip.data.offline import corpora
from nip.data.offline.corpora import Text
from nip.data.tasks.examples import Examples
from nip.data.tasks.registry import SPLITS, Task
from nip.data.tasks.source import Plan, Request
from nip.graphs.pattern import check_int
from nip.runs.folder import file_sha256

LENGTH = 1000  # maximum bytes of a passage
LONGEST = 4000  # bytes of a text in Long Range Arena


@dataclass(frozen=True)
class Passage:
    """A passage of a text.

    Parameters
    ----------
    text : int
        Index of the text in the corpus.
    label : int
        Class of the text.
    content : bytes
    """

    text: int
    label: int
    content: bytes


def cut(content: bytes, length: int) -> list[bytes]:
    """Cut a text into pieces of at most `length` bytes, between words if possible.

    A rest of less than half of `length` is dropped.

    Examples
    --------
    >>> cut(b"in the beginning God created the heaven", 12)
    [b'in the', b'beginning', b'God created', b'the heaven']
    """
    pieces = []
    start = 0
    while 2 * (len(content) - start) >= length:
        stop = start + length
        if stop < len(content):
            space = content.rfind(b" ", start, stop + 1)
            stop = space if space > start else stop
        pieces.append(content[start:stop])
        start = stop + (content[stop : stop + 1] == b" ")
    return pieces


def split_passages(
    texts: Sequence[Text], *, length: int = LENGTH, whole: bool, seed: int = 0
) -> dict[str, list[Passage]]:
    """Cut texts into passages that do not overlap, and split them at random.

    Of each class a tenth goes to dev, a tenth to test (at least one each), the rest to train.

    Parameters
    ----------
    texts : sequence of Text
    length : int, default=1000
        Maximum bytes of a passage, 1 … 4000.
    whole : bool
        Assign full texts to splits, so that no text is in two of them, instead of single passages.
    seed : int, default=0

    Returns
    -------
    dict of str to list of Passage

    Raises
    ------
    ValueError
        If a number is out of range, or a class is too small.
    """
    length = check_int("length", length, "passages", minimum=1)
    seed = check_int("seed", seed, "passages", minimum=0)
    if length > LONGEST:
        raise ValueError(f"The 'length' parameter of passages must be at most {LONGEST}. Got {length} instead.")
    lots: dict[int, list[list[Passage]]] = {}
    for number, text in enumerate(texts):
        passages = [Passage(number, text.label, piece) for piece in cut(text.content, length)]
        lots.setdefault(text.label, []).extend([passages] if whole else [[passage] for passage in passages])
    dealt: dict[str, list[Passage]] = {split: [] for split in SPLITS}
    for label, of_class in sorted(lots.items()):
        share = max(1, len(of_class) // 10)
        order = _order(len(of_class), seed, label)
        for split, chosen in zip(SPLITS, np.split(order, [len(order) - 2 * share, len(order) - share]), strict=True):
            if not chosen.size:
                raise ValueError(
                    f"Class {label} is too small for three splits: use passages shorter than {length} bytes."
                )
            dealt[split] += [passage for i in chosen for passage in of_class[i]]
    return dealt


def classified(passages: Sequence[Passage], task: Task, split: str, *, seed: int = 0) -> Examples:
    """Passages and their classes as examples, in random order.

    Parameters
    ----------
    passages : sequence of Passage
    task : Task
    split : str
    seed : int, default=0
        Of the order.
    """
    chosen = [passages[i] for i in _order(len(passages), seed, 1000 + SPLITS.index(split))]
    return _examples(task, split, [each.content for each in chosen], [each.label for each in chosen])


def paired(passages: Sequence[Passage], n: int, task: Task, split: str, *, seed: int = 0) -> Examples:
    """Draw `n` pairs of passages: with probability 1/2 two of the same text (label 1), else of different ones (0).

    The first is uniform among the passages, the second among the others that the label allows.

    Parameters
    ----------
    passages : sequence of Passage
    n : int
        Number of pairs, at least 1.
    task : Task
    split : str
    seed : int, default=0

    Returns
    -------
    Examples

    Raises
    ------
    ValueError
        If `n` is out of range, or fewer than two texts have two passages.
    """
    n = check_int(split, n, "pairs", minimum=1)
    by_text: dict[int, list[Passage]] = {}
    for passage in passages:
        by_text.setdefault(passage.text, []).append(passage)
    groups = [group for group in by_text.values() if len(group) > 1]
    if len(groups) < 2:
        raise ValueError(f"The {split} split has fewer than two texts with two passages; use shorter passages.")
    pool = [passage for group in groups for passage in group]
    sizes = np.repeat([len(group) for group in groups], [len(group) for group in groups])  # of each passage's text
    starts = np.repeat(np.cumsum([0, *(len(group) for group in groups)])[:-1], [len(group) for group in groups])
    stream = np.random.SeedSequence(seed, spawn_key=(2000 + SPLITS.index(split),))
    raw = np.random.PCG64(stream).random_raw((3, n))
    labels = (raw[0] >> np.uint64(63)).astype(np.int64)
    first = (raw[1] % np.uint64(len(pool))).astype(np.int64)
    size, start = sizes[first], starts[first]
    choices = np.where(labels == 1, size - 1, len(pool) - size)
    second = (raw[2] % choices.astype(np.uint64)).astype(np.int64)
    among = start + second  # the other passages of the same text
    same = among + (among >= first)
    other = second + size * (second >= start)  # the passages of the other texts
    second = np.where(labels == 1, same, other)
    contents = [pool[i].content for pair in zip(first, second, strict=True) for i in pair]
    return _examples(task, split, contents, labels)


def _order(n: int, seed: int, key: int) -> NDArray[np.int64]:
    """A permutation of n from raw random bits, which do not depend on numpy's version."""
    raw = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(key,))).random_raw(n)
    return np.argsort(raw, kind="stable")


def _examples(task: Task, split: str, contents: Sequence[bytes], labels: Sequence[int] | NDArray[np.int64]) -> Examples:
    tokens = np.frombuffer(b"".join(contents), np.uint8).astype(np.uint16) + np.uint16(1)
    offsets = np.cumsum([0, *map(len, contents)])
    return Examples(task, split, tokens, offsets, np.asarray(labels, dtype=np.int64))


def plan_bible(request: Request) -> Plan:
    """Passages of the Bible; parameters are ``length`` and, for pairs, the numbers ``train``, ``dev`` and ``test``."""
    path = corpora.BIBLE if request.origin is None else corpora.bible_file(request.path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Install Debian's package (apt install bible-kjv-text), or name its file with --from."
        )
    return _plan(
        request,
        lambda: corpora.read_bible(path),
        whole=False,
        source="King James Version",
        checksums={path.name: file_sha256(path)},
        licence="The text is in the public domain (1611); the file is Chip Chapin's, free to use, copy and modify.",
    )


def plan_brown(request: Request) -> Plan:
    """Passages of the Brown corpus; the parameters are those of `plan_bible`."""
    paths = corpora.brown_files(request.path)
    return _plan(
        request,
        lambda: corpora.read_brown(request.path),
        whole=True,
        source="Brown corpus",
        checksums={"files": corpora.checksum_of(paths)},
        licence="Distributed with the permission of the copyright holder, redistribution permitted (Francis and "
        "Kucera, Brown University, 1964; revised 1979).",
    )


def _plan(
    request: Request,
    read: Callable[[], list[Text]],
    *,
    whole: bool,
    source: str,
    checksums: Mapping[str, str],
    licence: str,
) -> Plan:
    task, seed = request.task, request.seed
    length = request.parameters.get("length", LENGTH)
    sizes = request.sizes

    def splits() -> dict[str, Examples]:
        dealt = split_passages(read(), length=length, whole=whole, seed=seed)
        if task.pair:
            return {split: paired(dealt[split], sizes[split], task, split, seed=seed) for split in SPLITS}
        return {split: classified(dealt[split], task, split, seed=seed) for split in SPLITS}

    unit = "each genre's texts" if whole else "each book's passages"
    return Plan(
        {
            "source": source,
            "parameters": {"seed": seed, "length": length, **(sizes if task.pair else {}), **checksums},
            "split_rule": f"By lot: of {unit} a tenth is dev, a tenth test, the rest train. No passage is in two "
            f"splits{', and no text' if whole else ''}."
            + (" Pairs are drawn within a split, half of them of the same text." if task.pair else ""),
            "licence": licence,
            "stand_in": f"Not a task of Long Range Arena: the form of its {'retrieval' if task.pair else 'text'} task, "
            "other texts.",
        },
        splits,
    )

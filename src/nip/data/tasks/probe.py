"""The retrieval probe: values to be retrieved between random places, so only reach through the graph helps.

A sequence has key-value pairs, each a single token, at random places; queries, which name a key, at other random
places; and filler elsewhere. The target at a query is the value that the sequence gives its key. There is no order, no
locality and nothing to memorize: the values are drawn anew for every sequence. A query can be answered only if
information flows from the single token of its pair to the query's token, in as many hops as the model has layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks.examples import Examples
from nip.data.tasks.registry import PROBE_KEYS, PROBE_VALUES, SPLITS, TASKS, Task
from nip.data.tasks.source import Plan, Request
from nip.graphs.pattern import check_int

PADDING, FILLER, QUERY = 0, 1, 2  # ids: then a query for each key, then a pair for each key and value
PAIR = QUERY + PROBE_KEYS
CHUNK = 256  # sequences per random stream; changing it changes every set


@dataclass(frozen=True)
class ProbeRule:
    """Parameters of the probe.

    Parameters
    ----------
    seq_len : int, default=512
        Tokens of a sequence; at least ``pairs + queries``.
    pairs : int, default=16
        Pairs in a sequence, 1 … 16, with different keys.
    queries : int, default=128
        At least 1; the pair of each is uniform.
    values : int, default=8
        Number of values of a key, 2 … 8; uniform.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    seq_len: int = 512
    pairs: int = 16
    queries: int = 128
    values: int = 8

    def __post_init__(self) -> None:
        least = {"pairs": 1, "queries": 1, "values": 2}
        for name, minimum in least.items():
            object.__setattr__(self, name, check_int(name, getattr(self, name), "the probe", minimum=minimum))
        object.__setattr__(
            self, "seq_len", check_int("seq_len", self.seq_len, "the probe", minimum=self.pairs + self.queries)
        )
        for name, maximum in {"pairs": PROBE_KEYS, "values": PROBE_VALUES, "seq_len": 1 << 20}.items():
            if getattr(self, name) > maximum:
                raise ValueError(
                    f"The '{name}' parameter of the probe must be at most {maximum}. Got {getattr(self, name)} instead."
                )


def draw_probe(
    n: int, rule: ProbeRule | None = None, *, split: str = "train", seed: int = 0, task: Task = TASKS["probe"]
) -> Iterator[Examples]:
    """Draw sequences of the probe in chunks. A sequence depends only on rule, seed, split and its number.

    Parameters
    ----------
    n : int
        At least 1.
    rule : ProbeRule, optional
    split : str, default="train"
        ``train``, ``dev`` or ``test``.
    seed : int, default=0
        At least 0.
    task : Task, optional
        Of the examples.

    Yields
    ------
    Examples
        Up to 256 at a time. ``targets`` is the value + 1 at a query and 0 elsewhere; ``labels`` is the value of the
        first query.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> (few,) = draw_probe(2, ProbeRule(seq_len=6, pairs=2, queries=2, values=3), seed=3)
    >>> [few.task.tokens[i] for i in few.sequence(0)], few.targets[:6].tolist()
    (['.', '?10', '10=0', '?5', '.', '5=0'], [0, 1, 0, 1, 0, 0])
    """
    rule = rule or ProbeRule()
    n = check_int("n", n, "the probe", minimum=1)
    seed = check_int("seed", seed, "the probe", minimum=0)
    return (_chunk(start, min(CHUNK, n - start), rule, split, seed, task) for start in range(0, n, CHUNK))


def _chunk(start: int, n: int, rule: ProbeRule, split: str, seed: int, task: Task) -> Examples:
    stream = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), start // CHUNK))
    counts = (rule.seq_len, PROBE_KEYS, rule.pairs, rule.queries)
    # full chunks, so that sequences do not depend on n; raw bits, so that they do not depend on numpy's version
    raw = np.random.PCG64(stream).random_raw((CHUNK, sum(counts)))[:n]
    of_place, of_key, of_value, of_query = np.split(raw, np.cumsum(counts)[:-1], axis=1)
    places = np.argsort(of_place, axis=1, kind="stable")[:, : rule.pairs + rule.queries]
    keys = np.argsort(of_key, axis=1, kind="stable")[:, : rule.pairs]
    values = (of_value % np.uint64(rule.values)).astype(np.int64)
    asked = (of_query % np.uint64(rule.pairs)).astype(np.int64)  # which of the pairs
    tokens = np.full((n, rule.seq_len), FILLER, np.uint8)
    targets = np.zeros((n, rule.seq_len), np.uint8)
    where, wanted = places[:, rule.pairs :], np.take_along_axis(values, asked, axis=1)
    np.put_along_axis(tokens, places[:, : rule.pairs], PAIR + PROBE_VALUES * keys + values, axis=1)
    np.put_along_axis(tokens, where, QUERY + np.take_along_axis(keys, asked, axis=1), axis=1)
    np.put_along_axis(targets, where, wanted + 1, axis=1)
    labels = np.take_along_axis(wanted, where.argmin(axis=1)[:, None], axis=1)[:, 0]
    offsets = np.arange(n + 1, dtype=np.int64) * rule.seq_len
    return Examples(task, split, tokens.reshape(-1), offsets, labels, targets=targets.reshape(-1))


def routes(tokens: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The queries of a sequence and the pairs that answer them: from where to where information must flow.

    Parameters
    ----------
    tokens : ndarray of shape (seq_len,)

    Returns
    -------
    queries, pairs : ndarray of shape (n_queries,), int64
        Positions of the queries, ascending, and of the pair of each.

    Examples
    --------
    >>> from nip.data.tasks.registry import TASKS
    >>> ids = [TASKS["probe"].tokens.index(name) for name in ("?1", "0=7", ".", "1=2", "?0")]
    >>> queries, pairs = routes(np.array(ids))
    >>> queries.tolist(), pairs.tolist()
    ([0, 4], [3, 1])
    """
    tokens = np.asarray(tokens).astype(np.int64)
    queries = np.flatnonzero((tokens >= QUERY) & (tokens < PAIR))
    pairs = np.flatnonzero(tokens >= PAIR)
    of_key = np.zeros(PROBE_KEYS, np.int64)
    of_key[(tokens[pairs] - PAIR) // PROBE_VALUES] = pairs
    return queries, of_key[tokens[queries] - QUERY]


def unanswerable(input_ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which tokens are queries without a pair, as in truncated sequences.

    Parameters
    ----------
    input_ids : ndarray of shape (n, length)

    Returns
    -------
    ndarray of bool, of the same shape

    Examples
    --------
    >>> from nip.data.tasks.registry import TASKS
    >>> ids = [TASKS["probe"].tokens.index(name) for name in ("?1", "0=7", ".", "?0", "1=2")]
    >>> unanswerable(np.array([ids, [*ids[:4], 0]])).tolist()
    [[False, False, False, False, False], [True, False, False, False, False]]
    """
    ids = np.asarray(input_ids).astype(np.int64)
    given = np.zeros((len(ids), PROBE_KEYS), np.bool_)
    rows, places = np.nonzero(ids >= PAIR)
    given[rows, (ids[rows, places] - PAIR) // PROBE_VALUES] = True
    alone = np.zeros(ids.shape, np.bool_)
    rows, places = np.nonzero((ids >= QUERY) & (ids < PAIR))
    alone[rows, places] = ~given[rows, ids[rows, places] - QUERY]
    return alone


def plan(request: Request) -> Plan:
    """Draw a set; parameters are the numbers of sequences ``train``, ``dev`` and ``test``, and those of `ProbeRule`."""
    names = {field.name for field in fields(ProbeRule)}
    rule = ProbeRule(**{name: value for name, value in request.parameters.items() if name in names})
    sizes = {name: check_int(name, value, "the probe", minimum=1) for name, value in request.sizes.items()}
    seed = check_int("seed", request.seed, "the probe", minimum=0)
    return Plan(
        {
            "source": "drawn by nip",
            "parameters": {"seed": seed, **sizes, **asdict(rule)},
            "split_rule": "Every split is drawn from random numbers of its own.",
            "licence": "Made from random numbers, it holds nobody's text.",
        },
        lambda: {split: draw_probe(sizes[split], rule, split=split, seed=seed, task=request.task) for split in SPLITS},
    )

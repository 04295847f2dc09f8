"""The sampler against the rule: its own random stream replayed in Python, and the exact distribution of lengths."""

import hashlib
import itertools
import random

import numpy as np
import pytest
from scipy import stats

from nip.data import Rule, decode, evaluate, generate
from nip.data.tasks.listops import generate as sampling

SHORT = Rule(max_depth=5, max_args=4, min_length=8, max_length=60)


def digest(splits):
    arrays = [a for s in splits.values() for a in (s.tokens, s.offsets.astype("<i8"), s.labels.astype("<i8"))]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


@pytest.mark.parametrize("workers", [2, 5])
def test_the_number_of_workers_does_not_matter(workers):
    sizes = (9000, 100, 100)  # several chunks
    assert digest(generate(SHORT, sizes, seed=3, workers=workers)) == digest(generate(SHORT, sizes, seed=3, workers=1))


def test_the_same_seed_gives_the_same_bytes_on_every_machine():
    splits = generate(Rule(), (200, 20, 20), seed=42)
    assert digest(splits) == "a07ef29cdf0e196d414175f278acf79a1b5273838439d5045580177259f00019"
    assert digest(generate(Rule(), (200, 20, 20), seed=43)) != digest(splits)


def test_global_generators_are_left_alone():
    before, before_numpy = random.getstate(), np.random.get_state()
    generate(SHORT, (5, 5, 5))
    assert random.getstate() == before
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before_numpy, strict=True))


def replay(rule, seed, chunk):
    """The chunk's trees by the rule's own words: recursion on the same random numbers."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(chunk,))))

    def node(depth):
        bits = int(rng.random() * 2**53)
        if depth > 1 and (depth == rule.max_depth or bits % 4):
            return [6 + bits // 4 % 10]
        children = [node(depth + 1) for _ in range(2 + bits // 16 % (rule.max_args - 1))]
        return [1 + bits // 4 % 4, *itertools.chain(*children), 5]

    drawn = (node(1) for _ in range(sampling.ATTEMPTS))
    return [tree for tree in drawn if rule.min_length < len(tree) < rule.max_length]


def test_two_chunks_are_the_rule_replayed_in_python():
    # no tree of this rule reaches the upper limit, where the sampler stops early and the streams would part
    rule = Rule(max_depth=5, max_args=4, min_length=8, max_length=1000)
    trees = list(dict.fromkeys(map(tuple, replay(rule, 11, 0) + replay(rule, 11, 1))))
    splits = generate(rule, (len(trees) - 20, 10, 10), seed=11)
    made = [tuple(split.sequence(i).tolist()) for split in splits.values() for i in range(len(split))]
    assert made == trees


def length_distribution(rule):
    """Probability of every length from 0 below max_length, exactly: of the root's, before any is refused."""
    one = np.zeros(rule.max_length)
    one[1] = 1.0
    node = one
    for _ in range(rule.max_depth - 1):
        power, total = node, np.zeros(rule.max_length)
        for _ in range(2, rule.max_args + 1):
            power = np.convolve(power, node)[: rule.max_length]
            total += power / (rule.max_args - 1)
        node = 0.75 * one + 0.25 * np.concatenate([[0, 0], total[:-2]])
    return node


@pytest.mark.parametrize("rule", [Rule(), Rule(min_length=100, max_length=250), Rule(7, 6, 60, 300)])
def test_lengths_follow_the_rule_exactly(rule):
    expected = length_distribution(rule)
    expected[: rule.min_length + 1] = 0
    expected /= expected.sum()
    lengths = np.concatenate([split.lengths for split in generate(rule, (8000, 1, 1), seed=1).values()])
    assert rule.min_length < lengths.min()
    assert lengths.max() < rule.max_length
    edges = np.searchsorted(np.cumsum(expected), np.arange(1, 20) / 20)  # twenty bins of about the same probability
    observed = np.bincount(np.searchsorted(edges, lengths), minlength=20)
    probability = np.bincount(np.searchsorted(edges, np.arange(expected.size)), weights=expected, minlength=20)
    assert stats.chisquare(observed, probability * lengths.size).pvalue > 1e-3


def test_every_example_obeys_the_rule():
    splits = generate(SHORT, (2000, 100, 100), seed=7)
    seen = set()
    for split in splits.values():
        for i in range(len(split)):
            tokens = split.sequence(i).tolist()
            assert SHORT.min_length < len(tokens) < SHORT.max_length
            assert split.labels[i] == evaluate(tokens)
            depth = deepest = 1
            arguments = [0]
            for token in tokens:
                if token == 5:
                    assert 2 <= arguments.pop() <= SHORT.max_args
                    depth -= 1
                    continue
                deepest = max(deepest, depth)
                arguments[-1] += 1
                if token < 5:
                    arguments.append(0)
                    depth += 1
            assert deepest <= SHORT.max_depth
            seen.add(decode(tokens))
    assert len(seen) == 2200


def test_no_example_occurs_twice_even_if_that_takes_all_there_are():
    tiny = Rule(max_depth=2, max_args=2, min_length=3, max_length=5)  # four operators on two digits: 400
    splits = generate(tiny, (380, 10, 10), seed=0)
    made = {decode(split.sequence(i)) for split in splits.values() for i in range(len(split))}
    assert made == {f"{o} {a} {b} ]" for o in ("[MIN", "[MAX", "[MED", "[SM") for a in range(10) for b in range(10)}
    with pytest.raises(ValueError, match="found only 400 of 401 different examples"):
        generate(tiny, (381, 10, 10), seed=0)


def test_progress_is_told():
    told = []
    generate(SHORT, (9000, 100, 100), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 9200
    assert len(told) > 1


@pytest.mark.parametrize(
    ("sizes", "seed", "message"),
    [((0, 1, 1), 0, "'train'.* at least 1. Got 0"), ((1, 1, -2), 0, "'test'"), ((1, 1, 1), -1, "'seed'.* at least 0")],
)
def test_bad_sizes_and_seeds_are_refused(sizes, seed, message):
    with pytest.raises(ValueError, match=message):
        generate(SHORT, sizes, seed=seed)


@pytest.mark.slow
def test_the_full_set():
    splits = generate(seed=0)
    assert [len(split) for split in splits.values()] == [96000, 2000, 2000]
    texts = {split.sequence(i).tobytes() for split in splits.values() for i in range(len(split))}
    assert len(texts) == 100000
    train = splits["train"]
    for i in range(0, 96000, 50):
        assert train.labels[i] == evaluate(train.sequence(i))

"""The probe against its description in words: every sequence is read token by token and answered by looking it up."""

import hashlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.data import baselines, open_split, read_manifest, verify
from nip.data.tasks.build import build
from nip.data.tasks.probe import ProbeRule, draw_probe, routes, unanswerable


def drawn(n, rule=None, **asked):
    return list(draw_probe(n, rule, **asked))


def read(examples, i):
    """One sequence as names, and its targets."""
    start, stop = examples.offsets[i], examples.offsets[i + 1]
    return [examples.task.tokens[t] for t in examples.sequence(i)], examples.targets[start:stop].tolist()


rules = st.builds(
    lambda pairs, queries, values, more: ProbeRule(pairs + queries + more, pairs, queries, values),
    st.integers(1, 16),
    st.integers(1, 40),
    st.integers(2, 8),
    st.integers(0, 60),
)


@settings(max_examples=40, deadline=None)
@given(rules, st.integers(0, 2**63))
def test_every_target_is_the_value_of_the_key_asked_for(rule, seed):
    (examples,) = drawn(5, rule, seed=seed)
    for i in range(5):
        names, targets = read(examples, i)
        assert len(names) == rule.seq_len
        given_ = dict(name.split("=") for name in names if "=" in name)
        assert len(given_) == sum("=" in name for name in names) == rule.pairs  # no key twice
        assert all(int(value) < rule.values for value in given_.values())
        expected = [int(given_[name[1:]]) + 1 if name.startswith("?") else 0 for name in names]
        assert targets == expected
        assert sum(name.startswith("?") for name in names) == rule.queries
        assert sum(name == "." for name in names) == rule.seq_len - rule.pairs - rule.queries
        assert examples.labels[i] + 1 == next(target for target in targets if target)


def test_routes_lead_to_the_pair_of_the_key():
    (examples,) = drawn(20)
    for i in range(20):
        names, _ = read(examples, i)
        queries, pairs = routes(examples.sequence(i))
        assert queries.tolist() == [k for k, name in enumerate(names) if name.startswith("?")]
        for query, pair in zip(queries, pairs, strict=True):
            assert names[pair].split("=")[0] == names[query][1:]


def test_places_keys_and_values_are_uniform_and_independent():
    rule = ProbeRule(seq_len=32, pairs=4, queries=8, values=8)
    places, answers, asked = np.zeros(32), np.zeros(8), np.zeros(16)
    together = np.zeros((32, 32))
    for examples in draw_probe(6000, rule, seed=1):
        for i in range(len(examples)):
            tokens = examples.sequence(i)
            queries, pairs = routes(tokens)
            places[queries] += 1
            np.add.at(together, (queries, pairs), 1)
            np.add.at(asked, tokens[queries] - 2, 1)
        answers += np.bincount(examples.targets, minlength=9)[1:]
    n = 6000 * 8
    assert np.abs(places / n - 1 / 32).max() < 5 * np.sqrt(1 / 32 / n)
    # several queries ask for the same pair, and no place can be both: looser
    assert np.abs(answers / n - 1 / 8).max() < 5 * np.sqrt(1 / 8 / (6000 * 4))
    assert np.abs(asked / n - 1 / 16).max() < 5 * np.sqrt(1 / 16 / (6000 * 4))
    off = together[~np.eye(32, dtype=bool)] / n
    assert together.trace() == 0
    assert np.abs(off - 1 / (32 * 31)).max() < 8 * np.sqrt(1 / (32 * 31) / n)


def test_no_two_sequences_are_alike():
    examples = drawn(3000) + drawn(500, split="dev") + drawn(500, seed=1)
    seen = {each.sequence(i).tobytes() for each in examples for i in range(len(each))}
    assert len(seen) == 4000


def test_a_sequence_depends_on_its_number_and_not_on_the_size_of_the_set():
    few, many = drawn(300, seed=2), drawn(700, seed=2)
    for i in range(300):
        one, other = few[i // 256], many[i // 256]
        assert np.array_equal(one.sequence(i % 256), other.sequence(i % 256))
        assert one.labels[i % 256] == other.labels[i % 256]


def test_the_same_seed_gives_the_same_bytes_on_every_machine():
    (examples,) = drawn(200, seed=42)
    digest = hashlib.sha256(examples.tokens.tobytes() + examples.targets.tobytes()).hexdigest()
    assert digest == "952b14a4e11d28cec5a793ff329d92321b31bb06e85c1bbc4701b04ca6b34fcb"


@given(length=st.integers(1, 60), seed=st.integers(0, 50))
def test_queries_that_nothing_answers_are_those_whose_pair_is_cut_off(length, seed):
    (examples,) = drawn(5, ProbeRule(seq_len=60, queries=20), seed=seed)
    input_ids, _ = examples.batch(range(5), length)
    found = unanswerable(input_ids)
    for i in range(5):
        queries, pairs = routes(examples.sequence(i))
        cut_off = {int(q) for q, pair in zip(queries, pairs, strict=True) if q < length <= pair}
        assert set(np.flatnonzero(found[i]).tolist()) == cut_off


def test_the_commonest_value_of_what_is_asked_is_the_bar(monkeypatch):
    monkeypatch.setattr(sys.modules["nip.data.tasks.statistics"], "CHUNK", 77)
    ((train,), (test,)) = drawn(9, seed=1), drawn(7, seed=2)
    asked = [[value for i in range(len(each)) for value in read(each, i)[1] if value] for each in (train, test)]
    commonest = max(range(1, 9), key=asked[0].count)
    assert baselines(train, test) == {"commonest_label": asked[1].count(commonest) / len(asked[1])}


def test_a_set_on_disk(tmp_path):
    sizes = {"train": 300, "dev": 10, "test": 20}
    assert build("probe", tmp_path, seed=5, parameters={**sizes, "seq_len": 64, "queries": 8})
    assert verify("probe", tmp_path) == sizes
    train = open_split("probe", "train", tmp_path)
    expected = drawn(300, ProbeRule(seq_len=64, queries=8), seed=5)
    assert np.array_equal(train.tokens, np.concatenate([each.tokens for each in expected]))
    assert np.array_equal(train.batch_targets([299], 64)[0], expected[1].targets[-64:])
    assert read_manifest("probe", tmp_path)["parameters"] == {
        **{"seed": 5, **sizes},
        **{"seq_len": 64, "pairs": 16, "queries": 8, "values": 8},
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pairs": 0}, "'pairs' parameter of the probe must be an integer of at least 1. Got 0"),
        ({"pairs": 17}, "'pairs' parameter of the probe must be at most 16. Got 17"),
        ({"values": 1}, "'values' parameter of the probe must be an integer of at least 2"),
        ({"values": 9}, "'values' parameter of the probe must be at most 8"),
        ({"queries": 2.5}, "'queries' parameter"),
        ({"seq_len": 143}, "'seq_len' parameter of the probe must be an integer of at least 144"),
        ({"dev": 0}, "'dev' parameter"),
        ({"keys": 3}, "no parameter 'keys'"),
    ],
)
def test_bad_parameters_are_refused(parameters, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build("probe", tmp_path, parameters=parameters)
    assert not list(tmp_path.iterdir())

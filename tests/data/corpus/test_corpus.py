import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.data.corpus import Masking, Settings, build_corpus, corpus, open_corpus, read_manifest, verify
from text_corpora import write_texts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    source = write_texts(folder / "in", 4)
    for path in source.rglob("*.txt"):
        path.rename(path.with_name(f"{'test' if path.name == '3.txt' else 'train'}{path.name}"))
    settings = Settings(train_tokenizer=200, max_seq_length=32, split_by_name=True)
    build_corpus(str(source), folder / "out", settings)
    return folder / "out"


def test_an_epoch_gives_every_sample_once(made):
    train = open_corpus(made)
    assert len(train) == sum(shard["samples"] for shard in train.manifest["splits"]["train"]["shards"]) > 90
    assert len(train.begins) == 4
    stored = train.samples(np.arange(len(train)))
    epochs = [train.batch(np.arange(len(train)), seed=1, epoch=epoch) for epoch in range(2)]
    for batch in epochs:
        assert sorted(batch.numbers.tolist()) == list(range(len(train)))
        assert np.array_equal(batch.input_ids, stored.input_ids[batch.numbers])
        assert np.array_equal(batch.segment_ids, stored.segment_ids[batch.numbers])
    assert not np.array_equal(epochs[0].numbers, epochs[1].numbers)
    assert ((stored.segment_ids == 0) == (stored.input_ids == train.vocabulary.pad)).all()
    starts = np.diff(stored.segment_ids, axis=1, prepend=0) > 0
    assert (stored.input_ids[starts] == train.vocabulary.cls).all()
    assert (stored.input_ids == train.vocabulary.cls).sum() == starts.sum()


@given(st.integers(1, 7), st.integers(1, 40), st.integers(0, 5))
def test_any_number_of_processes_sees_the_same(made, processes, batch_size, epoch):
    train = open_corpus(made)
    places = np.arange(batch_size) % len(train)
    whole = train.batch(places, seed=3, epoch=epoch)
    masked = train.masked(whole, Masking(), seed=3, epoch=epoch)
    for rank in range(processes):
        part = open_corpus(made).batch(places[rank::processes], seed=3, epoch=epoch)
        assert np.array_equal(part.input_ids, whole.input_ids[rank::processes])
        ours = train.masked(part, Masking(), seed=3, epoch=epoch)
        assert np.array_equal(ours.input_ids, masked.input_ids[rank::processes])
        assert np.array_equal(ours.positions, masked.positions[rank::processes])


@pytest.mark.parametrize("length", [8, 31, 64, 512])
def test_other_lengths_hold_the_same_tokens(made, length):
    usual, other = open_corpus(made), open_corpus(made, max_seq_length=length)
    words = [
        batch.input_ids[~np.isin(batch.input_ids, [usual.vocabulary.cls, usual.vocabulary.sep, usual.vocabulary.pad])]
        for batch in (each.samples(np.arange(len(each))) for each in (usual, other))
    ]
    assert np.array_equal(*words) and words[0].size == usual.tokens
    assert other.samples(np.array([0])).input_ids.shape == (1, length)


def test_few_shards_are_open_at_a_time(made, monkeypatch):
    monkeypatch.setattr(corpus, "_OPEN", 1)
    few, many = open_corpus(made), open_corpus(made)
    numbers = np.array([len(many) - 1, 0, len(many) // 2, 0])
    assert np.array_equal(few.samples(numbers).input_ids, many.samples(numbers).input_ids)
    assert len(few._open) == 1


def test_numbers_and_splits_that_are_not_there(made):
    train = open_corpus(made)
    for number in (-1, len(train)):
        with pytest.raises(ValueError, match="are numbered 0 … "):
            train.samples(np.array([number]))
    with pytest.raises(ValueError, match="has no split 'dev'"):
        open_corpus(made, "dev")
    with pytest.raises(ValueError, match="at least 8 tokens"):
        open_corpus(made, max_seq_length=5)


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def test_damage_is_found(copy):
    assert verify(copy)
    tokens = copy / "train-00001.tokens.npy"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    open_corpus(copy)
    with pytest.raises(ValueError, match=r"train-00001\.tokens\.npy is damaged: its SHA-256"):
        verify(copy)
    tokens.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"train-00001\.tokens\.npy is damaged: it has \d+ bytes and should have"):
        open_corpus(copy)
    tokens.unlink()
    with pytest.raises(ValueError, match=r"train-00001\.tokens\.npy is damaged: it is missing"):
        open_corpus(copy)
    tokens.write_bytes(whole)
    (copy / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged: its SHA-256"):
        verify(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "this version of nip reads 'corpus' 1"),
        ({"kind": "task"}, "it describes 'task'"),
        ({"splits": 3}, "it is not the manifest of a corpus"),
        ({"tokenizer": {"vocabulary": {"size": 3}}}, "it is not the manifest of a corpus"),
    ],
)
def test_manifests_that_are_none(copy, change, message):
    path = copy / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        read_manifest(copy)


def test_no_corpus(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no corpus in .* nip data corpus --from FOLDER"):
        open_corpus(tmp_path)

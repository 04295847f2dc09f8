"""The command `nip data corpus`."""

import json

import pytest

from nip.cli import main
from nip.data.corpus import open_corpus
from text_corpora import write_texts

ASKED = ["--train-tokenizer", 200, "--max-seq-length", 32, "--jobs", 1]


@pytest.fixture
def nip(capsys):
    """Run the command line in-process: (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def test_make_and_check(nip, tmp_path):
    source, out = write_texts(tmp_path / "in", 2), tmp_path / "out"
    code, said, err = nip("corpus", "--from", source, "--out", out, *ASKED)
    assert (code, err) == (0, "")
    train = open_corpus(out)
    assert f"{out}: made in" in said
    assert "120 documents read; dropped: 0 exact duplicates" in said
    assert f"{train.tokens:,} tokens, {len(train):,} samples of 32, 1 shards" in said
    code, said, _ = nip("corpus", "--from", source, "--out", out, *ASKED)
    assert code == 0 and f"{out}: exists already" in said
    code, said, _ = nip("verify", out)
    assert code == 0 and f"sound ({len(train):,} train samples, {len(open_corpus(out, 'test'))} test samples)" in said
    assert json.loads(nip("verify", out, "--json")[1])["samples"]["train"] == len(train)


def test_every_option_arrives(nip, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(
        "".join(json.dumps({"words": f"Ünique text {k}. It goes on, as texts do."}) + "\n" for k in range(40)).encode()
    )
    options = {
        "column": "words",
        "encoding": "latin-1",
        "bad_bytes": "drop",
        "form": "lines",
        "unicode_form": "NFKC",
        "min_chars": 3,
        "max_chars": 500,
        "near_duplicates": 0,
        "frac_test": 0.3,
        "dup_factor": 2,
        "masked_lm_prob": 0.3,
        "max_predictions_per_seq": 7,
        "seed": 4,
        "shard_mb": 2,
    }
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    switches = ["--cased", "--exact-duplicates", "--masked-once", "--next-sentence", "--keep-text", "--licence", "none"]
    code, said, err = nip(
        "corpus", "--from", tmp_path / "in", "--out", tmp_path / "out", *ASKED, *flags, *switches, "--json"
    )
    assert (code, err) == (0, "")
    made = json.loads(said)
    settings = made["manifest"]["settings"]
    assert made["made"] is True and made["manifest"]["licence"] == "none"
    assert {name: settings[name] for name in options} == options
    assert (settings["lower_case"], settings["exact_duplicates"]) == (False, True)
    assert (settings["masked_once"], settings["next_sentence"], settings["packing"]) == (True, True, True)
    assert (tmp_path / "out" / "text").is_dir()
    code, _, err = nip("corpus", "--from", tmp_path / "in", "--out", tmp_path / "out", *ASKED)
    assert code == 2 and "holds another corpus" in err
    again = ["--overwrite", "--no-packing", "--column", "words", "--json"]
    code, said, err = nip("corpus", "--from", tmp_path / "in", "--out", tmp_path / "out", *ASKED, *again)
    assert code == 0, err
    assert json.loads(said)["manifest"]["settings"]["packing"] is False


def test_options_without_effect_are_reported(nip, tmp_path):
    source, out = write_texts(tmp_path / "in", 1), tmp_path / "out"
    words = ["--from", source, "--out", out, "--max-seq-length", 32, "--jobs", 1]
    idle = ["--dup-factor", 7, "--masked-lm-prob", 0.2, "--max-predictions-per-seq", 3, "--seed", 1]
    code, _, err = nip("corpus", *words, "--train-tokenizer", 200, *idle, "--cased")
    assert code == 0
    names = ("dup-factor", "masked-lm-prob", "max-predictions-per-seq", "seed")
    assert err.splitlines() == [f"nip: --{name} does nothing without --masked-once." for name in names]
    words[3] = tmp_path / "two"
    code, _, err = nip("corpus", *words, "--tokenizer", out / "tokenizer", "--cased")
    assert (code, err) == (0, "nip: --cased does nothing with a tokenizer that is not a vocab.txt.\n")


def test_words_that_the_tokenizer_does_not_know_are_reported(nip, tmp_path):
    source = write_texts(tmp_path / "in", 1)
    assert nip("corpus", "--from", source, "--out", tmp_path / "a", *ASKED)[0] == 0
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "a.txt").write_text("the graph 猫 joins 坐 blocks\n\n" * 3 + "the graph of tokens" * 99)
    words = ["--tokenizer", tmp_path / "a" / "tokenizer", "--frac-test", 0, "--near-duplicates", 0, "--jobs", 1]
    code, _, err = nip("corpus", "--from", tmp_path / "zh", "--out", tmp_path / "b", *words)
    split = open_corpus(tmp_path / "b").manifest["splits"]["train"]
    assert (code, err, split["unknown"]) == (0, "", 2)
    (tmp_path / "zh" / "b.txt").write_text("猫坐在屋顶上。" * 9)
    code, _, err = nip("corpus", "--from", tmp_path / "zh", "--out", tmp_path / "c", *words)
    assert (
        code == 0
        and err.startswith("nip: train: ")
        and err.endswith(
            " % of the tokens are unknown to the tokenizer; another one may know their words or characters.\n"
        )
    )


def test_a_corpus_of_earlier_rules_is_reported_and_not_continued(nip, tmp_path):
    source, out = write_texts(tmp_path / "in", 1), tmp_path / "out"
    words = ["corpus", "--from", source, "--out", out, *ASKED]
    assert nip(*words)[0] == 0
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["rules"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert len(open_corpus(out)) > 0
    code, _, err = nip(*words)
    assert code == 0 and "out was made by an earlier version of nip, which read text by other rules" in err
    (out / "manifest.json").rename(out / "plan.json")
    keys = {key: manifest[key] for key in ("source", "licence", "settings")}
    (out / "plan.json").write_text(json.dumps({"asked": keys, "files": [], "parts": []}))
    path = source / "0.txt"
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns]]
    (out / "plan.json").write_text(json.dumps({"asked": keys, "files": files, "parts": []}))
    code, _, err = nip(*words)
    assert code == 2 and "was begun by another version of nip" in err and "--overwrite" in err
    assert nip(*words, "--overwrite")[0] == 0 and nip("verify", out)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "nowhere/at/all", "--out", "out", *ASKED], "There is no file or folder nowhere/at/all"),
        (["--from", "in", "--out", "out"], "Name a tokenizer with --tokenizer, or train one"),
        (["--from", "in", "--out", "out", *ASKED, "--frac-test", 2], "--frac-test must be"),
    ],
)
def test_bad_input_is_one_sentence(nip, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "in", 1)
    code, said, err = nip("corpus", *arguments)
    assert code == 2 and said == ""
    assert err.startswith("nip: ") and message in err and err.count("\n") == 1


def test_a_folder_without_a_corpus(nip, tmp_path):
    code, _, err = nip("verify", tmp_path)
    assert code == 2 and "There is no corpus in" in err

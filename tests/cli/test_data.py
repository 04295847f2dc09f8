"""`nip data …` as typed."""

import json

import pytest

from nip.cli import main
from nip.data import SPLITS, decode, open_split

SMALL = ["--train", "40", "--dev", "6", "--test", "8", "--min-length", "10", "--max-length", "60"]


@pytest.fixture
def nip(capsys, tmp_path):
    """Run the command line in-process: (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["data", *map(str, arguments), "--data", str(tmp_path / "data")])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def test_make_look_and_check(nip, tmp_path):
    code, out, err = nip("listops", *SMALL, "--seed", 3, "--tsv")
    assert (code, err) == (0, "")
    assert f"{tmp_path / 'data' / 'listops'}: made" in out
    assert "operators [MIN" in out
    assert "root's operator" in out
    assert (tmp_path / "data" / "listops" / "basic_val.tsv").is_file()
    code, out, _ = nip("listops", *SMALL, "--seed", 3)
    assert code == 0
    assert "is there already" in out
    code, out, _ = nip("verify", "listops")
    assert code == 0
    assert "sound (40 train, 6 dev, 8 test)" in out
    code, out, _ = nip("show", "listops", "--split", "test", "--index", 5)
    split = open_split("listops", "test", tmp_path / "data")
    assert code == 0
    assert f"label {split.labels[5]}, {split.lengths[5]} tokens\n{decode(split.sequence(5))}\n" in out


def test_json_is_one_value(nip, tmp_path):
    code, out, err = nip("listops", *SMALL, "--json")
    made = json.loads(out)
    assert (code, err) == (0, "")
    assert made["made"] is True
    assert made["folder"] == str(tmp_path / "data" / "listops")
    assert made["manifest"]["parameters"]["seed"] == 0
    assert {name: made["statistics"][name]["examples"] for name in SPLITS} == {"train": 40, "dev": 6, "test": 8}
    assert set(made["baselines"]) == {"commonest_label", "root_operator"}
    assert json.loads(nip("listops", *SMALL, "--json")[1])["made"] is False
    shown = json.loads(nip("show", "listops", "--index", 2, "--count", 3, "--json")[1])
    assert [row["index"] for row in shown] == [2, 3, 4]
    assert json.loads(nip("verify", "listops", "--json")[1])["examples"] == {"train": 40, "dev": 6, "test": 8}


def test_official_files_are_taken(nip, tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"basic_{name}.tsv").write_text("Source\tTarget\n( ( ( [MAX 1 ) 2 ) ] )\t2\n")
    code, _, _ = nip("listops", "--from", tmp_path)
    assert code == 0
    assert nip("show", "listops")[1].endswith("label 2, 4 tokens\n[MAX 1 2 ]\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "There is no task 'nosuch'. nip data takes listops"),
        (["listops", "--min-length", "0"], "'min_length'"),
        (["listops", "--train", "0"], "'train'"),
        (["listops", "--seed", "-1"], "'seed'"),
        (["listops", "--max-depth", "3", "--max-args", "3"], "must be below"),
        (["listops", "--from", "nowhere"], "There is no nowhere. The sources of listops are: drawn"),
        (["listops", "--from", "nowhere", "--seed", "1", "--max-args", "4"], "--seed, --max-args cannot be given"),
        (["show", "listops"], "Make it with: nip data listops --out"),
        (["show", "lists"], "The tasks are listops"),
        (["verify", "listops"], "Make it with"),
        (["show", "listops", "--count", "0"], "--count must be"),
    ],
)
def test_bad_input_is_one_sentence(nip, arguments, message, tmp_path):
    code, out, err = nip(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_another_set_is_refused_and_overwritten(nip):
    assert nip("listops", *SMALL)[0] == 0
    code, _, err = nip("listops", *SMALL, "--seed", 1)
    assert code == 2
    assert "seed is 0 there and 1 here" in err
    assert nip("listops", *SMALL, "--seed", 1, "--overwrite")[0] == 0
    code, _, err = nip("show", "listops", "--split", "dev", "--index", 6)
    assert code == 2
    assert "holds the examples 0 … 5" in err


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    from nip.cli.making import progress_bar

    with progress_bar("ListOps", 3) as told:
        assert told is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bar("ListOps", 3) as told:
        told(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/3" in captured.err

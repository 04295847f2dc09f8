"""The commands of `nip data`."""

import json
import pickle

import numpy as np
import pytest

from nip.cli import main
from nip.data import SPLITS, TASKS, decode, open_split
from nip.data.corpus import read_manifest as read_corpus

SMALL = ["--train", "40", "--dev", "6", "--test", "8", "--min-length", "10", "--max-length", "60"]


@pytest.fixture
def nip(capsys, tmp_path):
    """Run the command line in-process: (exit code, standard output, standard error)."""

    def run(*arguments, data=("--data", tmp_path / "data")):
        with pytest.raises(SystemExit) as ended:
            main(["data", *map(str, [*arguments, *data])])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def test_make_show_and_verify(nip, tmp_path):
    code, out, err = nip("listops", *SMALL, "--seed", 3, "--tsv")
    assert (code, err) == (0, "")
    assert f"{tmp_path / 'data' / 'listops'}: made" in out
    assert "operators [MIN" in out
    assert "root's operator" in out
    assert (tmp_path / "data" / "listops" / "basic_val.tsv").is_file()
    code, out, _ = nip("listops", *SMALL, "--seed", 3)
    assert code == 0
    assert "exists already" in out
    code, out, _ = nip("verify", "listops")
    assert code == 0
    assert "sound (40 train, 6 dev, 8 test)" in out
    code, out, _ = nip("show", "listops", "--split", "test", "--index", 5)
    split = open_split("listops", "test", tmp_path / "data")
    assert code == 0
    assert f"label {split.labels[5]}, {split.lengths[5]} tokens\n{decode(split.sequence(5))}\n" in out


def test_verify_takes_the_folder_itself(nip, tmp_path, monkeypatch):
    nip("listops", *SMALL)
    folder = tmp_path / "data" / "listops"
    code, out, _ = nip("verify", folder, data=())
    assert code == 0 and out == f"{folder}: sound (40 train, 6 dev, 8 test)\n"
    monkeypatch.chdir(folder)
    assert nip("verify", ".", data=())[0] == 0
    code, _, err = nip("verify", folder)
    assert code == 2 and "--data is for the name of a task" in err
    with (folder / "train.tokens.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    code, _, err = nip("verify", folder, data=())
    assert code == 2 and "train.tokens.npy is damaged" in err
    other = folder.rename(tmp_path / "expressions")
    code, _, err = nip("verify", other, data=())
    assert code == 2 and "holds the data of listops, which must be in a folder of that name" in err
    with pytest.raises(ValueError, match="has the data of listops, not a corpus"):
        read_corpus(other)


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


@pytest.mark.parametrize(
    "below", ["", "listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000"]
)
def test_official_files_are_read(nip, tmp_path, below):
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    for name in ("train", "val", "test"):
        (tmp_path / below / f"basic_{name}.tsv").write_text("Source\tTarget\n( ( ( [MAX 1 ) 2 ) ] )\t2\n")
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
        (["probe", "--param", "train=abc"], "train"),
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


def test_other_settings_are_refused_and_overwritten(nip):
    assert nip("listops", *SMALL)[0] == 0
    code, _, err = nip("listops", *SMALL, "--seed", 1)
    assert code == 2
    assert "seed is 0 there and 1 here" in err
    assert nip("listops", *SMALL, "--seed", 1, "--overwrite")[0] == 0
    code, _, err = nip("show", "listops", "--split", "dev", "--index", 6)
    assert code == 2
    assert "has the examples 0 … 5" in err


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    from nip.cli.output import progress_bar

    with progress_bar("ListOps", 3) as update:
        assert update is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bar("ListOps", 3) as update:
        update(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/3" in captured.err


def write_cifar(folder):
    folder.mkdir()
    for i, name in enumerate((*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")):
        (folder / f"{name}.bin").write_bytes(b"".join(bytes([i]) + bytes([40 * i]) * 3072 for _ in range(4)))


def test_images_are_made_and_drawn(nip, tmp_path):
    write_cifar(tmp_path / "files")
    code, out, err = nip("image", "--from", tmp_path / "files")
    assert (code, err) == (0, "")
    assert "image: made" in out and "source: CIFAR-10 binary files" in out
    assert "train: 18 examples of 1,024 … 1,024 tokens" in out
    assert "The official setting has 45,000 + 5,000 + 10,000 examples." in out
    code, out, _ = nip("show", "image", "--split", "test", "--index", 1)
    assert code == 0
    assert out.startswith("image test 1: label 5 (dog), 1024 tokens\n" + "##" * 32 + "\n")
    shown = json.loads(nip("show", "image", "--json")[1])
    assert shown[0]["pixels"] == [[0] * 32] * 32 and shown[0]["class"] == "airplane"
    code, out, err = nip("show", "image", "--count", 3, "--image", tmp_path / "sheet.png")
    assert (code, err) == (0, f"wrote {tmp_path / 'sheet.png'}\n")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert out.count("\n") == 3
    assert nip("show", "image", "--image", tmp_path / "sheet.jpg")[2].startswith("nip: --image writes a PNG file")
    assert json.loads(nip("image", "--from", tmp_path / "files", "--json")[1])["made"] is False
    assert "sound (18 train, 2 dev, 4 test)" in nip("verify", "image")[1]


def test_texts_are_decoded(nip, tmp_path):
    for part in ("train", "test"):
        rows = "".join(f'"déjà vu {i}",{i % 2}\n' for i in range(20))
        (tmp_path / f"{part}.csv").write_text("text,label\n" + rows)
    assert nip("text", "--from", tmp_path, "--split-rule", "test-as-dev")[0] == 0
    assert nip("show", "text", "--index", 3)[1] == "text train 3: label 1 (positive), 11 tokens\ndéjà vu 3\n"
    for name in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text("1.0\t1\t2\tfirst\tsecond text\n")
    assert nip("retrieval", "--from", tmp_path)[0] == 0
    shown = nip("show", "retrieval")[1]
    assert shown == "retrieval train 0: label 1 (related), 11 tokens\nfirst\n\nsecond text\n"
    assert json.loads(nip("show", "retrieval", "--json")[1])[0]["texts"] == ["first", "second text"]


def test_unknown_token_ids_are_printed(nip, tmp_path):
    for split in SPLITS:
        examples = [{"input_ids_0": np.array([16, 3, 9, 0]), "label": np.int64(2)}]
        (tmp_path / f"listops.{split}.pickle").write_bytes(pickle.dumps(examples))
    code, out, _ = nip("listops", "--from", tmp_path)
    assert code == 0
    assert "source: pickles of the original's form" in out
    assert nip("show", "listops")[1] == "listops train 0: label 2, 3 tokens\n16 3 9\n"
    assert "sound" in nip("verify", "listops")[1]
    code, _, err = nip("listops", "--from", tmp_path, "--tsv")
    assert code == 2
    assert "--tsv needs token ids whose meaning is known" in err


def test_official_pathfinder_files_are_written_and_read(nip, tmp_path):
    sizes = ["--param", "train=16", "--param", "dev=2", "--param", "test=2"]
    code, out, _ = nip("pathfinder32-curv_baseline", *sizes, "--seed", 3, "--png", tmp_path / "png")
    assert code == 0
    assert f"{tmp_path / 'png' / 'pathfinder32' / 'curv_baseline'}: written" in out
    drawn = open_split("pathfinder32-curv_baseline", "train", tmp_path / "data")
    assert nip("pathfinder32-curv_baseline", "--from", tmp_path / "png", "--overwrite")[0] == 0
    read = open_split("pathfinder32-curv_baseline", "train", tmp_path / "data")
    assert np.array_equal(read.tokens, drawn.tokens) and np.array_equal(read.labels, drawn.labels)
    assert nip("text", "--png", tmp_path)[2].startswith("nip: --png writes pictures of Pathfinder")


@pytest.mark.parametrize("task", [*TASKS, "show", "verify"])
def test_help_has_an_example(nip, task, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", task, "--help"])
    assert not ended.value.code
    assert "Example: nip data" in capsys.readouterr().out

"""What commands may delete and replace: files of others stay, in every output folder of every command."""

import ast
import hashlib
import json
import shutil
from pathlib import Path

import pytest

import nip
from finetuning_files import write_model, write_mrpc, write_text
from nip.cli import main
from nip.data import Rule, build_listops
from nip.ownership import MARKER, OwnedFolder, remove_temporary, temporary_name

SOURCES = sorted(Path(nip.__file__).parent.rglob("*.py"))
MODULES = {"os", "shutil"}


def deletions(path):
    """Calls that delete or replace files: (line, name). `list.remove` and `str.replace` take a value, not a path."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, of = node.func.attr, node.func.value
            module = of.id if isinstance(of, ast.Name) else None
            if name in {"remove", "move", "renames", "removedirs", "replace", "truncate"} and module in MODULES:
                yield node.lineno, f"{module}.{name}"
            elif name in {"unlink", "rmtree", "rmdir", "rename"} or (
                name == "replace" and len(node.args) == 1 and not node.keywords
            ):
                yield node.lineno, name


def test_only_one_module_deletes():
    root = Path(nip.__file__).parent
    found = {(path.relative_to(root).as_posix(), name) for path in SOURCES for _, name in deletions(path)}
    allowed = {
        ("atomic.py", "unlink"),  # its own temporary file
        ("atomic.py", "replace"),
        ("data/tasks/storage.py", "replace"),  # of an OwnedFolder
        ("runs/folder.py", "os.truncate"),  # metrics.jsonl, cut back to the checkpoint
    }
    assert {each for each in found if each[0] != "ownership.py"} <= allowed


NAMES = (
    *("plan.json", "manifest.json", "run.json", "config.json", "result.json", "results.json", "metrics.jsonl"),
    *("search.json", "search.db", "model.safetensors", "pattern.npz", "run.log", ".config.json.a.partial"),
    *(f".config.json.a{MARKER}", ".hidden", "notes.txt", "train.tsv", "RTE.tsv", "all_results.json"),
    *("checkpoint/state.safetensors", "best/model.safetensors", "checkpoint-3/model.safetensors", "logs/a.log"),
    *(
        "checkpoint-3/mine.txt",
        ".unfinished-finetune-1h/model.safetensors",
        "work/part-00000.json",
        "text/train-00000.txt",
    ),
    *("tokenizer/tokenizer.json", "trials/0000/model.safetensors", ".locks/a.lock", ".unpacked/00000-1-1-a"),
    *("finetune-1h/config.json", "tracking/events", "a.svg", "train-00000.tokens.npy", "train.tokens.npy"),
)
CONTENTS = {"json": '{"mine": [1, 2]}', "jsonl": '{"mine": 1}\n'}


def fingerprint(folder):
    """Every file and link below a folder, with the checksum of what it contains."""
    return {
        path.relative_to(folder).as_posix(): "" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }


def write_foreign(folder, outside):
    """A file of somebody else under every name that a command knows, and links out of the folder."""
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CONTENTS.get(path.suffix[1:], f"mine: {name}"))
    outside.mkdir(parents=True, exist_ok=True)
    (outside / "precious").write_text("precious")
    (folder / "checkpoint-9").symlink_to(outside, target_is_directory=True)
    (folder / f".link.a{MARKER}").symlink_to(outside, target_is_directory=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    build_listops(folder / "data", Rule(min_length=4, max_length=60), (40, 8, 8), seed=1)
    write_model(folder / "model")
    write_mrpc(folder / "MRPC")
    write_text(folder / "train.txt")
    (folder / "texts").mkdir()
    words = [" ".join(f"word{(i * j) % 97}" for i in range(60)) for j in range(1, 40)]
    (folder / "texts" / "a.txt").write_text("\n\n".join(words))
    corpus = [
        "--train-tokenizer",
        "200",
        "--max-seq-length",
        "32",
        "--near-duplicates",
        "0",
        "--frac-test",
        "0",
        "--jobs",
        "1",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["data", "corpus", "--from", str(folder / "texts"), "--output-dir", str(folder / "corpus"), *corpus])
    assert not ended.value.code
    return folder


def commands(folder, out):
    """A command for every kind of output folder, as words."""
    training = "--do_train --max_steps 1 --max_seq_length 16 --block_size 4 --use_cpu --per_device_train_batch_size 2"
    tuned = f"--model_name_or_path {folder / 'model'} {training} --output_dir {out}"
    glue = f"--task_name mrpc --data_dir {folder} {tuned}"
    small = "--seq-len 64 --block-size 4 --batch-size 4 --eval-every 1 --max-steps 1"
    corpus = (
        f"data corpus --from {folder / 'texts'} --output-dir {out} --train-tokenizer 200 --max-seq-length 32 --jobs 1"
    )
    lines = {
        "lra": f"lra --data {folder / 'data'} --output-dir {out} {small}",
        "study": f"study --attention local --seeds 0 --data {folder / 'data'} --output-dir {out} {small}",
        "pretrain": f"pretrain --dataset {folder / 'corpus'} --output-dir {out} --size tiny --max-steps 1",
        "corpus": f"{corpus} --jobs 1",
        "corpus --overwrite": f"{corpus} --jobs 1 --overwrite",
        "glue": f"glue {glue}",
        "glue --overwrite": f"glue {glue} --overwrite_output_dir",
        "evaluate": f"glue {glue} --do_eval".replace("--do_train", ""),
        "mlm --overwrite": f"mlm {tuned} --train_file {folder / 'train.txt'} --overwrite_output_dir",
        "hpo": f"hpo glue {glue} --trials 1",
    }
    return {name: line.split() for name, line in lines.items()}


@pytest.mark.parametrize("name", list(commands(Path(), Path())))
def test_files_of_others_stay(inputs, tmp_path, capsys, name):
    out = tmp_path / "out"
    write_foreign(out, tmp_path / "outside")
    before, words = fingerprint(tmp_path), commands(inputs, out)[name]
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("nip: ") >= 1 and "Traceback" not in said, said
    assert fingerprint(tmp_path) == before  # nothing changed, nothing added, not even a lock


@pytest.mark.parametrize("name", ["lra", "study", "pretrain", "corpus", "glue", "hpo"])
def test_one_file_of_others_is_enough(inputs, tmp_path, capsys, name):
    for number, file in enumerate(("plan.json", "manifest.json", "run.json", "notes.txt", ".hidden")):
        out = tmp_path / str(number)
        out.mkdir()
        (out / file).write_text('{"mine": 1}')
        with pytest.raises(SystemExit) as ended:
            main(commands(inputs, out)[name])
        assert ended.value.code == 2
        assert [path.name for path in out.iterdir()] == [file], name
        assert (out / file).read_text() == '{"mine": 1}'


def test_files_of_others_next_to_a_corpus_survive_its_replacement(inputs, tmp_path):
    out = tmp_path / "corpus"
    shutil.copytree(inputs / "corpus", out)
    mine = ("notes.txt", "work/notes.txt", "tokenizer/mine.json", "train-00000.mine", "text/mine.txt", ".x.partial")
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(f"mine: {name}")
    with pytest.raises(SystemExit) as ended:
        main([*commands(inputs, out)["corpus --overwrite"], "--frac-test", "0"])
    assert not ended.value.code
    assert {name: (out / name).read_text() for name in mine} == {name: f"mine: {name}" for name in mine}
    assert json.loads((out / "manifest.json").read_text())["kind"] == "corpus"


def folder_of(path, **more):
    names = ("a.txt", "part-*/b.txt", "proof")
    return OwnedFolder(path, "thing", names, lambda path: (path / "proof").is_file(), **more)


def test_an_owned_folder_deletes_what_is_named_and_nothing_else(tmp_path):
    for name in ("a.txt", "mine.txt", "proof", "part-1/b.txt", "part-1/mine.txt", "part-2/b.txt", f".x{MARKER}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    own = folder_of(tmp_path)
    own.delete(["part-*", "mine.txt"])
    assert set(fingerprint(tmp_path)) == {"a.txt", "mine.txt", "proof", "part-1/mine.txt", f".x{MARKER}"}
    assert not (tmp_path / "part-2").exists()
    own.delete_leftovers()
    own.delete()
    assert set(fingerprint(tmp_path)) == {"mine.txt", "part-1/mine.txt"}
    with pytest.raises(ValueError, match="holds no thing of nip: nothing there is deleted"):
        own.delete(["mine.txt"])


def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.txt").touch()
    own = folder_of(tmp_path / "own")
    own.path.mkdir()
    (own.path / "proof").touch()
    (own.path / "part-1").symlink_to(outside, target_is_directory=True)
    (own.path / f".l{MARKER}").symlink_to(outside, target_is_directory=True)
    own.delete_leftovers()
    own.delete()
    assert (outside / "b.txt").exists()


def test_only_temporary_names_are_removed_without_a_proof(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(AssertionError):
        remove_temporary(tmp_path / "mine")
    partial = temporary_name(tmp_path / "a")
    partial.mkdir()
    (partial / "b").touch()
    remove_temporary(partial)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_replacement_never_takes_files_of_others(tmp_path):
    home = tmp_path / "home"
    own = folder_of(home)
    for number in range(2):
        made = temporary_name(home)
        made.mkdir()
        (made / "proof").write_text(str(number))
        own.replace(made)
        assert (home / "proof").read_text() == str(number)
    (home / "mine.txt").touch()
    made = temporary_name(home)
    made.mkdir()
    with pytest.raises(ValueError, match=r"also contains mine\.txt, which nip did not write"):
        own.replace(made)
    assert (home / "mine.txt").exists() and (home / "proof").exists()

import dataclasses

import pytest

from nip.data import Rule, build_listops, open_split, read_manifest, write_tsv
from nip.data.tasks.build import build

RULE = Rule(min_length=10, max_length=60)
SIZES = (30, 5, 5)


def state(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (folder / "listops").iterdir()}


def test_a_second_call_finds_it_done(tmp_path):
    assert build_listops(tmp_path, RULE, SIZES, seed=1)
    before = state(tmp_path)
    assert not build_listops(tmp_path, RULE, SIZES, seed=1)
    assert state(tmp_path) == before
    assert build_listops(tmp_path, RULE, SIZES, seed=1, overwrite=True)
    assert state(tmp_path) != before


@pytest.mark.parametrize(
    ("rule", "sizes", "seed", "differs"),
    [
        (RULE, SIZES, 2, "seed is 1 there and 2 here"),
        (RULE, (31, 5, 5), 1, "train is 30 there and 31 here"),
        (RULE, (30, 5, 6), 1, "test is 5 there and 6 here"),
        (dataclasses.replace(RULE, max_depth=9), SIZES, 1, "max_depth is 10 there and 9 here"),
    ],
)
def test_another_set_in_the_same_place_is_refused(rule, sizes, seed, differs, tmp_path):
    build_listops(tmp_path, RULE, SIZES, seed=1)
    before = state(tmp_path)
    with pytest.raises(ValueError, match=differs):
        build_listops(tmp_path, rule, sizes, seed=seed)
    assert state(tmp_path) == before
    assert build_listops(tmp_path, rule, sizes, seed=seed, overwrite=True)


def test_the_manifest_tells_how_it_was_made(tmp_path):
    build_listops(tmp_path, RULE, SIZES, seed=1)
    manifest = read_manifest("listops", tmp_path)
    assert manifest["source"] == "drawn by nip"
    assert manifest["parameters"] == {
        "seed": 1,
        **{"train": 30, "dev": 5, "test": 5},
        **{"max_depth": 10, "max_args": 10, "min_length": 10, "max_length": 60},
    }
    assert manifest["split_rule"]
    assert manifest["licence"]


def test_official_files_are_taken(small, tmp_path):
    files, data = tmp_path / "files", tmp_path / "data"
    files.mkdir()
    write_tsv(small, files)
    assert build("listops", data, origin=str(files))
    for name, split in small.items():
        assert open_split("listops", name, data).tokens.tolist() == split.tokens.tolist()
    assert not build("listops", data, origin=str(files))
    (files / "basic_val.tsv").write_text("Source\tTarget\n[MAX 1 2 ]\t2\n")
    with pytest.raises(ValueError, match=r"basic_val.tsv is '[0-9a-f]{64}' there and '[0-9a-f]{64}' here"):
        build("listops", data, origin=str(files))
    assert build("listops", data, origin=str(files), overwrite=True)
    assert len(open_split("listops", "dev", data)) == 1


def test_files_that_would_be_lost_are_not_read(small, tmp_path):
    build_listops(tmp_path, RULE, SIZES)
    files = write_tsv(small, tmp_path / "listops")
    with pytest.raises(ValueError, match=r"would delete .*, which is the input"):
        build("listops", tmp_path, origin=str(tmp_path / "listops"), overwrite=True)
    assert all(path.is_file() for path in files)


def test_missing_files_leave_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*files\. The sources of listops are: .*basic_train.tsv"):
        build("listops", tmp_path / "data", origin=str(tmp_path / "files"))
    assert not list(tmp_path.iterdir())

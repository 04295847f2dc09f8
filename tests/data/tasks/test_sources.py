"""A way to make the data is found by its form or its name; what is not there is said with all there are."""

from dataclasses import fields

import pytest

from nip.data import SOURCES, TASKS, Rule, find_source, read_manifest, sources_of
from nip.data.tasks.build import build
from nip.data.tasks.source import Request


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_can_be_made(task):
    ways = sources_of(task)
    names = [way.name for way in ways]
    assert any(way.makes in (None, task.name) for way in ways)
    assert len(set(names)) == len(names)
    for way in ways:
        assert way.says
        assert way.makes is None or way.makes in TASKS


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_what_must_be_read_is_what_has_no_source_of_its_own(task):
    if task.read:
        with pytest.raises(ValueError, match="name them with --from"):
            find_source(task, None)
    else:
        find_source(task, None)


def test_rules_parameters_are_all_offered():
    (drawn,) = (way for way in SOURCES if way.name == "drawn" and way.tasks == ("listops",))
    assert set(drawn.parameters) == {field.name for field in fields(Rule)} | {"train", "dev", "test"}
    assert find_source(TASKS["listops"], None) is drawn


@pytest.mark.parametrize(
    ("files", "task", "name"),
    [
        (["basic_val.tsv"], "listops", "official"),
        (["listops.dev.pickle"], "listops", "pickles"),
        (["new_aan_pairs.eval.tsv"], "retrieval", "official"),
        (["tsv_data/new_aan_pairs.eval.tsv"], "retrieval", "official"),
        (["train/pos/0_9.txt"], "text", "folder"),
        (["aclImdb/test/neg/0_9.txt"], "text", "folder"),
        (["train.csv"], "text", "csv"),
        (["plain_text/train-00000-of-00001.parquet"], "text", "parquet"),
        (["text.train.pickle"], "text", "pickles"),
        (["data_batch_1"], "image", "python"),
        (["cifar-10-batches-py/test_batch"], "image", "python"),
        (["cifar-10-batches-bin/data_batch_4.bin"], "image", "binary"),
        (["train.parquet"], "image", "parquet"),
        (["image.test.pickle"], "image", "pickles"),
        (["metadata/3.npy"], "pathfinder32-curv_contour_length_14", "official"),
        (["pathfinder32/curv_contour_length_9/metadata/3.npy"], "pathfinder32-curv_contour_length_9", "official"),
        (["pathfinder32-curv_baseline.train.pickle"], "pathfinder32-curv_baseline", "pickles"),
    ],
)
def test_forms_are_recognised(files, task, name, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    assert find_source(TASKS[task], str(tmp_path)).name == name


def test_another_level_is_not_taken(tmp_path):
    (tmp_path / "pathfinder32" / "curv_contour_length_9" / "metadata").mkdir(parents=True)
    (tmp_path / "pathfinder32" / "curv_contour_length_9" / "metadata" / "0.npy").write_text("")
    with pytest.raises(ValueError, match="has none of the formats of pathfinder32-curv_baseline"):
        find_source(TASKS["pathfinder32-curv_baseline"], str(tmp_path))


def test_what_is_not_there_is_said(tmp_path):
    image = TASKS["image"]
    with pytest.raises(ValueError, match=r"image is read from files: name them with --from.*binary \(a folder"):
        find_source(image, None)
    with pytest.raises(ValueError, match=r"no source 'idx' of image. Its sources are: .*python \("):
        find_source(image, None, "idx")
    with pytest.raises(ValueError, match="source python of image reads files: name them with --from"):
        find_source(image, None, "python")
    with pytest.raises(ValueError, match="has none of the formats of image"):
        find_source(image, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"There is no /no/such/folder. The sources of image are"):
        find_source(image, "/no/such/folder")


@pytest.mark.parametrize(
    ("task", "asked", "told"),
    [
        ("listops", {"parameters": {"depth": 3}}, "no parameter 'depth' of the source drawn, which takes train, dev"),
        ("text", {"origin": ".", "source": "csv", "parameters": {"a": 1}}, "the source csv, which takes none"),
        ("text", {"origin": ".", "source": "csv", "split_rule": "s4"}, "takes carved, test-as-dev"),
        ("listops", {"split_rule": "s4"}, "no split rule 's4' of the source drawn, which leaves no choice"),
        ("text", {"origin": ".", "source": "csv", "seed": 1}, "is not random; it takes no seed"),
        ("listops", {"origin": ".", "source": "drawn"}, "The source drawn of listops reads no files: leave out --from"),
    ],
)
def test_what_would_be_ignored_is_refused(task, asked, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        build(task, tmp_path, **asked)
    assert not list(tmp_path.iterdir())


def test_progress_counts_what_is_written(tmp_path):
    lines = "".join(f'{i % 2},"review {i}"\n' for i in range(40))
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("label,text\n" + lines)
    told = []
    assert build("text", tmp_path / "data", origin=str(tmp_path), progress=told.append)
    assert told[-1] == 80 and told == sorted(told)
    splits = read_manifest("text", tmp_path / "data")["splits"]
    assert {split: described["examples"] for split, described in splits.items()} == {"train": 36, "dev": 4, "test": 40}


def test_a_request_expands_the_users_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somebody")
    assert Request(task=TASKS["text"], origin="~/set").path.as_posix() == "/somebody/set"

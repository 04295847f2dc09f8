"""Film reviews in every form, written here without the readers; all forms give the same examples."""

import csv

import pytest

from nip.data import TASKS, open_split, read_manifest, verify
from nip.data.tasks import text as imdb
from nip.data.tasks.build import build
from nip.data.tasks.source import Request

N = {"train": 30, "test": 20}


def reviews(part):
    """(label, text) in the order of the set: all negative ones first."""
    return [
        (label, f'{part} {label} {i}: "good", bad\nor é' + "." * (400 * i))
        for label in (0, 1)
        for i in range(N[part] // 2)
    ]


def texts(split):
    return [
        (int(label), bytes((split.sequence(i).astype(int) - 1).tolist()).decode()[:40])
        for i, label in enumerate(split.labels)
    ]


def wanted(rule="carved"):
    train = [(label, text[:40]) for label, text in reviews("train")]
    test = [(label, text[:40]) for label, text in reviews("test")]
    if rule == "test-as-dev":
        return {"train": train, "dev": test, "test": test}
    return {"train": train[:14] + train[15:29], "dev": [train[14], train[29]], "test": test}


def write_folder(root):
    for part in N:
        for label, text in reviews(part):
            folder = root / part / ("neg", "pos")[label]
            folder.mkdir(parents=True, exist_ok=True)
            number = int(text.split()[2].rstrip(":"))
            (folder / f"{number}_{1 + 8 * label}.txt").write_bytes(text.encode())
        (root / part / "unsup").mkdir()
        (root / part / "unsup" / "0_0.txt").write_text("without a label")


def write_csv(root):
    root.mkdir()
    for part, names in (("train", ("negative", "positive")), ("test", ("0", "1"))):
        with (root / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["", "label", "text"])
            writer.writerows([i, names[label], text] for i, (label, text) in enumerate(reviews(part)))


def write_one_csv(root):
    root.mkdir()
    with (root / "IMDB Dataset.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        writer.writerows((text, ("negative", "positive")[label]) for label, text in reviews("train") + reviews("test"))


def write_parquet(root):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (root / "plain_text").mkdir(parents=True)
    for part in N:
        rows = [{"text": text, "label": label} for label, text in reviews(part)]
        halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
        for i, half in enumerate(halves):
            parquet.write_table(
                pyarrow.Table.from_pylist(half), root / "plain_text" / f"{part}-0000{i}-of-00002.parquet"
            )
    parquet.write_table(
        pyarrow.table({"text": ["x"], "label": [-1]}), root / "plain_text" / "unsupervised-00000-of-00001.parquet"
    )


@pytest.mark.parametrize("rule", [None, *imdb.SPLIT_RULES])
@pytest.mark.parametrize("write", [write_folder, write_csv, write_parquet])
def test_every_form_gives_the_same_reviews(write, rule, tmp_path):
    write(tmp_path / "files")
    assert build("text", tmp_path / "data", origin=str(tmp_path / "files"), split_rule=rule)
    splits = {split: open_split("text", split, tmp_path / "data") for split in ("train", "dev", "test")}
    assert {split: texts(read) for split, read in splits.items()} == wanted(rule or "carved")
    longest = max(splits["train"].lengths)
    assert longest == TASKS["text"].max_length
    assert verify("text", tmp_path / "data")
    manifest = read_manifest("text", tmp_path / "data")
    assert manifest["parameters"]["split_rule"] == (rule or "carved")
    assert ("dev is the test part" in manifest["split_rule"]) == (rule == "test-as-dev")
    assert not build("text", tmp_path / "data", origin=str(tmp_path / "files"), split_rule=rule)
    other = "carved" if rule == "test-as-dev" else "test-as-dev"
    with pytest.raises(ValueError, match="holds another text set: split_rule"):
        build("text", tmp_path / "data", origin=str(tmp_path / "files"), split_rule=other)


def test_the_unpacked_archive_is_found(tmp_path):
    write_folder(tmp_path / "files" / "aclImdb")
    assert build("text", tmp_path / "data", origin=str(tmp_path / "files"))


def test_numbers_order_the_reviews_of_a_folder(tmp_path):
    write_folder(tmp_path / "files")
    plan = imdb.plan_folder(Request(task=TASKS["text"], origin=str(tmp_path / "files")))
    (train,) = plan.splits()["train"]
    assert [text for _, text in texts(train)][9:11] == [text[:40] for _, text in reviews("train")][9:11]  # 9, 10


def test_one_file_is_halved(tmp_path):
    write_one_csv(tmp_path / "files")
    assert build("text", tmp_path / "data", origin=str(tmp_path / "files" / "IMDB Dataset.csv"))
    assert "first half of the file (25 reviews)" in read_manifest("text", tmp_path / "data")["split_rule"]
    read = texts(open_split("text", "test", tmp_path / "data"))
    assert read == [(label, text[:40]) for label, text in (reviews("train") + reviews("test"))[25:]]


def test_sets_of_the_hub_are_read_through_its_library(tmp_path):
    asked = []

    def load(name, part):
        asked.append((name, part))
        return iter([{"text": text, "label": label} for label, text in reviews(part)])

    plan = imdb.plan_hub(Request(task=TASKS["text"], origin="stanfordnlp/imdb"), load)
    assert {split: [each for piece in pieces for each in texts(piece)] for split, pieces in plan.splits().items()} == (
        wanted()
    )
    assert {name for name, _ in asked} == {"stanfordnlp/imdb"}
    assert plan.description["parameters"] == {"name": "stanfordnlp/imdb", "split_rule": "carved"}


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("train.csv", '3,2,"a"', "train.csv, line .*: the label must be 0 or 1"),
        ("train.csv", "3,1", "2 fields instead of 3"),
        ("test.csv", '3,1,"no end', "not a valid CSV file"),
        ("test.csv", b"3,1,\xff", "not a valid CSV file in UTF-8"),
    ],
)
def test_a_wrong_line_is_named(name, line, told, tmp_path):
    write_csv(tmp_path / "files")
    with (tmp_path / "files" / name).open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(ValueError, match=told):
        build("text", tmp_path / "data", origin=str(tmp_path / "files"))
    assert not list(tmp_path.glob("data/*"))


def test_wrong_columns_are_named(tmp_path):
    write_csv(tmp_path / "files")
    (tmp_path / "files" / "test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"test.csv has no column text or review or sentence. Its columns are a, b"):
        build("text", tmp_path / "data", origin=str(tmp_path / "files"))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": ["a"], "label": [3]}, "row 0: the label must be 0 or 1"),
        ({"text": [None], "label": [1]}, "row 0: there must be a text"),
        ({"words": ["a"], "label": [1]}, "has no column text"),
    ],
)
def test_wrong_parquet_files_are_named(columns, told, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "files")
    path = tmp_path / "files" / "plain_text" / "train-00000-of-00002.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    with pytest.raises(ValueError, match=told):
        build("text", tmp_path / "data", origin=str(tmp_path / "files"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is truncated or not a parquet file"):
        build("text", tmp_path / "data", origin=str(tmp_path / "files"))


def test_missing_folders_are_named(tmp_path):
    write_folder(tmp_path / "files")
    for path in (tmp_path / "files" / "test" / "pos").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no review in .*pos"):
        build("text", tmp_path / "data", origin=str(tmp_path / "files"))

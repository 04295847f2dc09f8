"""The official files of the retrieval task, written here line by line."""

import numpy as np
import pytest

from nip.data import open_split, read_manifest, verify
from nip.data.tasks.build import build

FILES = {"train": "new_aan_pairs.train.tsv", "dev": "new_aan_pairs.eval.tsv", "test": "new_aan_pairs.test.tsv"}


def pairs(split):
    rng = np.random.default_rng(len(split))
    texts = ['a "quoted text, as it stands', "é über naïve", "", "x" * 5000, "' \" ,"]
    for i in range(20 if split == "train" else 5):
        yield i % 2, texts[i % 5] + "".join(map(chr, rng.integers(32, 126, i))), texts[(i + 2) % 5]


def write(folder, end=b"\n"):
    folder.mkdir(parents=True)
    for split, name in FILES.items():
        lines = (f"{label}.0\tP00-{i}\tW{i}\t{a}\t{b}".encode() for i, (label, a, b) in enumerate(pairs(split)))
        (folder / name).write_bytes(end.join(lines) + end)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("below", ["", "tsv_data", "lra_release/lra_release/tsv_data"])
def test_five_columns_become_pairs_of_bytes(tmp_path, below, end):
    write(tmp_path / "files" / below, end)
    assert build("retrieval", tmp_path, origin=str(tmp_path / "files"))
    for split in FILES:
        wanted = list(pairs(split))
        read = open_split("retrieval", split, tmp_path)
        ids, labels = read.batch(range(len(read)), 4096)
        assert ids.shape == (len(wanted), 2, 4096)
        assert labels.tolist() == [label for label, *_ in wanted]
        for i, (_, *texts) in enumerate(wanted):
            for part, text in enumerate(texts):
                kept = text.encode()[:4000]
                assert ids[i, part, : len(kept)].tolist() == [byte + 1 for byte in kept]
                assert not ids[i, part, len(kept) :].any()
                assert read.sequence(i, part).tolist() == ([byte + 1 for byte in kept] or [0])
            assert read.lengths[i] == max(len(text.encode()[:4000]) for text in texts)
    assert verify("retrieval", tmp_path) == {"train": 20, "dev": 5, "test": 5}
    assert "ACL Anthology" in read_manifest("retrieval", tmp_path)["licence"]
    assert not build("retrieval", tmp_path, origin=str(tmp_path / "files"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"1.0\ta\tb\ttext", "there must be 5 columns"),
        (b"1.0\ta\tb\tone\ttwo\tthree", "there must be 5 columns"),
        (b"", "there must be 5 columns"),
        (b"2.0\ta\tb\tone\ttwo", "the label must be 0.0 or 1.0. Got '2.0'"),
        (b"label\tid1\tid2\ttext1\ttext2", "the label must be 0.0 or 1.0. Got 'label'"),
    ],
)
def test_a_wrong_line_is_named(line, told, tmp_path):
    write(tmp_path / "files")
    path = tmp_path / "files" / FILES["dev"]
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=rf"new_aan_pairs.eval.tsv, line 3: {told}"):
        build("retrieval", tmp_path / "data", origin=str(tmp_path / "files"))
    assert not list((tmp_path / "data").iterdir())


def test_missing_and_empty_files_are_named(tmp_path):
    write(tmp_path / "files")
    path = tmp_path / "files" / FILES["test"]
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"test.tsv is empty"):
        build("retrieval", tmp_path / "data", origin=str(tmp_path / "files"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no .*test.tsv. The official files"):
        build("retrieval", tmp_path / "data", origin=str(tmp_path / "files"))

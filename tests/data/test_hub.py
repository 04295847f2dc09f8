"""Sets of the Hugging Face Hub, with a function in the place of the network."""

import sys

import pytest

from nip.data import TASKS, find_source, hub


def test_names_are_of_the_hub():
    assert find_source(TASKS["image"], "uoft-cs/cifar10").name == "hub"
    assert find_source(TASKS["text"], "imdb").name == "hub"
    for path in ("/imdb", "a/b/c", "../x", "x/", "~/x", ""):
        assert not hub.is_name(path)


def test_a_failing_network_is_one_error():
    def load(name, part):
        yield {"text": "a", "label": 0}
        raise RuntimeError("timed out")

    rows = hub.rows(load, "a/b", "train", (("text",), ("label",)))
    assert next(rows) == (0, ("a", 0))
    with pytest.raises(OSError, match=r"fetching it failed after row 1 .*RuntimeError: timed out"):
        next(rows)
    with pytest.raises(ValueError, match=r"a/b has no column words. Its columns are text, label"):
        next(hub.rows(load, "a/b", "train", (("words",),)))


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="Reading a/b from the Hugging Face Hub needs datasets: pip install datasets"):
        next(hub.rows(hub.load, "a/b", "train", (("text",),)))


def test_the_library_reads_what_lies_here(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for part, words in (("train", "ab"), ("test", "c")):
        rows = "".join(f"{word},{i}\n" for i, word in enumerate(words))
        (tmp_path / f"{part}.csv").write_text("text,label\n" + rows)
    columns = (("review", "text"), ("label",))
    assert list(hub.rows(hub.load, str(tmp_path), "train", columns)) == [(0, ("a", 0)), (1, ("b", 1))]
    assert list(hub.rows(hub.load, str(tmp_path), "test", columns)) == [(0, ("c", 0))]

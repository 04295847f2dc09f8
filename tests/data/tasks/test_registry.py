import dataclasses

import pytest

from nip.data import TASKS, find_task


def test_listops_is_as_in_the_original():
    task = find_task("listops")
    assert (task.max_length, task.padded_length, task.vocab_size, task.n_classes) == (2000, 2048, 32, 10)
    assert task.sizes == (96000, 2000, 2000)
    assert not task.pair


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_is_consistent(task):
    assert TASKS[task.name] is task
    assert len(task.tokens) <= task.vocab_size
    assert task.max_length <= task.padded_length < 2 * task.max_length
    assert task.padded_length & (task.padded_length - 1) == 0
    assert (task.tokens or ("",))[0] == ""
    assert task.ids.stop <= task.vocab_size
    assert (0 in task.ids) == (task.kind == "pixels")


def test_the_other_tasks_are_as_in_the_original():
    text, retrieval, image = (find_task(name) for name in ("text", "retrieval", "image"))
    assert (text.max_length, text.vocab_size, text.n_classes, text.sizes) == (4000, 257, 2, (25000,) * 3)
    assert (retrieval.padded_length, retrieval.pair, retrieval.sizes) == (4096, True, (147086, 18090, 17437))
    assert (image.padded_length, image.shape, image.n_classes, image.sizes) == (
        1024,
        (32, 32),
        10,
        (45000, 5000, 10000),
    )
    for level in ("curv_baseline", "curv_contour_length_9", "curv_contour_length_14"):
        pathfinder = find_task(f"pathfinder32-{level}")
        assert (pathfinder.max_length, pathfinder.n_classes, sum(pathfinder.sizes)) == (1024, 2, 200000)


@pytest.mark.parametrize(
    ("change", "need"),
    [
        ({"shape": (32, 31)}, "one token per pixel"),
        ({"shape": None}, "a shape"),
        ({"tokens": ("", "a")}, "a name for every token id"),
        ({"vocab_size": 255}, "a vocabulary that contains its ids"),
        ({"parts": ((0,), (1,))}, "the parts of every token id or of none"),
        ({"classes": ("cat",)}, "a name for every class or none"),
    ],
)
def test_what_does_not_fit_is_refused(change, need):
    with pytest.raises(ValueError, match=f"needs {need}"):
        dataclasses.replace(TASKS["image"], **change)


def test_ids_of_the_probe_share_the_parts_that_their_names_share():
    probe = TASKS["probe"]
    parts = dict(zip(probe.tokens, map(set, probe.parts), strict=True))
    assert len({frozenset(each) for each in parts.values()}) == len(parts) == probe.vocab_size
    (key,) = parts["?3"] & parts["3=5"]
    (value,) = parts["3=5"] & parts["11=5"] - (parts["3=5"] & parts["11=6"])
    for name, each in parts.items():
        asked, is_pair, given = name.removeprefix("?").partition("=")
        assert (key in each) == (asked == "3")
        assert (value in each) == (given == "5")
        assert len(each) == (3 if is_pair else 2 if name.startswith("?") else 1)


@pytest.mark.parametrize(("length", "padded"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048), (4000, 4096)])
def test_padded_length_is_the_next_power_of_two(length, padded):
    assert dataclasses.replace(TASKS["listops"], max_length=length).padded_length == padded


def test_an_unknown_task_lists_those_there_are():
    with pytest.raises(ValueError, match=r"There is no task 'lisp'. The tasks are listops"):
        find_task("lisp")

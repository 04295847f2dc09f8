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
    assert task.tokens[0] == ""


@pytest.mark.parametrize(("length", "padded"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048), (4000, 4096)])
def test_padded_length_is_the_next_power_of_two(length, padded):
    assert dataclasses.replace(TASKS["listops"], max_length=length).padded_length == padded


def test_an_unknown_task_lists_those_there_are():
    with pytest.raises(ValueError, match=r"There is no task 'lisp'. The tasks are listops"):
        find_task("lisp")

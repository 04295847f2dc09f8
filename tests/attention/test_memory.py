"""The memory cache of results: it never reuses the memory of a tensor that is still alive."""

import copy
import mmap
import os
import pickle
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nip
from nip.attention import memory, native

LARGE = 4, 4, 256, 32
BYTES = 4 * 4 * 4 * 256 * 32


@pytest.fixture(autouse=True)
def nothing_kept():
    memory.release()
    yield
    memory.release()


def large(value=None, shape=LARGE, dtype=torch.float32):
    x = memory.empty(shape, dtype)
    return x if value is None else x.fill_(value)


def test_gives_what_was_asked_for():
    for shape, dtype in [((3, 5, 7000), torch.float32), ((70000, 3), torch.bfloat16), ((1 << 17,), torch.int64)]:
        x = memory.empty(shape, dtype)
        assert (x.shape, x.dtype, x.device.type, x.requires_grad) == (shape, dtype, "cpu", False)
        assert x.is_contiguous()
        assert x.data_ptr() % 64 == 0
        x.copy_(torch.arange(x.numel()).view(shape))  # all of it is writable
        assert x.flatten()[-1] == torch.tensor(x.numel() - 1, dtype=dtype)


def test_the_same_memory_comes_again_once_no_view_is_left():
    x = large()
    place = x.data_ptr()
    views = [x[1:], x.transpose(1, 2), x.view(torch.int32), x.detach(), x.numpy(), memoryview(x.numpy())]
    del x
    while views:
        assert memory.kept() == 0
        other = large()
        assert other.data_ptr() != place
        other_place = other.data_ptr()
        del other
        assert memory.kept() == BYTES
        again = large()
        assert again.data_ptr() == other_place
        del again
        memory.release()
        views.pop()
    assert memory.kept() == BYTES
    assert large().data_ptr() == place


def test_another_shape_and_dtype_of_as_many_pages_takes_it_too():
    place = large().data_ptr()
    assert memory.empty((BYTES // 2 - 100,), torch.bfloat16).data_ptr() == place  # does not quite fill the last page
    memory.empty((2 * BYTES,), torch.uint8)  # not from the cache: its block is too small
    assert memory.kept() == 3 * BYTES


def test_small_tensors_are_torchs():
    x = memory.empty((memory.SMALLEST - 1,), torch.uint8)
    del x
    assert memory.kept() == 0
    x = memory.empty((memory.SMALLEST,), torch.uint8)
    del x
    assert memory.kept() == memory.SMALLEST
    assert memory.empty((0, 3), torch.float32).shape == (0, 3)


def test_keeps_no_more_than_the_limit(monkeypatch):
    monkeypatch.setattr(memory, "LIMIT", 3 * BYTES + 1)
    tensors = [large() for _ in range(5)]
    del tensors
    assert memory.kept() == 3 * BYTES
    large(shape=(2, *LARGE))
    assert memory.kept() == 3 * BYTES  # and no blocks of other sizes


STATM = Path("/proc/self/statm")


def resident():
    return int(STATM.read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(not STATM.exists(), reason="needs Linux")
def test_release_gives_all_to_the_system():
    size = 1 << 26
    x = memory.empty((size,), torch.uint8).fill_(1)
    kept_of_x = x[3:5].clone()
    del x
    assert memory.kept() == size
    before = resident()
    memory.release()
    assert memory.kept() == 0
    assert resident() < before - size // 2
    assert kept_of_x.tolist() == [1, 1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["new", "new", "view", "drop"]), st.integers(0, 9)), max_size=40))
def test_no_two_tensors_that_live_share_memory(steps):
    alive = []  # (tensor, what was written to it)
    for number, (step, which) in enumerate(steps):
        if step == "new":
            alive.append((large(number, shape=(which % 3 + 1, 70000)), number))
        elif alive and step == "view":  # the tensor itself is deleted
            x, written = alive.pop(which % len(alive))
            alive.append((x[-1:, which:], written))
        elif alive:
            alive.pop(which % len(alive))
        for x, written in alive:
            assert x[0, 0] == x[-1, -1] == written
    assert all((x == written).all() for x, written in alive)


def test_threads_never_get_the_same_memory():
    wrong, start = [], threading.Barrier(4)

    def work(value):
        start.wait()
        for _ in range(300):
            x = large(value)
            y = large(value + 0.5)
            if not ((x == value).all() and (y == value + 0.5).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 2 * BYTES <= memory.kept() <= 12 * BYTES  # at most what was in use at once: x, y, next x per thread


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own():
    kept_place, x = large(1).data_ptr(), None
    x = large(1)
    y = large(2)
    assert x.data_ptr() == kept_place
    del x
    child = os.fork()
    if child == 0:  # without threads and pytest: use numpy only, then exit
        try:
            taken = large()
            same = taken.data_ptr() == kept_place and (taken.numpy() == 1).all() and (y.numpy() == 2).all()
            taken.numpy()[:] = 3
            y.numpy()[:] = 3
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (y == 2).all()
    x = large()
    assert x.data_ptr() == kept_place
    assert (x == 1).all()


def test_copies_are_complete_and_have_separate_memory():
    x = large()
    x.copy_(torch.arange(x.numel()).view(LARGE))
    expected = x.clone()
    place = x.data_ptr()
    copies = [copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.clone(memory_format=torch.contiguous_format)]
    del x
    with torch.no_grad():
        other = large(-1)
    assert other.data_ptr() == place
    for each in copies:
        assert torch.equal(each, expected)


def test_shared_with_other_processes_it_leaves_this_memory():
    x = large(5)
    view = x[0]
    x.share_memory_()
    assert x.is_shared()
    other = large(6)
    assert (x == 5).all()
    assert (view == 5).all()
    assert (other == 6).all()


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_calls_of_attend_leak_nothing_and_need_no_new_memory(dtype, monkeypatch):
    pattern = nip.pattern("hypercube", 64)
    inputs = [torch.randn(2, 4, 1024, 32, dtype=dtype).requires_grad_() for _ in range(3)]
    mapped = []

    def new(*arguments, **keywords):
        mapped.append(arguments)
        return mmap.mmap(*arguments, **keywords)

    class Counted:
        """`mmap`, counting."""

        PAGESIZE, MAP_PRIVATE, MAP_ANONYMOUS = mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS
        mmap = staticmethod(new)

    monkeypatch.setattr(memory, "mmap", Counted)

    def step():
        out = nip.attend(*inputs, pattern, backend="native")
        return torch.autograd.grad(out.square().sum(), inputs)

    expected = [x.clone() for x in step()]
    first = memory.kept()
    assert first >= 4 * inputs[0].nbytes  # the result and three gradients, or the buffers they were computed in
    count = len(mapped)
    for _ in range(20):
        assert all(torch.equal(x, y) for x, y in zip(step(), expected, strict=True))
        assert memory.kept() == first
    assert len(mapped) == count

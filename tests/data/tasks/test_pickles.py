"""Pickles are read as the standard library reads them, where they hold arrays and numbers; all else is refused."""

import builtins
import codecs
import copyreg
import io
import os
import pickle
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nip.data.tasks import pickles

NUMBERS = (
    arrays.integer_dtypes() | arrays.unsigned_integer_dtypes() | arrays.floating_dtypes() | arrays.boolean_dtypes()
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(min_size=1)
    | arrays.arrays(NUMBERS, arrays.array_shapes(max_dims=3), elements={"allow_nan": False})
    | st.integers(-(2**31), 2**31 - 1).map(np.int64)
    | st.floats(width=32, allow_nan=False).map(np.float32)
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray) and a.ndim:
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(st.lists(OBJECTS, max_size=5), st.integers(0, pickle.HIGHEST_PROTOCOL))
@settings(deadline=None, max_examples=80)
def test_what_is_sound_is_read_as_by_the_standard_library(tmp_path_factory, objects, protocol):
    path = tmp_path_factory.mktemp("pickles") / "a.pickle"
    path.write_bytes(pickle.dumps(objects, protocol=protocol))
    assert same(objects, pickles.load(path))
    assert same(objects, list(pickles.elements(path)))


def test_both_names_of_numpys_core_are_known(tmp_path):
    path = tmp_path / "a.pickle"
    example = [{"ids": np.arange(5, dtype=np.int32), "label": np.int64(3)}]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        new = pickle.dumps(example, protocol=protocol)
        assert b"numpy._core" in new
        if protocol < 4:
            old = new.replace(b"numpy._core", b"numpy.core")
        else:  # without frames; a name's length is before it
            old = new.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
            old = old.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
            old = old[:2] + old[11:]
        assert b"_core" not in old
        path.write_bytes(old)
        assert same(list(pickles.elements(path)), example)


def test_arrays_in_columns_are_read(tmp_path):
    path = tmp_path / "a.pickle"
    held = [np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(4, dtype=">i2")]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(held, protocol=protocol))
        assert same(held, pickles.load(path))


def test_what_is_shared_within_an_example_is_read(tmp_path):
    array, label = np.arange(3), np.int64(1)
    objects = [{"a": array, "b": array, "label": label}, {"a": np.arange(2), "label": label}]
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps(objects))
    assert same(objects, list(pickles.elements(path)))
    path.write_bytes(pickle.dumps([{"a": array}] * 1 + [{"a": 1}] * 2000 + [{"a": array}]))
    with pytest.raises(ValueError, match="valid pickle"):
        list(pickles.elements(path))
    assert same(pickles.load(path)[-1], {"a": array})


def test_a_list_is_handed_on_in_bounded_memory(tmp_path):
    path = tmp_path / "a.pickle"
    with path.open("wb") as file:
        pickle.dump([{"ids": np.full(4096, i, np.int32), "label": np.int64(i)} for i in range(3000)], file)
    tracemalloc.start()
    total = sum(int(element["ids"][0]) for element in pickles.elements(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == sum(range(3000))
    assert path.stat().st_size > 48e6
    assert most < 30e6


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class State:
    def __init__(self):
        self.x = 1


HOSTILE = {
    "posix.system": Call(os.system, "touch executed"),
    "eval": Call(eval, "open('executed', 'w')"),
    "getattr": Call(getattr, os, "system"),
    "exec": Call(exec, "open('executed', 'w')"),
    "import": Call(builtins.__import__, "os"),
    "numpy.load": Call(np.load, "executed", None, True),
    "fromfile": Call(np.fromfile, "executed"),
    "numpy.*frombuffer": Call(np.frombuffer, b"1"),
    "copy_?reg": Call(copyreg._reconstructor, State, object, None),
    "_codecs.decode": Call(codecs.decode, b"x", "zip"),
    "an encoding 'rot13'": Call(codecs.encode, "x", "rot13"),
    "io.open|_io.open": Call(io.open, "executed", "w"),
    "random.Random": random.Random,
    "State|copy_reg._reconstructor": State(),
    "an array of type 'O8'": np.array([Call(os.system, "touch executed")], dtype=object),
    "an array of type 'V": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    "an array of type 'M8'": np.array(["2020-01-01"], dtype="M8[D]"),
    "numpy.*memmap|numpy.memmap": np.memmap,
    "complex": 1j,
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [{"input_ids_0": [(x,)]}]], ids=["bare", "nested"])
def test_any_other_name_is_refused_and_told(name, wrap, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pickle"
    try:
        path.write_bytes(pickle.dumps(wrap(HOSTILE[name]), protocol=protocol))
    except (TypeError, pickle.PicklingError) as error:
        pytest.skip(f"protocol {protocol} cannot write it: {error}")
    for read in (pickles.load, lambda path: list(pickles.elements(path))):
        with pytest.raises(ValueError, match=rf"hostile.pickle contains .*({name}).*, which is refused"):
            read(path)
    assert [each.name for each in tmp_path.iterdir()] == ["hostile.pickle"]


# written by hand: the old instructions for objects, persistent names, extension registry, byte-wise smuggling
@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"(S'touch executed'\nios\nsystem\n.", "INST 'os.system'"),
        (b"(cos\nsystem\nS'x'\no.", "'os.system'"),
        (b"Pposix.system\n.", "PERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02cos\nsystem\n)\x81.", "'os.system'"),
        (b"\x80\x04\x8c\x0anumpy core\x8c\x05dtype\x93.", "'numpy.core.dtype'"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.load\x93.", "'numpy.ndarray.load'"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_instructions_for_objects_are_refused(raw, told, tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=told):
        pickles.load(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"PK\x03\x04 no pickle",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x04NN.",
        b"\x80\x04\x85.",  # a tuple of what is not there
        b"\x80\x04e.",  # append to what is not there
        b"\x80\x04h\x05.",  # from an empty memo
        b"\x80\x04}]s.",  # half an item
        b"\x80\x04](]u.",
        b"\x80\x04cnumpy\nndarray\n)R.",  # an array is called
        b"\x80\x04cnumpy\ndtype\n)R.",
        b"\x80\x04Nb.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # eight exabytes of bytes are announced
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # and a number of two gigabytes
        b"I" + b"9" * 10000 + b"\n.",
        b"\x80\x04" + b"(" * 100_000,
        b"\x80\x02" + b"]" * 5 + b"a" * 9 + b".",
    ],
)
def test_damage_is_one_error_without_much_memory(raw, tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(raw)
    tracemalloc.start()
    for read in (pickles.load, lambda path: list(pickles.elements(path))):
        with pytest.raises(ValueError, match=r"a.pickle is truncated or not a valid pickle|is not a list"):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_an_array_larger_than_its_bytes_is_refused(tmp_path):
    path = tmp_path / "a.pickle"
    raw = pickle.dumps([np.arange(3, dtype=np.int32)], protocol=3)
    assert raw.count(b"K\x03\x85") == 1  # the shape (3,)
    for shape in (b"J\xff\xff\xff\x7f\x85", b"K\x02\x85", b"J\xff\xff\xff\xff\x85"):
        path.write_bytes(raw.replace(b"K\x03\x85", shape))
        with pytest.raises(ValueError, match="an array of shape"):
            pickles.load(path)


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_cut_or_changed_files_are_errors_or_plain_objects(tmp_path_factory, data):
    objects = [{"input_ids_0": np.arange(9, dtype=np.int32), "label": np.int64(1)}, {"a": (1, "b", None, 2.5)}]
    raw = bytearray(pickle.dumps(objects, protocol=data.draw(st.integers(0, pickle.HIGHEST_PROTOCOL))))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pickles") / "a.pickle"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        pickles.load(path)
        list(pickles.elements(path))
    except ValueError as error:
        assert str(path) in str(error)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*a.pickle"):
        pickles.load(tmp_path / "a.pickle")

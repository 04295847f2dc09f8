"""The decoder against an encoder written for these tests, and against gzip, which reads .Z files too."""

import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_files import compress
from nip.data.lzw import decompress

texts = st.binary(max_size=4000) | st.lists(st.sampled_from([b"the ", b"and ", b"a", b"ab"]), max_size=3000).map(
    b"".join
)


@settings(max_examples=60, deadline=None)
@given(texts, st.sampled_from([9, 10, 12, 16]), st.sampled_from([None, 700, 1000]))
def test_what_is_packed_is_unpacked(content, widest, clear_every):
    assert decompress(compress(content, widest, clear_every), len(content)) == content


def test_all_widths_to_sixteen_bits_and_a_full_table():
    content = np.random.default_rng(0).integers(0, 40, 250_000).astype(np.uint8).tobytes()
    packed = compress(content)
    assert len(packed) < 0.95 * len(content)
    assert decompress(packed, len(content)) == content


@pytest.mark.skipif(shutil.which("gzip") is None, reason="there is no gzip")
def test_gzip_agrees():
    content = np.random.default_rng(1).integers(0, 20, 30_000).astype(np.uint8).tobytes()
    packed = compress(content, clear_every=7000)
    unpacked = subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True).stdout
    assert unpacked == content
    assert decompress(packed, len(content)) == content


def test_more_than_the_limit_is_refused():
    with pytest.raises(ValueError, match="unpacks to more than 99 bytes"):
        decompress(compress(bytes(100)), 99)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not packed by"),
        (b"\x1f\x9d", "not packed by"),
        (b"\x1f\x8b\x90abc", "not packed by"),
        (b"\x1f\x9d\x88abc", "not packed by"),
        (b"\x1f\x9d\x91abc", "not packed by"),
        (b"\x1f\x9d\x90" + (300).to_bytes(2, "little"), "stands for nothing yet"),
        (b"\x1f\x9d\x90" + (97 | 258 << 9).to_bytes(3, "little"), "stands for nothing yet"),
    ],
)
def test_what_is_no_such_file_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decompress(data, 1000)

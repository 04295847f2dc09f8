"""The official files against text made by recursion, and malformed ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.data import decode, encode, read_tsv, write_tsv
from nip.data.tasks.listops.official_files import read_tsv_file


def official(text):
    """The official form of an expression without parentheses, by recursion."""
    pieces = text.split()

    def node():
        first = pieces.pop(0)
        if not first.startswith("["):
            return first
        while pieces[0] != "]":
            first = f"( {first} {node()} )"
        return f"( {first} {pieces.pop(0)} )"

    return node()


def test_files_are_the_official_form_byte_by_byte(small, tmp_path):
    paths = write_tsv(small, tmp_path)
    assert [path.name for path in paths] == ["basic_train.tsv", "basic_val.tsv", "basic_test.tsv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    for split, path in zip(small.values(), paths, strict=True):
        lines = [f"{official(decode(split.sequence(i)))}\t{split.labels[i]}\r\n" for i in range(len(split))]
        assert path.read_bytes().decode() == "".join(["Source\tTarget\r\n", *lines])


def test_what_is_written_is_read_back(small, tmp_path):
    write_tsv(small, tmp_path)
    read = read_tsv(tmp_path)
    for name, split in small.items():
        assert read[name].split == name
        for part in ("tokens", "offsets", "labels"):
            assert np.array_equal(getattr(read[name], part), getattr(split, part))


def test_longer_files_than_are_written_at_a_time(small, tmp_path, monkeypatch):
    whole = [path.read_bytes() for path in write_tsv(small, tmp_path)]
    monkeypatch.setattr("nip.data.tasks.listops.official_files._ROWS", 7)
    assert [path.read_bytes() for path in write_tsv(small, tmp_path)] == whole


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bracket", ["]", "X"])
@pytest.mark.parametrize("parentheses", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_every_form_is_read(newline, bracket, parentheses, last, tmp_path):
    plain = ["[MAX 4 3 [MIN 2 3 ] 1 0 ]", "7", "[MED [SM 8 9 ] 2 ]"]
    sources = [(official(text) if parentheses else text).replace("]", bracket) for text in plain]
    lines = ["Source\tTarget", *(f"{s}\t{label}" for s, label in zip(sources, (4, 7, 4), strict=True))]
    path = tmp_path / "basic_val.tsv"
    path.write_bytes((newline.join(lines) + newline * last).encode())
    read = read_tsv_file(path, "dev")
    assert [decode(read.sequence(i)) for i in range(len(read))] == plain
    assert read.labels.tolist() == [4, 7, 4]


def test_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "basic_val.tsv"
    path.write_text("Source\tTarget\n\n[MAX 1 2 ]\t2\n\n \n3\t3\n\n")
    assert read_tsv_file(path, "dev").labels.tolist() == [2, 3]


PIECES = st.sampled_from(["[MIN", "[MAX", "[MED", "[SM", "]", "X", "0", "9", "(", ")", "[FIRST", "10", "[MI"])


@given(st.lists(PIECES, min_size=1, max_size=9))
@settings(deadline=None)
def test_lines_are_read_as_encode_reads_them(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("tsv") / "basic_val.tsv"
    inner = " ".join(pieces)
    source = f"[MAX {inner} ]"
    try:
        tokens = encode(source)
    except ValueError:
        path.write_text(f"Source\tTarget\n{source}\t0\n")
        with pytest.raises(ValueError, match=r"line 2: '.*' is not a token"):
            read_tsv_file(path, "dev")
        return
    for label in range(10):
        path.write_text(f"Source\tTarget\n{source}\t{label}\n")
        try:
            read = read_tsv_file(path, "dev")
        except ValueError as error:
            assert "line 2: the label is" in str(error) or "do not make a complete expression" in str(error)
        else:
            assert read.sequence(0).tolist() == tokens.tolist()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[FIRST 1 2 ]\t1", r"'\[FIRST' is not a token; the tokens are \[MIN \[MAX"),
        ("[MAX 1 12 ]\t1", "'12' is not a token"),
        ("[MAXX 1 2 ]\t1", r"'\[MAXX' is not a token"),
        ("[MA 1 2 ]\t1", r"'\[MA' is not a token"),
        ("[MAX 1,2 ]\t1", "'1,2' is not a token"),
        ("[MAX 1 2 ]", "there is no tab"),
        ("[MAX 1 2 ]\t", "the label must be one of 0 … 9, not ''"),
        ("[MAX 1 2 ]\t10", "the label must be one of 0 … 9, not '10'"),
        ("[MAX 1 2 ]\t-1", "not '-1'"),
        ("[MAX 1 2 ]\tx", "not 'x'"),
        ("[MAX 1 2 ]\t2\t3", r"not '2\\t3'"),
        ("\t3", "there is no expression before the tab"),
        ("( )\t3", "there is no expression before the tab"),
        ("[MAX 1 2\t2", "do not make a complete expression"),
        ("[MAX 1 2 ] ]\t2", "do not make a complete expression"),
        ("[MAX ]\t2", "do not make a complete expression"),
        ("1 2\t2", "do not make a complete expression"),
        ("[MAX 1 2 ]\t3", "the label is 3, the value of the expression is 2"),
        ("[MAX é 2 ]\t2", "'é' is not a token"),
        ("x" * 100 + "\t2", "'x{37}…' is not a token"),
    ],
)
def test_a_malformed_line_is_named(line, why, tmp_path):
    path = tmp_path / "basic_train.tsv"
    path.write_text(f"Source\tTarget\n[SM 9 2 ]\t1\n{line}\n5\t5\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"basic_train.tsv, line 3: .*{why}"):
        read_tsv_file(path, "train")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "line 1: the header must be"),
        (b"Source,Target\n1\t1\n", "line 1: the header must be 'Source\\\\tTarget', not 'Source,Target'"),
        (b"[MAX 1 2 ]\t2\n", "line 1: the header"),
        (b"\xff\xfe\x00", "line 1: the header"),
        (b"Source\tTarget", "line 2: there is no example"),
        (b"Source\tTarget\n", "line 2: there is no example"),
        (b"Source\tTarget\n\xff\t2\n", "line 2: '�' is not a token"),
    ],
)
def test_a_malformed_file_is_named(content, why, tmp_path):
    path = tmp_path / "basic_test.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"basic_test.tsv, {why}"):
        read_tsv_file(path, "test")


def test_a_missing_file_says_how_such_files_are_made(small, tmp_path):
    write_tsv(small, tmp_path)
    (tmp_path / "basic_val.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*basic_val.tsv.* `nip data listops --tsv`"):
        read_tsv(tmp_path)

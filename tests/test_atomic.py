import errno
import os

import pytest

from nip.atomic import replacing


def test_the_error_of_a_full_disk_names_the_file_and_the_old_one_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match="could not be written: No space left on device") as error,
        replacing(path) as file,
    ):
        file.write(b"new")
    assert error.value.filename == str(path) and error.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_other_errors_inside_are_left_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "a.txt"):
        (tmp_path / "nowhere").read_text()
    assert error.value.filename == str(tmp_path / "nowhere")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())

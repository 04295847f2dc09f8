import pytest

from nip.data.tasks.source import release_folder


@pytest.mark.parametrize("below", ["", "set", "lra_release/set", "lra_release/lra_release/set"])
def test_a_part_is_found_from_wherever_one_points(below, tmp_path):
    home = tmp_path / below
    home.mkdir(parents=True, exist_ok=True)
    assert release_folder(tmp_path, "set", lambda folder: (folder / "a").is_file()) is None
    (home / "a").write_text("")
    assert release_folder(tmp_path, "set", lambda folder: (folder / "a").is_file()) == home


def test_what_is_pointed_at_comes_first(tmp_path):
    for folder in (tmp_path, tmp_path / "set"):
        folder.mkdir(exist_ok=True)
        (folder / "a").write_text("")
    assert release_folder(tmp_path, "set", lambda folder: (folder / "a").is_file()) == tmp_path
    assert release_folder(tmp_path / "a", "set", lambda folder: True) is None

from pathlib import Path

import pytest

from nip import locations as folders
from nip.data import data_folder, runs_folder

REPOSITORY = Path(__file__).parents[1]
FOLDERS = [(data_folder, "NIP_DATA", "data"), (runs_folder, "NIP_RUNS", "runs")]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    monkeypatch.delenv("NIP_DATA", raising=False)
    monkeypatch.delenv("NIP_RUNS", raising=False)


@pytest.mark.parametrize(("folder", "variable", "name"), FOLDERS)
def test_an_argument_goes_before_the_variable_and_that_before_the_checkout(
    folder, variable, name, monkeypatch, tmp_path
):
    assert folder() == REPOSITORY / name
    monkeypatch.setenv(variable, str(tmp_path / "v"))
    assert folder() == tmp_path / "v"
    assert folder(tmp_path / "a") == tmp_path / "a"
    monkeypatch.setenv(variable, "")
    assert folder() == REPOSITORY / name


@pytest.mark.parametrize(("folder", "variable", "name"), FOLDERS)
def test_the_folder_does_not_depend_on_the_working_directory(folder, variable, name, monkeypatch, tmp_path):
    before = folder()
    monkeypatch.chdir(tmp_path)
    assert folder() == before
    assert before.is_absolute()


@pytest.mark.parametrize(("folder", "variable", "name"), FOLDERS)
def test_without_a_checkout_it_is_in_the_users_data_folder(folder, variable, name, monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "source_checkout", lambda: None)
    monkeypatch.setattr("platformdirs.user_data_path", lambda app, **_: tmp_path / app)
    assert folder() == tmp_path / "nip" / name


def test_the_home_sign_is_understood(monkeypatch):
    monkeypatch.setenv("NIP_DATA", "~/sets")
    assert data_folder() == Path.home() / "sets"
    assert data_folder(Path("~/other")) == Path.home() / "other"


@pytest.mark.parametrize(
    ("project", "found"),
    [
        ('[project]\nname = "nip"\n', True),
        ('[project]\nname = "another"\n', False),
        ("[tool]\n", False),
        ("no toml [", False),
        (None, False),
    ],
)
def test_only_a_checkout_of_nip_is_one(project, found, tmp_path):
    module = tmp_path / "src" / "nip" / "locations.py"
    module.parent.mkdir(parents=True)
    if project is not None:
        (tmp_path / "pyproject.toml").write_text(project)
    assert folders.source_checkout(module) == (tmp_path.resolve() if found else None)

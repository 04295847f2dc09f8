import json

import pytest

from nip.cli import main
from run_folders import write_three_runs


@pytest.fixture
def nip(capsys):
    """Run a command line: exit code, standard output, standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


def test_a_report_is_written_and_the_finding_printed(nip, tmp_path):
    demo = write_three_runs(tmp_path / "demo")
    code, out, err = nip("report", demo, "--out", tmp_path / "a.html")
    assert (code, err) == (0, "")
    assert out.startswith("On listops, hypercube reached 39.5 %")
    assert out.endswith("a.html (3 runs).\n")
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_is_one_object(nip, tmp_path):
    demo = write_three_runs(tmp_path / "demo")
    folders = [demo / f"listops-{model}-seed42" for model in ("local", "bigbird")]
    code, out, err = nip("report", *folders, "--out", tmp_path / "a.html", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["out"] == str(tmp_path / "a.html")
    assert found["runs"] == [
        {"folder": str(folders[0].resolve()), "finished": True},
        {"folder": str(folders[1].resolve()), "finished": False},
    ]
    (finding,) = found["findings"]
    assert finding["task"] == "listops"
    assert "local reached 35.0 %" in finding["sentence"]


def test_the_default_file_is_report_html(nip, tmp_path, monkeypatch):
    demo = write_three_runs(tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert nip("report", demo)[0] == 0
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("runs", "out", "said"),
    [
        (".", "a.html", "is no run and holds none"),
        ("absent", "a.html", "absent: No such file or directory"),
        ("demo", "absent/a.html", "cannot write there"),
        ("demo", "demo", "s a directory"),
    ],
)
def test_bad_input_is_one_sentence(nip, tmp_path, runs, out, said):
    write_three_runs(tmp_path / "demo")
    code, printed, err = nip("report", tmp_path / runs, "--out", tmp_path / out)
    assert (code, printed) == (2, "")
    assert err.startswith("nip: ")
    assert err.count("\n") == 1
    assert said in err
    assert [child.name for child in tmp_path.iterdir()] == ["demo"]

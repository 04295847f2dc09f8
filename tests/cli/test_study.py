"""The command `nip study`: with a stand-in for training, and once with real runs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nip.cli import main
from nip.cli.lra import lra_command, resolve
from nip.data import Rule, build, build_listops
from nip.study import execute
from nip.study.panel import read_plan
from run_folders import write_run

SMALL = ["--seq-len", "64", "--block-size", "4", "--batch-size", "4", "--eval-every", "2", "--max-steps", "4"]
PANEL = ["--patterns", "softmax,hypercube,local", "--seeds", "0,1", *SMALL]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    build_listops(folder, Rule(min_length=4, max_length=60), (60, 10, 12), seed=1)
    return folder


@pytest.fixture
def study(capsys, monkeypatch, tmp_path, data):
    """Run the command line in-process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("NIP_DATA", str(data))
    monkeypatch.setenv("NIP_RUNS", str(tmp_path / "runs"))

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["study", *map(str, arguments)])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def trained(monkeypatch):
    """A stand-in for training; the names of the runs it executed, and of those that shall fail."""
    asked, failing = [], set()

    def here(workers=1):
        def perform(jobs):
            for job in jobs:
                asked.append(job.name)
                error = "the loss is not finite" if job.name in failing else None
                if error is None:
                    (run,) = [run for run in read_plan(job.log.parents[1]) if run.name == job.name]
                    folder = job.log.parents[1]
                    correct = 700 + 20 * len(asked)
                    write_run(folder, run.config, name=run.name, correct=correct, best_step=4)
                yield execute.Outcome(job.name, error, 1.0, str(job.log))

        return perform

    monkeypatch.setattr(execute, "here", here)
    return asked, failing


def test_a_study_with_a_failed_run_is_resumed_and_extended(study, trained, tmp_path):
    asked, failing = trained
    folder = tmp_path / "study"
    failing.add("hypercube-seed1")
    code, out, err = study(*PANEL, "--out", folder, "--json")
    outcome = json.loads(out)
    assert code == 1 and len(asked) == 6
    assert "nip: hypercube-seed1 failed: the loss is not finite" in err and "6 of 6: local-seed1 41.0 %" in err
    assert [one["run"] for one in outcome["failed"]] == ["hypercube-seed1"]
    cells = {cell["pattern"]: cell for cell in outcome["cells"]}
    assert cells["softmax"]["accuracy"]["n"] == 2 and cells["hypercube"]["missing"] == ["hypercube-seed1"]
    # to look at it loses nothing
    code, out, err = study("--out", folder, "--results", "--json")
    assert code == 0 and json.loads(out)["failed"] == outcome["failed"] and "hypercube-seed1 failed" in err
    # the folder alone resumes, only with the missing runs
    asked.clear()
    failing.clear()
    code, out, err = study("--out", folder)
    assert code == 0 and asked == ["hypercube-seed1"] and "hypercube" in out
    # a wider panel adds its runs
    asked.clear()
    code, out, _ = study(*PANEL, "--patterns", "expander", "--out", folder, "--json")
    assert code == 0 and asked == ["expander-seed0", "expander-seed1"]
    assert {cell["pattern"] for cell in json.loads(out)["cells"]} == {"softmax", "hypercube", "local", "expander"}
    assert len(json.loads(out)["correlations"]) == 14
    printed = json.loads(out)
    assert printed.pop("folder") == str(folder.resolve())
    assert json.loads((folder / "results.json").read_text()) == printed


def test_dry_run_and_results_train_nothing(study, trained, tmp_path):
    asked, _ = trained
    code, out, _ = study(*PANEL, "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and len(plan["runs"]) == 6 and not any(run["finished"] for run in plan["runs"])
    assert plan["folder"] == str((tmp_path / "runs" / "study-listops").resolve())
    assert not (tmp_path / "runs").exists() and not asked
    assert study(*PANEL)[0] == 0 and len(asked) == 6
    code, out, _ = study("--task", "listops", "--results", "--json")
    assert code == 0 and len(json.loads(out)["cells"]) == 3 and len(asked) == 6
    assert "6 runs in" in study(*PANEL, "--dry-run")[1]


def test_several_tasks_are_one_study(study, trained, data, tmp_path):
    splits = {"train": 20, "dev": 4, "test": 4, "seq_len": 64, "pairs": 4, "queries": 2, "values": 4}
    build("probe", data, parameters=splits, overwrite=True)
    code, out, _ = study(*PANEL, "--task", "listops,probe", "--json")
    outcome = json.loads(out)
    assert code == 0 and list(outcome["tasks"]) == ["listops", "probe"] and len(outcome["average"]["cells"]) == 3
    folder = tmp_path / "runs" / "study-listops+probe"
    assert outcome["folder"] == str(folder.resolve())
    assert (folder / "probe-local-seed1").is_dir() and (folder / "average-reach.svg").is_file()
    for cell in outcome["average"]["cells"]:
        of_tasks = [c for t in outcome["tasks"].values() for c in t["cells"] if c["pattern"] == cell["pattern"]]
        assert cell["accuracy"]["mean"] == pytest.approx(sum(c["accuracy"]["mean"] for c in of_tasks) / 2)
    assert study("--out", folder, "--results")[1].count("test accuracy in percent") == 3


def test_every_option_of_nip_lra_reaches_the_runs(study, trained, tmp_path):
    from nip.cli.study import OTHERWISE

    code, _, err = study(
        "--patterns", "local,projective_plane@seq_len=56", "--seeds", "3", "--depths", "1,3", *SMALL,
        "--learning-rate", "0.5", "--protocol", "original", "--eval-steps", "2", "--data", os.environ["NIP_DATA"],
        "--out", tmp_path / "study",
    )  # fmt: skip
    assert code == 0, err
    runs = {run.name: run for run in read_plan(tmp_path / "study")}
    settings = {"task": "listops", "seed": 3, "layers": 3, "seq_len": 56, "block_size": 4, "batch_size": 4,
                "eval_every": 2, "max_steps": 4, "learning_rate": 0.5, "protocol": "original", "eval_steps": 2,
                "model": "projective_plane"}  # fmt: skip
    assert runs["projective_plane-seq_len56-depth3-seed3"].config == resolve(settings)
    assert runs["local-depth1-seed3"].config.layers == 1
    assert runs["local-depth1-seed3"].data == os.path.realpath(os.environ["NIP_DATA"])
    with pytest.raises(SystemExit):
        main(["study", "--help"])
    assert set(OTHERWISE) < set(lra_command.__annotations__)


def test_from_paper(study):
    code, out, _ = study("--from-paper", "--json")
    found = json.loads(out)
    assert code == 0 and round(found["pearson_r"], 3) == 0.980 and found["n"] == 5
    assert "0.9801" in study("--from-paper")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Say which patterns to study: --attention A,B,…"),
        (["--patterns", "hypercub"], "There is no pattern 'hypercub'."),
        ([*PANEL, "--task", "chess"], "There is no task 'chess' to train on."),
        ([*PANEL, "--seeds", "0,x"], "--seeds takes integers, comma-separated. Got '0,x' instead."),
        ([*PANEL, "--workers", "0"], "--workers must be an integer of at least 1."),
        ([*PANEL, "--workers", "2", "--scheduler", "tcp://h:1"], "exclude each other"),
        ([*PANEL, "--job", "a=1"], "--job is a setting of submitit's jobs."),
        ([*PANEL, "--submitit", "local", "--job", "a"], "--job takes name=value"),
        ([*PANEL, "--data", "nowhere"], "There is no listops data in"),
        ([*PANEL, "--patterns", "projective_plane", "--block-size", "16"], "must be an integer of at least 14"),
        (
            ["--from-paper", "--patterns", "local"],
            "--from-paper uses the paper's points alone. Leave --attention out.",
        ),
        (["--from-paper", "--seeds", "0,1"], "--from-paper uses the paper's points alone. Leave --seeds out."),
        (
            ["--from-paper", "--max-steps", "9"],
            "--from-paper uses the paper's points alone. Leave --max-steps out.",
        ),
        (["--seeds", "0,1"], "Say which patterns to study: --attention A,B,…"),
        ([*PANEL, "--results", "--out", "nowhere"], "There is no study in"),
        ([*PANEL, "--task", ","], "--task names no task."),
        ([*PANEL, "--task", "listops,listops"], "--task names listops twice."),
        ([*PANEL, "--task", "listops,chess"], "There is no task 'chess' to train on."),
    ],
)
def test_bad_input_is_one_sentence_and_runs_nothing(study, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = study(*arguments)
    assert (code, out) == (2, "")
    assert says in err and err.startswith("nip: ") and err.count("\n") == 1
    assert not list(tmp_path.rglob("plan.json")) and not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_a_killed_study_resumes_to_the_same_result(data, tmp_path):
    """Real runs, two in parallel; the driver is killed when some are done and others are not."""
    command = [sys.executable, "-c", "from nip.cli import main; main()", "study", *PANEL, "--workers", "2"]
    command += ["--max-steps", "40", "--data", str(data), "--json", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run([*command, str(tmp_path / "whole")], env=environment, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list((tmp_path / "killed").glob("*/result.json")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(list((tmp_path / "killed").glob("*/result.json"))) < 6
    time.sleep(3)  # the runs see that they are alone
    again = subprocess.run([*command, str(tmp_path / "killed")], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    first, second = json.loads(whole.stdout), json.loads(again.stdout)
    assert [cell["seeds"] for cell in first["cells"]] == [cell["seeds"] for cell in second["cells"]]
    assert first["correlations"] == second["correlations"]
    for name in ("softmax-seed0", "local-seed1"):
        best = [(tmp_path / study / name / "best" / "model.safetensors").read_bytes() for study in ("whole", "killed")]
        assert best[0] == best[1]

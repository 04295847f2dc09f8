"""``nip glue`` on several tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetuning_files import write_mrpc
from nip.finetuning.glue import benchmark, task
from nip.finetuning.glue.registry import TASKS

SHORT = (
    "--max_seq_length 16 --block_size 4 --do_train --do_eval --max_steps 2 --per_device_train_batch_size 4 --use_cpu "
    "--learning_rate 1e-3 --save_strategy steps --save_steps 1"
)
NINE = [name for name in TASKS if name != "ax"]


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MRPC's and CoLA's official files."""
    folder = tmp_path_factory.mktemp("glue")
    write_mrpc(folder / "MRPC")
    (folder / "CoLA").mkdir()
    for split, n in (("train", 16), ("dev", 8)):
        lines = [f"gj04\t{i % 2}\t\tthe {'cat' if i % 2 else 'dog'}" for i in range(n)]
        (folder / "CoLA" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_several_tasks_are_the_runs_of_each(
    model: Path, glue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = f"--model_name_or_path {model} --data_dir {glue} {SHORT} --json".split()
    outcome = benchmark.main([*words, "--task-name=MRPC, cola", "--output-dir", str(tmp_path / "both")])
    printed = capsys.readouterr().out
    assert json.loads(printed) == outcome == json.loads((tmp_path / "both" / "results.json").read_text())
    alone = {
        name: task.main([*words, "--task_name", name, "--output_dir", str(tmp_path / name)])
        for name in ("mrpc", "cola")
    }
    for name, result in alone.items():
        assert outcome["tasks"][name]["metrics"] == result["metrics"]
        assert (tmp_path / "both" / name / "model.safetensors").read_bytes() == (
            tmp_path / name / "model.safetensors"
        ).read_bytes()
    scores = (alone["mrpc"]["metrics"]["combined_score"], alone["cola"]["metrics"]["matthews_correlation"])
    assert tuple(outcome["scores"].values()) == scores
    assert outcome["average"] == pytest.approx(sum(scores) / 2)


def test_finished_tasks_are_not_trained_again(
    model: Path, glue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = f"--model_name_or_path {model} --data_dir {glue} {SHORT} --output_dir {tmp_path}".split()
    benchmark.main([*words, "--task_name", "mrpc,"])
    before = (tmp_path / "mrpc" / "model.safetensors").stat().st_mtime_ns
    benchmark.main([*words, "--task_name", "mrpc,cola"])
    assert (tmp_path / "mrpc" / "model.safetensors").stat().st_mtime_ns == before
    printed = capsys.readouterr()
    assert "training has ended already" in printed.err
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines[-4:-1]] == ["mrpc", "cola", "average"] and lines[-1] == str(tmp_path)


def test_the_average_is_glue_s():
    metrics = {name: dict.fromkeys(TASKS[name].metrics, 0.5) for name in NINE}
    metrics["mnli"] = {"accuracy": 0.6, "mm_accuracy": 0.8}
    metrics["stsb"] = {"pearson": 0.9, "spearmanr": 0.7, "combined_score": 0.8}
    metrics["ax"] = {"matthews_correlation": 0.1, "accuracy": 0.3}
    outcome = benchmark.averaged({name: {"metrics": values} for name, values in metrics.items()})
    assert outcome["scores"]["mnli"] == pytest.approx(0.7) and outcome["scores"]["stsb"] == 0.8
    assert outcome["average"] == pytest.approx((7 * 0.5 + 0.7 + 0.8) / 9)
    assert benchmark.averaged({"rte": {"metrics": {}}, "sst2": {"metrics": {"accuracy": 1.0}}})["average"] is None


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("mrpc,mrpc", "--task_name names mrpc twice"),
        (",", "--task_name names no task"),
        ("mrpc,chess", "There is no GLUE task 'chess'"),
        ("mrpc,rte", "rte|RTE"),  # it has no files there
    ],
)
def test_nothing_is_written_for_tasks_that_cannot_run(model: Path, glue: Path, tmp_path: Path, names: str, says: str):
    words = f"--model_name_or_path {model} --data_dir {glue} {SHORT} --output_dir {tmp_path}/out --task_name".split()
    with pytest.raises(ValueError, match=says):
        benchmark.main([*words, names])
    assert not (tmp_path / "out").exists()


def test_a_foreign_results_file_stays(model: Path, glue: Path, tmp_path: Path):
    (tmp_path / "results.json").write_text('{"mine": 1}')
    words = f"--model_name_or_path {model} --data_dir {glue} {SHORT} --output_dir {tmp_path} --task_name mrpc,cola"
    with pytest.raises(ValueError, match="is not the outcome of nip glue"):
        benchmark.main(words.split())
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest

from nip.lra.record import make_record
from nip.runs.folder import RunFolder, add_to_run_file
from nip.runs.record import RunRecord, find_records, read_record, write_record
from run_folders import small_config, write_run


def test_a_finished_run_is_read_completely(tmp_path):
    run = read_record(write_run(tmp_path, small_config(seed=7), correct=780))
    assert (run.seed, run.task, run.name) == (7, "listops", "listops-hypercube-seed7")
    assert run.environment["processor"] == "Some CPU"
    assert run.curves["train"].steps == tuple(range(10, 201, 10))
    assert run.curves["dev"].steps == (50, 100, 150, 200)
    assert run.curves["dev"].seconds == (20.0, 40.0, 60.0, 80.0)
    assert run.result.test_accuracy == 0.39
    assert run.result.interval == pytest.approx((0.36886, 0.41157), abs=2e-5)
    assert (run.last_step, run.last_seconds) == (200, 80.0)


def test_learned_means_above_the_best_baseline_with_the_whole_interval(tmp_path):
    run = read_record(write_run(tmp_path, small_config(), correct=780, baselines={"root_operator": 0.3688}))
    assert run.result.learned is True
    run = read_record(write_run(tmp_path, small_config(seed=1), correct=780, baselines={"root_operator": 0.3689}))
    assert run.result.learned is False
    run = read_record(write_run(tmp_path, small_config(seed=2), correct=780, interval=None))
    assert run.result.learned is None
    run = read_record(write_run(tmp_path, small_config(seed=3), correct=780, baselines={}))
    assert (run.result.bar, run.result.learned) == (None, None)


def test_an_unfinished_run_keeps_all_but_the_line_that_was_cut_off(demo):
    run = read_record(demo / "listops-bigbird-seed42")
    assert run.result is None
    assert run.last_step == 120


def test_a_complete_last_line_counts_even_without_its_line_end(tmp_path):
    folder = write_run(tmp_path, small_config(), finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 210, "split": "train", "loss": 1.0}')
    assert read_record(folder).last_step == 210


def test_a_run_that_has_only_begun(tmp_path):
    folder = write_run(tmp_path, small_config(), finished=False)
    (folder / "metrics.jsonl").unlink()
    (folder / "environment.json").unlink()
    run = read_record(folder)
    assert (run.curves, run.environment, run.last_step, run.last_seconds) == ({}, {}, 0, 0.0)


def test_a_run_that_stopped_early_is_finished(tmp_path):
    folder = write_run(tmp_path, small_config(max_steps=400), steps=200, planned_steps=400)
    assert read_record(folder).result.steps == 200


def test_a_run_that_goes_on_to_more_steps_is_unfinished_again(tmp_path):
    folder = write_run(tmp_path, small_config(max_steps=400), steps=200)
    assert read_record(folder).result is None


def test_values_that_were_not_recorded_are_nan(tmp_path):
    folder = write_run(tmp_path, small_config(), finished=False)
    (folder / "metrics.jsonl").write_text('{"step": 1, "split": "dev", "loss": NaN, "accuracy": null}\n')
    curve = read_record(folder).curves["dev"]
    assert all(math.isnan(value) for value in (curve.loss[0], curve.accuracy[0], curve.seconds[0]))


def test_only_the_accuracy_of_a_result_is_required(tmp_path):
    folder = write_run(tmp_path, small_config())
    (folder / "result.json").write_text('{"test_accuracy": 0.5}')
    result = read_record(folder).result
    assert (result.test_accuracy, result.interval, dict(result.baselines), result.seconds) == (0.5, None, {}, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 2, is not valid JSON"),
        ("[1]", "line 2, must be a JSON object with a split"),
        ('{"step": 3}', "line 2, must be a JSON object with a split"),
        ('{"split": "dev"}', "line 2, must have a step"),
        ('{"split": "dev", "step": 1.5}', "line 2, step must be an integer of at least 0. Got 1.5"),
        ('{"split": "dev", "step": -1}', "line 2, step must be an integer of at least 0. Got -1"),
        ('{"split": "dev", "step": true}', "line 2, step must be an integer"),
        ('{"split": "dev", "step": 1, "loss": "low"}', "line 2, loss must be a number. Got 'low'"),
        (f'{{"split": "dev", "step": 1, "loss": {10**400}}}', "line 2, loss must be a number"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, said):
    folder = write_run(tmp_path, small_config(), finished=False)
    (folder / "metrics.jsonl").write_text('{"step": 1, "split": "dev"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl") as caught:
        read_record(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "must have a test_accuracy"),
        ({"test_accuracy": 38.1}, "test_accuracy must be a share in"),
        ({"test_accuracy": "0.4"}, "test_accuracy must be a number"),
        ({"test_accuracy": 0.4, "interval": [0.41, 0.5]}, "interval must enclose the test_accuracy"),
        ({"test_accuracy": 0.4, "interval": 0.4}, "interval must be a list of two"),
        ({"test_accuracy": 0.4, "baselines": [0.1]}, "baselines must be a JSON object"),
        ({"test_accuracy": 0.4, "baselines": {"root_operator": 36}}, "root_operator must be a share"),
        ({"test_accuracy": 0.4, "steps": "many"}, "steps must be an integer"),
    ],
)
def test_a_malformed_result_is_named(tmp_path, result, said):
    folder = write_run(tmp_path, small_config())
    (folder / "result.json").write_text(result if isinstance(result, str) else json.dumps(result))
    with pytest.raises(ValueError, match=r"result\.json") as caught:
        read_record(folder)
    assert said in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path):
    folder = write_run(tmp_path, small_config())
    (folder / "environment.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"environment\.json is not valid JSON"):
        read_record(folder)


def test_runs_are_found_by_folder_and_by_parent_and_read_once(demo):
    names = [
        run.name for run in find_records([demo / "listops-local-seed42", demo, f"{demo}/../demo/listops-local-seed42"])
    ]
    assert names == ["listops-local-seed42", "listops-bigbird-seed42", "listops-hypercube-seed42"]


def test_other_things_beside_runs_are_passed_over(demo):
    (demo / "report.html").write_text("old")
    (demo / "notes").mkdir()
    assert len(find_records([demo])) == 3


def test_a_path_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no run and holds none"):
        find_records([tmp_path])
    with pytest.raises(FileNotFoundError):
        find_records([tmp_path / "absent"])
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        find_records([tmp_path / "file"])


OLDER = Path(__file__).parent / "older_folders"
# Written by nip 0.1.0 before run.json had a format version: kind, task, pattern, tokens, examples a step, steps planned
# and done, test accuracy (the metric, where that is another).
WRITTEN_THEN = {
    "lra-clean": ("lra", "listops", "hypercube", 64, 4, 20, 20, 0.05),
    "lra-graph-file": ("lra", "listops", "ring", 64, 4, 6, 6, 0.05),
    "lra-modern": ("lra", "listops", "bigbird (num_random_blocks=1)", 64, 4, 20, 20, 0.05),
    "lra-original-bigbird": ("lra", "listops", "bigbird", 64, 4, 6, 6, 0.15),
    "lra-unfinished": ("lra", "listops", "local", 64, 4, 400, None, None),
    "pretrain-stages": ("pretraining", "masked language model", "hypercube", 64, 8, 20, 20, 0.0425531914893617),
    "pretrain-tokens": ("pretraining", "masked language model", "local", 32, 8, None, 13, 0.031578947368421054),
    "glue": ("glue", "mrpc", "hypercube", 32, 8, 20, 20, 0.5),
    "glue-graph": ("glue", "mrpc", "custom", 32, 8, 6, 6, 0.5),
    "glue-layers": ("glue", "mrpc", "hypercube with layers 0=local", 32, 8, 6, 6, 0.5),
    "mlm": ("mlm", "mlm", "hypercube", 32, 8, 20, 20, 0.038461538461538464),
    "qa": ("qa", "squad (f1)", "hypercube", 24, 8, 20, 20, 0.149),
    "summarization": ("summarization", "texts (rougeL)", "hypercube", 20, 8, 20, 20, 0.0),
}


@pytest.mark.parametrize("name", WRITTEN_THEN)
def test_a_folder_made_before_is_read(name):
    run, folder = read_record(OLDER / name), OLDER / name
    steps = None if run.result is None else run.result.steps
    accuracy = None if run.result is None else pytest.approx(run.result.test_accuracy, abs=1e-3)
    what = (run.kind, run.task_label, run.pattern_label, run.seq_len, run.batch_size, run.planned_steps)
    assert (*what, steps, accuracy) == WRITTEN_THEN[name]
    file = folder / "run.json"
    there = json.loads(file.read_text())["settings"] if file.exists() else None
    assert run.settings == (there or json.loads((folder / "config.json").read_text()))  # as they were set, none more
    assert run.environment["torch"] and run.last_step == (steps or 80)
    assert run.data_checksum and (run.command[1] == "pretrain" if run.kind == "pretraining" else True)


def test_all_folders_made_before_are_found():
    assert [run.name for run in find_records([OLDER])] == sorted(WRITTEN_THEN)


def test_a_folder_of_the_first_runs_had_one_value_of_what_came_later(tmp_path):
    shutil.copytree(OLDER / "lra-clean", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    later = {"recipe", "schedule", "cut", "layers", "repeats", "width", "ema", "patience", "beta2", "head_width"}
    (tmp_path / "run" / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if k not in later}))
    assert read_record(tmp_path / "run").settings == settings


def test_a_pretraining_run_that_continues_to_more_tokens_is_unfinished_again(tmp_path):
    shutil.copytree(OLDER / "pretrain-tokens", tmp_path / "run")
    settings = dict(read_record(tmp_path / "run").settings)
    add_to_run_file(tmp_path / "run", settings={**settings, "max_tokens": 2 * settings["max_tokens"]})
    assert read_record(tmp_path / "run").result is None


@pytest.fixture
def record():
    return make_record(small_config(checksum="c", data="d"))


def test_a_record_is_read_as_it_was_written(tmp_path, record):
    write_record(RunFolder(tmp_path), record)
    read = read_record(tmp_path)
    assert read == dataclasses.replace(record, folder=tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == json.loads(json.dumps(record.to_dict()))


def test_every_value_that_is_not_optional_must_be_there(tmp_path, record):
    write_record(RunFolder(tmp_path), record)
    facts = json.loads((tmp_path / "run.json").read_text())
    missing = dataclasses.MISSING
    fields = [each for each in dataclasses.fields(RunRecord) if each.default is each.default_factory is missing]
    assert len(fields) == 10
    for name in [each.name for each in fields]:
        (tmp_path / "run.json").write_text(json.dumps({key: value for key, value in facts.items() if key != name}))
        with pytest.raises(ValueError, match=rf"run\.json lacks {name}\."):
            read_record(tmp_path)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"format": 99}, "has the format 99, which this nip does not read"),
        ({"seed": -1}, "seed must be an integer of at least 0. Got -1"),
        ({"seq_len": None}, "seq_len must be an integer. Got None"),
        ({"block_size": True}, "block_size must be an integer of at least 1. Got True"),
        ({"pattern": 3}, "pattern must be text. Got 3"),
        ({"settings": []}, r"settings must be a mapping. Got \[\]"),
        ({"command": "nip lra"}, "command must be a list of words"),
        ({"layers": {"3": {"block_size": 4}}}, "layer 3 must be null or have a pattern"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, record, facts, says):
    write_record(RunFolder(tmp_path), record)
    add_to_run_file(tmp_path, **facts)
    with pytest.raises(ValueError, match=says) as told:
        read_record(tmp_path)
    assert str(tmp_path / "run.json") in str(told.value)

import json

import pytest

from nip.bench import step as bench
from nip.bench.quiet import Timing
from nip.cli import main
from nip.lra import task as lra_task


def small(**changes):
    return bench.bench_step(**{"batch_size": 2, "seq_len": 64, "repeats": 1, **changes})


@pytest.fixture
def memory(monkeypatch):
    """Calls of `keep_freed_memory`, which does not change the test process."""
    calls = []
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: calls.append(True))
    return calls


def test_every_way_is_measured_with_each_backend_and_the_dense_step(memory):
    rows = list(small(backends=["gather", "auto"], ways=["own", "plain"]))
    assert [(row.way, row.attention, row.pattern) for row in rows] == [
        (way, *kind)
        for way in ("plain", "own")  # plain is first: keeping freed memory cannot be undone
        for kind in (("dense", "softmax"), ("gather", "hypercube"), ("dense", "hypercube"))
    ]  # at this size auto is dense with the pattern as a mask
    for row in rows:
        assert row.ms > 0 and 0 <= row.kept <= 3
        assert 0 < row.attention_share < 1
        assert 0 < row.loading_ms < row.ms and row.loading_share == row.loading_ms / row.ms
    assert [row.ratio_to_dense for row in rows if row.pattern == "softmax"] == [1.0, 1.0]
    assert memory == [True]


def test_full_padding_has_full_length_and_own_padding_less(memory, monkeypatch):
    lengths = []
    forward = lra_task.forward

    def watched(model, accelerator, micro_batch, *rest):
        lengths.append(micro_batch.inputs["input_ids"].shape[1])
        return forward(model, accelerator, micro_batch, *rest)

    def once(calls, *_):
        for call in calls.values():
            call()
        return {name: Timing([1.0], 1) for name in calls}

    monkeypatch.setattr(lra_task, "forward", watched)
    monkeypatch.setattr(bench, "time_alternately", once)
    monkeypatch.setattr(bench, "profile_step", lambda call: {"attention": 1.0, "step": 4.0})
    list(small(ways=["full"], backends=[], seq_len=2048))
    assert set(lengths) == {2048}
    lengths.clear()
    list(small(ways=["own"], backends=[], seq_len=2048))
    assert 500 < max(lengths) < 2048


def test_a_row_compares_with_the_dense_step_of_its_way(memory, monkeypatch):
    times = {"dense": [60.0, 40.0, 50.0], "gather hypercube": [10.0, 9.0, 30.0], "loading": [0.5]}
    monkeypatch.setattr(bench, "time_alternately", lambda calls, *_: {name: Timing(times[name], 2) for name in calls})
    monkeypatch.setattr(bench, "profile_step", lambda call: {"attention": 1.0, "step": 4.0})
    dense, row = small(backends=["gather"], ways=["full"])
    assert (dense.ms, row.ms, row.kept, row.attention_share) == (50.0, 10.0, 2, 0.25)
    record = row.to_dict()
    assert record["speedup_over_dense"] == 5.0 and record["parts"] == {"attention": 1.0, "step": 4.0}
    assert (dense.to_dict()["loading_share"], record["loading_share"]) == (0.01, 0.05)
    assert bench.cells(row)[-2] == "5.0%"


def test_the_command_prints_rows_and_writes_both_tables(memory, tmp_path, capsys):
    table = tmp_path / "step.md"
    with pytest.raises(SystemExit) as ended:
        main(
            "bench step --backends gather --ways own --batch-size 2 --seq-len 64 --repeats 1 --json "
            f"--out {table}".split()
        )
    assert not ended.value.code
    rows = json.loads(capsys.readouterr().out)
    assert [row["attention"] for row in rows] == ["dense", "gather"]
    fields = "pattern way batch_size seq_len ms ratio_to_dense speedup_over_dense attention_share parts repeats kept"
    assert {*fields.split(), "processor", "date"} <= rows[0].keys()
    text = table.read_text()
    assert "| own | gather | hypercube |" in text
    assert f"| step | {rows[0]['parts']['step']:,.0f} | {rows[1]['parts']['step']:,.0f} |" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ways", "half"], "There is no way 'half' to compute a batch. The ways are plain, full, own."),
        (["--ways", ","], "nothing to measure"),
        (["--backends", "fast"], "There is no attention backend 'fast'"),
        (["--model", "cube"], "no pattern 'cube'"),
        (["--repeats", "0"], "'repeats' parameter of bench step must be an integer of at least 1"),
        (["--batch-size", "0"], "'batch_size' parameter of a run must be an integer of at least 1"),
    ],
)
def test_bad_input(capsys, options, says):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "step", *options])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err

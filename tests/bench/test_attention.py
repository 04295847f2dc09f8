import json

import pytest
import torch

from nip.bench import Case, bench_attention, to_markdown
from nip.bench import attention as bench
from nip.bench.attention import DENSE


def test_rows_tell_what_was_measured_and_beside_what():
    cases = [Case("hypercube", 60, batch=1, heads=2, head_dim=8), Case("softmax", 40, batch=1, heads=1, head_dim=4)]
    rows = list(bench_attention(cases, ["gather", "auto"], ["forward+backward"], repeats=1, memory=False))
    assert [(row.backend, row.case.pattern) for row in rows] == [
        (name, pattern) for pattern in ("hypercube", "softmax") for name in (DENSE, "gather", "dense")
    ]  # at these sizes auto is dense
    for row in rows:
        record = row.to_dict()
        assert record["ms"] > 0
        assert record["peak_mib"] is None
        assert record["threads"] == torch.get_num_threads()
        assert record["torch"] == torch.__version__
        assert (record["pass"], record["n_tokens"]) == ("forward+backward", row.case.n_tokens)
    assert [row.ratio_to_dense for row in rows if row.backend == DENSE] == [1.0, 1.0]


def test_the_ratio_is_the_median_of_the_pairs_ratios(monkeypatch):
    times = {DENSE: [10.0, 100.0, 20.0], "gather": [1.0, 50.0, 4.0]}
    monkeypatch.setattr(bench, "_times", lambda calls, repeats: {name: times[name] for name in calls})
    _, row = bench_attention([Case("hypercube", 16)], ["gather"], ["forward"], repeats=3, memory=False)
    assert (row.ms, row.ratio_to_dense) == (4.0, 0.2)  # the ratios are 0.1, 0.5, 0.2


@pytest.mark.parametrize("direction", bench.DIRECTIONS)
@pytest.mark.parametrize("backend", [DENSE, "gather"])
def test_a_call_computes_what_its_row_says(backend, direction):
    case = Case("softmax", 40, batch=1, heads=1, head_dim=4)  # complete: both compute dense attention
    result = bench.prepare(case, backend, direction)()
    expected = bench.prepare(case, "reference", direction)()
    assert len(result) == (1 if direction == "forward" else 3)
    torch.testing.assert_close(result, expected)


def test_memory_counts_the_score_matrix_of_the_backend_that_has_one():
    from nip.bench.memory import _RESET, peak_mib

    if not _RESET.exists():
        pytest.skip("needs Linux's memory counters")
    case = Case("hypercube", 2048, batch=1, heads=4, head_dim=8)
    reference = peak_mib(case, "reference", "forward", 1)
    gather = peak_mib(case, "gather", "forward", 1)
    assert reference > 4 * 4 * 2048**2 / 2**20  # one float32 score matrix for each head: 64 MiB
    assert 0 < gather < reference / 4


def test_a_measurement_that_fails_says_why():
    from nip.bench.memory import _RESET, peak_mib

    if not _RESET.exists():
        pytest.skip("needs Linux's memory counters")
    with pytest.raises(
        ValueError, match=r"memory of nothing at 16 tokens failed: ValueError: There is no attention backend"
    ):
        peak_mib(Case("hypercube", 16), "nothing", "forward", 1)


BAD = [
    ({"cases": [Case("hyper", 16)]}, "There is no pattern 'hyper'"),
    ({"backends": ["fast"]}, "There is no attention backend 'fast'"),
    ({"directions": ["backward"]}, "There is no pass 'backward'. The passes are forward, forward"),
    ({"repeats": 0}, "'repeats' parameter of bench attention must be an integer of at least 1. Got 0"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_requests_are_refused_before_anything_is_measured(change, message):
    with pytest.raises(ValueError, match=message):
        bench_attention(**{"cases": [Case("hypercube", 16)], **change})


@pytest.mark.parametrize(("field", "value"), [("n_tokens", 0), ("batch", 0), ("head_dim", -1), ("dtype", "int8")])
def test_impossible_cases_are_refused(field, value):
    with pytest.raises(ValueError, match=f"'{field}' parameter of bench attention must be"):
        Case(**{"pattern": "hypercube", "n_tokens": 64, field: value})


def test_markdown_is_a_table_with_its_circumstances():
    rows = list(bench_attention([Case("bigbird", 64)], ["gather"], ["forward"], repeats=1, memory=False))
    caption, _, header, rule, *lines = to_markdown(rows).splitlines()
    assert str(rows[0].machine) in caption
    assert "batch 4, 4 heads of 32, block 16, float32" in caption
    assert header.count("|") == rule.count("|") == lines[0].count("|") == lines[1].count("|")
    assert len(lines) == 2


def test_the_command_prints_one_json_list(tmp_path, capsys):
    from nip.cli import main

    table, before = tmp_path / "table.md", torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as ended:
            main(
                "bench attention --patterns hypercube,bigbird --seq-len 64 100 --batch 1 --pass forward+backward "
                f"--repeats 1 --no-memory --threads 1 --backends gather --json --out {table}".split()
            )
    finally:
        torch.set_num_threads(before)
    assert ended.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["pattern"], row["n_tokens"], row["backend"]) for row in rows] == [
        (pattern, tokens, backend)
        for pattern in ("hypercube", "bigbird")
        for tokens in (64, 100)
        for backend in (DENSE, "gather")
    ]
    assert {row["threads"] for row in rows} == {1}
    fields = "backend pattern n_tokens block_size batch heads head_dim dtype pass ms ratio_to_dense peak_mib date"
    assert set(fields.split()) <= rows[0].keys()
    assert table.read_text().count("\n") == 4 + len(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patterns", "hyper"], "There is no pattern 'hyper'"),
        (["--seq-len", "many"], "A sequence length must be an integer. Got 'many' instead."),
        (["--seq-len", "0"], "'n_tokens' parameter of bench attention must be an integer of at least 1"),
        (["--pass", "backward"], "--pass must be one of forward, forward+backward, all"),
        (["--threads", "0"], "--threads must be an integer of at least 1"),
    ],
)
def test_the_command_refuses_bad_input_in_one_sentence(arguments, message, capsys):
    from nip.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["bench", "attention", *arguments])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1

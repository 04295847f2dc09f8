import dataclasses
import json

import pytest
import torch

from nip.bench import Case, bench_attention, to_markdown
from nip.bench import attention as bench
from nip.bench.quiet import Timing
from nip.bench.rows import DENSE


def test_rows_contain_the_measurement_and_its_baseline():
    cases = [Case("hypercube", 60, batch=1, heads=2, head_dim=8), Case("softmax", 40, batch=1, heads=1, head_dim=4)]
    rows = list(bench_attention(cases, ["gather", "auto"], ["forward+backward"], repeats=1, memory=False))
    assert [(row.backend, row.case.pattern) for row in rows] == [
        (name, pattern) for pattern in ("hypercube", "softmax") for name in (DENSE, "gather", "dense")
    ]  # at these sizes auto is dense
    for row in rows:
        record = row.to_dict()
        assert record["ms"] > 0
        assert record["peak_mib"] is None
        assert 0 <= record["kept"] <= 3
        assert record["threads"] == torch.get_num_threads()
        assert record["torch"] == torch.__version__
        assert (record["pass"], record["n_tokens"]) == ("forward+backward", row.case.n_tokens)
        assert record["sgemm_gflops"] == record["mm_gflops"] > 0
        assert record["fraction_of_sgemm"] == record["gflops"] / record["sgemm_gflops"]
    assert [row.ratio_to_dense for row in rows if row.backend == DENSE] == [1.0, 1.0]


def test_a_row_compares_medians_and_counts_the_attended_pairs_only(monkeypatch):
    times = {DENSE: [20.0, 100.0, 10.0], "gather": [1.0, 50.0, 4.0]}
    monkeypatch.setattr(
        bench, "time_alternately", lambda calls, *_, **__: {name: Timing(times[name], 3) for name in calls}
    )
    case = Case("local", 32, block_size=8, batch=2, heads=3, head_dim=5)  # a path of 4 blocks: 10 of 16 are attended
    dense, row = bench_attention([case], ["gather"], ["backward"], repeats=3, memory=False)
    assert (row.ms, row.ratio_to_dense, row.to_dict()["speedup_over_dense"]) == (4.0, 0.2, 5.0)
    assert (dense.density, row.density) == (1.0, 10 / 16)
    # two products of 2 · 5 operations per pair forward, and 2.5 times that backward, in 4 ms
    assert row.gflops == pytest.approx(2.5 * 4 * 5 * 10 * 64 * 2 * 3 / 4e-3 / 1e9)
    assert dense.gflops == pytest.approx(2.5 * 4 * 5 * 16 * 64 * 2 * 3 / 20e-3 / 1e9)
    both = dataclasses.replace(row, direction="forward+backward")
    assert both.gflops == pytest.approx(row.gflops * 3.5 / 2.5)


@pytest.mark.parametrize("direction", bench.DIRECTIONS)
@pytest.mark.parametrize("backend", [DENSE, "gather"])
def test_a_call_computes_the_pass_of_its_row(backend, direction):
    case = Case("softmax", 40, batch=1, heads=1, head_dim=4)  # complete: both compute dense attention
    call = bench.prepare(case, backend, direction)
    result = call()
    expected = bench.prepare(case, "reference", direction)()
    assert len(result) == (1 if direction == "forward" else 3)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(call(), result)  # also on the second call


def test_a_backward_pass_alone_is_that_of_both():
    case = Case("hypercube", 64, batch=1, heads=2, head_dim=8)
    torch.testing.assert_close(
        bench.prepare(case, "gather", "backward")(), bench.prepare(case, "gather", "forward+backward")()
    )


def test_unsupported_measurements_are_skipped_with_a_reason():
    said = []
    cases = [Case("hypercube", 64, batch=1, heads=1, head_dim=8, dtype=dtype) for dtype in ("float64", "float32")]
    rows = list(
        bench_attention(
            cases, ["gather"], ["forward", "backward"], rivals=["torch-sparse"], repeats=1, memory=False,
            left_out=said.append,
        )
    )  # fmt: skip
    assert [(row.case.dtype, row.direction, row.backend) for row in rows] == [
        (dtype, direction, name)
        for dtype in ("float64", "float32")
        for direction, names in (("forward", (DENSE, "gather", "torch-sparse")), ("backward", (DENSE, "gather")))
        for name in names
    ]
    assert said == [
        f"The peer 'torch-sparse' is skipped for backward in {dtype}: its backward pass materializes dense gradients."
        for dtype in ("float64", "float32")
    ]
    with pytest.raises(ValueError, match="'torch-sparse' is skipped"):
        bench_attention(cases, [], ["backward"], rivals=["torch-sparse"])


def test_the_choice_of_a_backend_knows_whether_gradients_are_needed(monkeypatch):
    seen, explain = [], bench.explain

    def watched(q, *arguments, **options):
        seen.append(q.requires_grad)
        return explain(q, *arguments, **options)

    monkeypatch.setattr(bench, "explain", watched)
    bench.plan([Case("local", 32)], ["auto"], ["forward", "backward", "forward+backward"])
    assert seen == [False, True, True]


def test_long_inputs_are_measured_without_dense_attention():
    cases = [Case("local", n, batch=1, heads=1, head_dim=8) for n in (32, 64)]
    rows = list(bench_attention(cases, ["gather"], ["forward"], dense_up_to=63, repeats=1, memory=False))
    assert [(row.backend, row.case.n_tokens) for row in rows] == [(DENSE, 32), ("gather", 32), ("gather", 64)]
    assert [row.ratio_to_dense is None for row in rows] == [False, False, True]
    assert rows[-1].to_dict()["speedup_over_dense"] is None
    assert "| local | 64 | forward | gather |" in to_markdown(rows)


def test_memory_counts_the_score_matrix_of_the_backend_that_has_one():
    from nip.bench.attention import peak_mib
    from nip.bench.memory import _RESET

    if not _RESET.exists():
        pytest.skip("needs Linux's memory counters")
    case = Case("hypercube", 2048, batch=1, heads=4, head_dim=8)
    reference = peak_mib(case, "reference", "forward", 1)
    gather = peak_mib(case, "gather", "forward", 1)
    assert reference > 4 * 4 * 2048**2 / 2**20  # one float32 score matrix for each head: 64 MiB
    assert 0 < gather < reference / 4


def test_a_failed_measurement_has_a_reason():
    from nip.bench.attention import peak_mib
    from nip.bench.memory import _RESET

    if not _RESET.exists():
        pytest.skip("needs Linux's memory counters")
    with pytest.raises(
        ValueError, match=r"memory of nothing at 16 tokens failed: ValueError: There is no attention backend"
    ):
        peak_mib(Case("hypercube", 16), "nothing", "forward", 1)


BAD = [
    ({"cases": [Case("hyper", 16)]}, "There is no pattern 'hyper'"),
    ({"backends": ["fast"]}, "There is no attention backend 'fast'"),
    ({"directions": ["sideways"]}, "There is no pass 'sideways'. The passes are forward, backward, forward"),
    ({"rivals": ["xformers"]}, "There is no peer 'xformers'. The peers are flex-window, torch-sparse"),
    ({"cases": []}, "There is nothing to measure"),
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


def test_the_command_prints_one_json_list(tmp_path, capsys):
    from nip.cli import main

    table, plot, before = tmp_path / "table.md", tmp_path / "plot.svg", torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as ended:
            main(
                "bench attention --patterns hypercube,bigbird --seq-len 64 100 --batch 1 --pass forward+backward "
                f"--repeats 1 --no-memory --threads 1 --backends gather --json --out {table} --plot {plot}".split()
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
    fields += " gflops sgemm_gflops fraction_of_sgemm speedup_over_dense density kept"
    assert set(fields.split()) <= rows[0].keys()
    assert table.read_text().count("| forward+backward |") == len(rows)
    assert "gather hypercube" in plot.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patterns", "hyper"], "There is no pattern 'hyper'"),
        (["--seq-len", "many"], "A sequence length must be an integer. Got 'many' instead."),
        (["--seq-len", "0"], "'n_tokens' parameter of bench attention must be an integer of at least 1"),
        (["--pass", "sideways"], "There is no pass 'sideways'. The passes are forward, backward, forward+backward"),
        (["--block-size", "8,x"], "--block-size must be an integer. Got 'x' instead."),
        (["--peers", "none"], "There is no peer 'none'"),
        (["--dtype", "int8"], "'dtype' parameter of bench attention must be float16"),
        (["--plot", "plot.pdf"], "--plot writes .svg or .png. Got plot.pdf instead."),
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

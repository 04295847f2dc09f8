import json
import sys

import pytest
import torch

from nip.bench import pretrain as bench
from nip.bench.pretrain import Problem
from nip.bench.quiet import Timing
from nip.cli import main

SMALL = {"batch": 2, "layers": 1, "width": 32, "heads": 2, "block_size": 8, "vocab_size": 64}


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """Do not change the allocator of the test process."""
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: None)


def test_patterns_are_measured_with_the_dense_step(monkeypatch):
    def once(calls, *_):
        for call in calls.values():
            call()
        return {key: Timing([100.0 if key[0] == "sdpa" else 40.0], 1) for key in calls}

    monkeypatch.setattr(bench, "time_alternately", once)
    problem = Problem(64, **SMALL)
    measured = bench.bench_pretraining([problem], ["hypercube"], ["masked", "all"], backend="gather", memory=False)
    rows = list(measured)
    assert [(row.attention, row.pattern, row.output) for row in rows] == [
        ("sdpa", "softmax", "masked"), ("gather", "hypercube", "masked"),
        ("sdpa", "softmax", "all"), ("gather", "hypercube", "all"),
    ]  # fmt: skip
    assert rows[1].ratio_to_dense == 0.4 and rows[1].tokens_per_second == 2 * 64 / 0.04
    # one layer of 12 · 32² weights, 10 of 64 tokens through 32² + 32 · 64; 64 pairs a token against 4 of 8 blocks
    for row, asked in ((rows[1], 10), (rows[3], 64)):
        dense, sparse = (12 * 32**2 + asked / 64 * (32**2 + 32 * 64) + 2 * 32 * pairs for pairs in (64, 32))
        assert row.work_to_dense == pytest.approx(sparse / dense)
    assert rows[0].work_to_dense == rows[2].work_to_dense == 1
    record = rows[1].to_dict()
    assert record["speedup_over_dense"] == 2.5 and record["pass"] == "training" and record["head_dim"] == 16


@pytest.mark.parametrize("name", ["sdpa", "hypercube"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_learns_its_batch(monkeypatch, name, bf16):
    models, build = [], bench.build_model
    monkeypatch.setattr(bench, "build_model", lambda *args, **more: models.append(build(*args, **more)) or models[-1])
    courses = {}
    for output in bench.OUTPUTS:
        step = bench.prepare(Problem(64, **SMALL, masked=0.25, bf16=bf16), name, output, "gather")
        model, seen, norms = models.pop(), set(), []
        model.get_output_embeddings().register_forward_hook(lambda _, args, out, seen=seen: seen.add(out.numel() // 64))
        for _ in range(12):
            step()
            norms.append(sum(float(weight.grad.square().sum()) for weight in model.parameters()))
        assert seen == {32 if output == "masked" else 128} and norms[-1] != norms[0]
        courses[output] = norms
    assert courses["masked"] == pytest.approx(courses["all"], rel=0.05 if bf16 else 1e-3)


def test_dense_is_transformers_own(monkeypatch):
    import transformers.integrations.sdpa_attention as theirs

    seen, original = [], theirs.torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: seen.append(kwargs.get("attn_mask")) or original(*args, **kwargs),
    )
    bench.prepare(Problem(64, **SMALL), "sdpa")()
    assert seen == [None]  # one layer without a mask


def test_the_command_prints_rows_and_writes_a_table(tmp_path, capsys):
    table = tmp_path / "pretrain.md"
    with pytest.raises(SystemExit) as ended:
        main(
            "bench pretrain --seq-len 64 --tokens 128 --layers 1 --width 32 --heads 2 --block-size 8 --vocab-size 64 "
            f"--backend gather --repeats 1 --no-memory --json --out {table}".split()
        )
    assert not ended.value.code
    rows = json.loads(capsys.readouterr().out)
    assert [row["backend"] for row in rows] == ["sdpa", "gather"] and rows[0]["batch"] == 2
    fields = (
        "pattern pass n_tokens batch heads dtype ms ratio_to_dense tokens_per_second peak_mib repeats processor date"
    )
    assert set(fields.split()) <= rows[0].keys()
    assert rows[1]["peak_mib"] is None
    assert "| 64 | 2 | gather | hypercube | masked |" in table.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is measured on Linux only")
def test_memory_is_less_with_masked_positions_only():
    problem = Problem(256, **{**SMALL, "batch": 4, "vocab_size": 4096})
    masked, whole = (bench._peak_mib(problem, "hypercube", output, "gather", 1) for output in bench.OUTPUTS)
    assert whole - masked > 4 * 256 * 4096 * 4 / 2**20  # all scores, at least once


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seq-len", ","], "nothing to measure"),
        (["--seq-len", "long"], "A sequence length must be an integer. Got 'long' instead."),
        (["--seq-len", "0"], "'n_tokens' parameter of bench pretrain must be an integer of at least 1"),
        (["--tokens", "0"], "--tokens must be an integer of at least 1"),
        (["--patterns", "cube"], "no pattern 'cube'"),
        (["--heads", "5"], "must divide its width 384"),
        (["--family", "gpt"], "There is no model 'gpt'. The models are bert"),
        (["--outputs", "some"], "There is no output 'some'. The outputs are masked, all."),
        (["--masked", "0"], "The share of masked tokens must be above 0"),
        (["--repeats", "0"], "'repeats' parameter of bench pretrain"),
    ],
)
def test_bad_input(capsys, options, says):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "pretrain", *options])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err

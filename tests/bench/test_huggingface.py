import json

import pytest
import torch
from transformers import BertConfig, BertModel
from transformers.utils.logging import enable_progress_bar

from nip.bench import huggingface as bench
from nip.bench.huggingface import Encoder
from nip.bench.quiet import Timing
from nip.cli import main

SMALL = {"batch": 2, "layers": 1, "width": 32, "heads": 2, "block_size": 8}


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """Do not change the allocator of the test process."""
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: None)


def measure(monkeypatch, encoders, **options):
    """Rows with fixed times; each call runs once."""

    def once(calls, *_):
        for call in calls.values():
            call()
        return {name: Timing([100.0 if name == "sdpa" else 40.0], 1) for name in calls}

    monkeypatch.setattr(bench, "time_alternately", once)
    return list(bench.bench_encoder(encoders, memory=False, **options))


def test_both_passes_are_measured_with_the_dense_encoder(monkeypatch):
    rows = measure(monkeypatch, [Encoder(64, **SMALL)], patterns=["hypercube", "local"], backend="gather")
    kinds = [("sdpa", "softmax"), ("gather", "hypercube"), ("gather", "local")]
    expected = [(direction, *kind) for direction in ("training", "inference") for kind in kinds]
    assert [(row.direction, row.attention, row.pattern) for row in rows] == expected
    assert rows[1].ratio_to_dense == 0.4 and rows[1].tokens_per_second == 2 * 64 / 0.04
    assert rows[0].to_dict()["pass"] == "training" and rows[1].to_dict()["speedup_over_dense"] == 2.5


def test_dropout_is_for_training_and_leaves_long_dense_inputs_out(monkeypatch):
    monkeypatch.setattr(bench, "DROPOUT_DENSE_UP_TO", 32)
    encoders = [Encoder(n, **SMALL, attention_dropout=p) for p in (0.0, 0.1) for n in (32, 64)]
    rows = measure(monkeypatch, encoders, dense_up_to=64)
    rows_dense = [row for row in rows if row.attention == "sdpa"]
    dense = [(row.direction, row.encoder.n_tokens, row.encoder.attention_dropout) for row in rows_dense]
    assert [kind[1:] for kind in dense if kind[0] == "inference"] == [(32, 0.0), (64, 0.0)]
    assert [kind[1:] for kind in dense if kind[0] == "training"] == [(32, 0.0), (64, 0.0), (32, 0.1)]
    assert rows[-1].ratio_to_dense is None and bench.cells(rows[-1])[7] == "—"


@pytest.mark.parametrize("name", ["sdpa", "hypercube"])
def test_a_training_step_gives_gradients_and_the_optimizer_moves_weights(monkeypatch, name):
    seen = []
    original = bench.BertModel._from_config
    monkeypatch.setattr(bench.BertModel, "_from_config", lambda *a, **k: seen.append(original(*a, **k)) or seen[-1])
    step = bench.prepare(Encoder(64, **SMALL, optimizer=True), name, "training")
    (model,) = seen
    before = [weight.detach().clone() for weight in model.parameters()]
    step()
    assert all(weight.grad is not None for weight in model.parameters())
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert (model.config._attn_implementation == "sdpa") == (name == "sdpa")


@pytest.fixture
def saved(tmp_path):
    """A saved encoder of 16 positions with random weights."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=50, max_position_embeddings=16, **sizes))
    model.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_saved_encoder_is_measured_with_its_own_sizes_and_weights(monkeypatch, saved):
    encoder = Encoder.saved(saved, 64, block_size=8)
    assert (encoder.layers, encoder.width, encoder.heads) == (2, 32, 4)
    weights = BertModel.from_pretrained(saved).state_dict()
    seen = []
    original = bench._model
    monkeypatch.setattr(bench, "_model", lambda *a: seen.append(original(*a)) or seen[-1])
    rows = measure(monkeypatch, [encoder], passes=["inference"], backend="gather")
    assert len(rows) == 2 and len(seen) == 2
    for model in seen:
        for name, weight in model.state_dict().items():
            assert torch.equal(weight[: len(weights[name])], weights[name]), name
        assert model.get_input_embeddings().weight.dtype == torch.float32
        assert len(model.embeddings.position_embeddings.weight) == 64
    assert saved in bench.caption(rows)


def test_a_saved_encoder_by_the_command(saved, capsys):
    command = ["bench", "encoder", "--seq-len", "32", "--block-size", "8", "--dropout", "0", "--pass", "inference"]
    command += ["--backend", "gather", "--repeats", "1", "--json", "--model-name-or-path", saved]
    enable_progress_bar()
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    printed = capsys.readouterr()
    assert not printed.err, "no progress bars if standard error is not a terminal"
    rows = json.loads(printed.out)
    assert [(row["source"], row["layers"], row["width"]) for row in rows] == [(saved, 2, 32)] * 2
    with pytest.raises(SystemExit) as stop:
        main([*command, "--layers", "3"])
    assert stop.value.code == 2 and "--layers is given by --model-name-or-path" in capsys.readouterr().err


def test_the_command_prints_rows_and_writes_a_table(tmp_path, capsys):
    table = tmp_path / "encoder.md"
    with pytest.raises(SystemExit) as ended:
        main(
            "bench encoder --seq-len 64 --layers 1 --width 32 --heads 2 --block-size 8 --dropout 0 --pass inference "
            f"--backend gather --repeats 1 --json --out {table}".split()
        )
    assert not ended.value.code
    rows = json.loads(capsys.readouterr().out)
    assert [row["backend"] for row in rows] == ["sdpa", "gather"]
    fields = "pattern pass n_tokens batch ms ratio_to_dense tokens_per_second peak_mib repeats kept processor date"
    assert set(fields.split()) <= rows[0].keys()
    assert rows[1]["peak_mib"] is None or rows[1]["peak_mib"] >= 0
    assert "| inference | 64 | 1 | 0 | gather | hypercube |" in table.read_text()


def test_rows_that_are_measured_are_kept_when_a_later_one_fails(tmp_path, monkeypatch, capsys):
    def fails_at_128(calls, *_):
        if len(seen) == 1:
            raise ValueError("no memory left")
        seen.append(calls)
        return {name: Timing([100.0], 1) for name in calls}

    seen = []
    monkeypatch.setattr(bench, "time_alternately", fails_at_128)
    table = tmp_path / "encoder.md"
    with pytest.raises(SystemExit) as ended:
        main(
            "bench encoder --seq-len 64,128 --layers 1 --width 32 --heads 2 --block-size 8 --dropout 0 "
            f"--pass inference --backend gather --repeats 1 --no-memory --out {table}".split()
        )
    assert ended.value.code == 2 and "no memory left" in capsys.readouterr().err
    assert "| inference | 64 | 1 | 0 | gather | hypercube |" in table.read_text() and "128" not in table.read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seq-len", ","], "nothing to measure"),
        (["--seq-len", "long"], "A sequence length must be an integer. Got 'long' instead."),
        (["--dropout", "some"], "Dropout must be a number. Got 'some' instead."),
        (["--dropout", "1"], "'attention_dropout' parameter of bench encoder must be in [0, 1)"),
        (["--patterns", "cube"], "no pattern 'cube'"),
        (["--pass", "guessing"], "There is no pass 'guessing'. The passes are training, inference."),
        (["--heads", "5"], "must divide its width 384"),
        (["--dtype", "int8"], "must be float32 or bfloat16"),
        (["--repeats", "0"], "'repeats' parameter of bench encoder"),
    ],
)
def test_bad_input(capsys, options, says):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "encoder", *options])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err

"""The original's ``.model`` files: made here under its names, and computed by hand with dense attention."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import nip
from nip.data import TASKS, open_split
from nip.graphs import to_mask
from nip.lra.batches import indices_to_test
from nip.lra.run import evaluate_original_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "run_tasks.py"
BLOCK, HEADS, TEST = 8, 4, 64  # of 70 examples: complete batches of 8


def state_dict(*, attention="hypercube", classes=10, pair=False, layout=None):
    """Random weights under the original's names, with the sizes of its configuration."""
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape):
        return 0.3 * torch.randn(*shape, generator=generator)

    def linear(name, inputs, outputs):
        return {f"{name}.weight": drawn(outputs, inputs), f"{name}.bias": drawn(outputs)}

    def norm(name):
        return {f"{name}.weight": 1 + drawn(64), f"{name}.bias": drawn(64)}

    there = {
        "model.embeddings.word_embeddings.weight": drawn(512, 64),
        "model.embeddings.position_embeddings.weight": drawn(2048, 64),
    }
    for layer in ("model.transformer_0", "model.transformer_1"):
        there |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
        names = ("W_q", "W_k", "W_v") if attention == "softmax" else ("attn.query", "attn.key", "attn.value")
        for name in names:
            there |= linear(f"{layer}.mha.{name}", 64, 128)
        if layout is not None:
            there[f"{layer}.mha.attn.sparse_self_attention.master_layout"] = layout
        there |= linear(f"{layer}.mha.ff", 128, 64)
        there |= linear(f"{layer}.mlpblock.0", 64, 128) | linear(f"{layer}.mlpblock.3", 128, 64)
    head = "seq_classifer.mlpblock"
    there |= norm("model.norm") | linear(f"{head}.0", 256 if pair else 64, 128) | linear(f"{head}.2", 128, classes)
    return there


def encoded(there, ids, allowed):
    """The vectors (batch, 64) of documents, by the formulas of the original's model."""

    def linear(name, x):
        return functional.linear(x, there[f"{name}.weight"], there[f"{name}.bias"])

    def norm(name, x):
        return functional.layer_norm(x, (64,), there[f"{name}.weight"], there[f"{name}.bias"])

    real = ids != 0
    positions = there["model.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = there["model.embeddings.word_embeddings.weight"][ids] + positions
    for layer in ("model.transformer_0", "model.transformer_1") * 2:
        names = [name for name in ("W_q", "attn.query") if f"{layer}.mha.{name}.weight" in there]
        names = ("W_q", "W_k", "W_v") if names == ["W_q"] else ("attn.query", "attn.key", "attn.value")
        normed = norm(f"{layer}.norm1", x)
        q, k, v = (linear(f"{layer}.mha.{name}", normed).unflatten(-1, (HEADS, 32)).transpose(1, 2) for name in names)
        scores = (q @ k.transpose(-1, -2)) / 32**0.5
        scores = scores.masked_fill(~(allowed & real[:, None, None, :]), -1e9)
        x = x + linear(f"{layer}.mha.ff", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        inner = functional.gelu(linear(f"{layer}.mlpblock.0", norm(f"{layer}.norm2", x)))
        x = x + linear(f"{layer}.mlpblock.3", inner)
    return (norm("model.norm", x) * real[..., None]).mean(1)


def expected(there, ids, labels, allowed):
    """Loss and accuracy of one batch."""
    if ids.ndim == 3:
        one, other = encoded(there, ids[:, 0], allowed), encoded(there, ids[:, 1], allowed)
        x = torch.cat([one, other, one * other, one - other], -1)
    else:
        x = encoded(there, ids, allowed)
    head = "seq_classifer.mlpblock"
    hidden = functional.linear(x, there[f"{head}.0.weight"], there[f"{head}.0.bias"]).relu()
    logits = functional.linear(hidden, there[f"{head}.2.weight"], there[f"{head}.2.bias"])
    return functional.cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).double().mean().item()


def tokens_allowed(pattern):
    mask = torch.from_numpy(to_mask(pattern)).repeat_interleave(BLOCK, 0)
    return mask.repeat_interleave(BLOCK, 1)


def save(path, there):
    torch.save({"model_state_dict": there}, path)
    return path


@pytest.fixture
def original(config):
    return dataclasses.replace(config, protocol="original", eval_steps=3)


@pytest.mark.parametrize("attention", ["hypercube", "softmax", "bigbird"])
def test_the_weights_are_the_originals(attention, original, data, tmp_path, capsys):
    config = dataclasses.replace(original, model=attention)
    layout = None
    if attention == "bigbird":  # drawn there: the file's own layout counts, and that of the first layer
        layout = (torch.rand(HEADS, 256, 256, generator=torch.Generator().manual_seed(1)) < 0.4).long()
        layout |= torch.eye(256, dtype=torch.long)
        pattern = nip.graphs.from_mask(layout[0, :4, :4].numpy())
    else:
        pattern = nip.pattern(attention, 4)
    there = state_dict(attention=attention, layout=layout)
    result = evaluate_original_model(config, save(tmp_path / "a.model", there), data=data)
    test = open_split("listops", "test", data)
    indices = indices_to_test(len(test), 8, config.seed, "original")
    ids, labels = test.batch(indices, 32)
    loss, accuracy = expected(there, torch.from_numpy(ids), torch.from_numpy(labels), tokens_allowed(pattern))
    assert result["n_test"] == TEST
    assert result["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert result["test_accuracy"] == accuracy
    assert result["weights"] == str(tmp_path / "a.model") and result["best_step"] is None
    assert ("blocks that were drawn" in capsys.readouterr().err) == (attention == "bigbird")
    assert [path.name for path in tmp_path.iterdir()] == ["a.model"]


def test_pairs(any_data, small, tmp_path):
    config = small("retrieval", "original", seq_len=32, batch_size=13, gradient_accumulation=1)
    there = state_dict(classes=2, pair=True)
    result = evaluate_original_model(config, save(tmp_path / "a.model", there), data=any_data("retrieval"))
    test = open_split("retrieval", "test", any_data("retrieval"))
    ids, labels = test.batch(range(13), 32)
    loss, accuracy = expected(
        there, torch.from_numpy(ids), torch.from_numpy(labels), tokens_allowed(nip.pattern("hypercube", 4))
    )
    assert result["test_loss"] == pytest.approx(loss, rel=1e-5) and result["test_accuracy"] == accuracy
    assert TASKS["retrieval"].vocab_size < 512


def _without(there, name):
    return {key: value for key, value in there.items() if key != name}


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            lambda: state_dict(classes=2),
            r"output\.weight of shape \(2, 128\), and the model \(10, 128\), and 1 more",
        ),
        (lambda: _without(state_dict(), "model.norm.bias"), r"it lacks norm\.bias"),
        (lambda: {**state_dict(), "model.rare": torch.ones(1)}, r"it has model\.rare, which the model has not"),
        (lambda: {**state_dict(), "model.norm.bias": torch.full((64,), torch.nan)}, r"has NaN or Inf in norm\.bias"),
        (lambda: state_dict(attention="softmax"), "is a model with softmax attention; --attention is hypercube"),
        (lambda: state_dict(layout=torch.ones(4, 128, 128)), "layout in blocks of 16 tokens; --block-size is 8"),
        (lambda: {"a": 1}, "has no model_state_dict"),
    ],
)
def test_another_model_is_refused(made, says, original, data, tmp_path):
    with pytest.raises(ValueError, match=says):
        evaluate_original_model(original, save(tmp_path / "a.model", made()), data=data)


def test_another_protocol_is_refused(config, data, tmp_path):
    with pytest.raises(ValueError, match=r"by the original's protocol\. Give --protocol original"):
        evaluate_original_model(config, save(tmp_path / "a.model", state_dict()), data=data)


def test_damage_and_code_are_refused(original, data, tmp_path):
    file = save(tmp_path / "a.model", state_dict())
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"cos\nsystem\n(S'true'\ntR.", b"{}"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.model is damaged, or a pickle of more than tensors"):
            evaluate_original_model(original, file, data=data)
    with pytest.raises(FileNotFoundError):
        evaluate_original_model(original, tmp_path / "b.model", data=data)


def test_the_command_finds_the_file(data, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "code").mkdir()
    save(tmp_path / "logs" / "listops_hypercube_output.model", state_dict())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NIP_DATA": str(data), "NIP_RUNS": str(tmp_path / "runs")}
    small = "--model hypercube --task listops --skip_train 1 --seq_len 32 --block_size 8 --batch_size 8 --json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *small.split()],
        cwd=tmp_path / "code", env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["weights"] == "../logs/listops_hypercube_output.model" and result["n_test"] == TEST
    assert not (tmp_path / "runs").exists()

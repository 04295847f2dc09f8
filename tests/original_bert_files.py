"""Tiny checkpoints of BERT as the original code writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

VOCABULARY, LENGTH, WIDTH, INNER, HEADS, LAYERS = 40, 24, 16, 32, 2, 2
HEADS_OF: dict[str, dict[str, tuple[int, ...]]] = {
    "BertForSequenceClassification": {"classifier": (3, WIDTH)},
    "BertLMHeadModel": {},
    "BertForQuestionAnswering": {"qa_outputs": (2, WIDTH)},
}


def write_original(
    folder: Path, mode: str, norm: str, kind: str, *, fused: bool = True, **config: Any
) -> dict[str, Any]:
    """Write a checkpoint under the original's names; returns its weights."""
    torch.manual_seed(3)
    act = "dense_act" if fused else "dense_act.dense"
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "bert.embeddings.position_embeddings.weight": (LENGTH, WIDTH),
        "bert.embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    norms = ["bert.embeddings.LayerNorm", "bert.encoder.FinalLayerNorm"]
    dense = {f"bert.pooler.{act}": (WIDTH, WIDTH), **HEADS_OF[kind]}
    for layer in (f"bert.encoder.layer.{i}" for i in range(LAYERS)):
        dense |= {f"{layer}.attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        dense |= {f"{layer}.attention.output.dense": (WIDTH, WIDTH), f"{layer}.intermediate.{act}": (INNER, WIDTH)}
        dense[f"{layer}.output.dense"] = (WIDTH, INNER)
        norms += [f"{layer}.PreAttentionLayerNorm", f"{layer}.PostAttentionLayerNorm"]
    if kind == "BertLMHeadModel":
        dense[f"cls.predictions.transform.{act}"] = (WIDTH, WIDTH)
        norms.append("cls.predictions.transform.LayerNorm")
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        parts = ("scale",) if norm == "rms_norm" else ("weight", "bias")
        shapes |= {f"{name}.{part}": (WIDTH,) for part in parts}
    weights = {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}
    if kind == "BertLMHeadModel":
        weights["cls.predictions.bias"] = torch.randn(VOCABULARY)
        weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    folder.mkdir(parents=True)
    torch.save(weights, folder / "pytorch_model.bin")
    settings = {
        "model_type": "bert", "architectures": [kind], "encoder_ln_mode": mode, "layer_norm_type": norm, "useLN": True,
        "fused_linear_layer": fused, "sparse_mask_prediction": True, "vocab_size": VOCABULARY, "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": LENGTH,
        "type_vocab_size": 2, "pad_token_id": 0, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    if kind == "BertForSequenceClassification":
        settings |= {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    return weights

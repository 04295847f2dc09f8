"""Checkpoints of the original's BERT: converted, they compute what the definition says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, layer_norm
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from nip.cli import main
from nip.models.huggingface.fit import check_weights_fit
from nip.models.huggingface.norms import replace_layer_norms, uses_rms_norm
from nip.models.huggingface.original_bert import convert, converted_config, is_original, load_original
from original_bert_files import HEADS, HEADS_OF, LAYERS, LENGTH, VOCABULARY, WIDTH, write_original

AUTO = {
    "BertForSequenceClassification": AutoModelForSequenceClassification,
    "BertLMHeadModel": AutoModelForMaskedLM,
    "BertForQuestionAnswering": AutoModelForQuestionAnswering,
}


def oracle(weights: dict[str, Any], mode: str, norm: str, kind: str, ids: Any, kinds: Any, mask: Any) -> Any:
    """The scores by the definition of BERT with norms before or after the sublayers, in float64."""
    w = {name.replace("dense_act.dense.", "dense_act."): value.double() for name, value in weights.items()}

    def linear(name: str, x: Any) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normed(name: str, x: Any) -> Any:
        if norm == "rms_norm":
            return w[f"{name}.scale"] * x / x.square().mean(-1, keepdim=True).sqrt()
        return layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def heads(x: Any) -> Any:
        return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)

    tables = [w[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = normed("bert.embeddings.LayerNorm", tables[0][ids] + tables[1][: ids.shape[1]] + tables[2][kinds])
    pre = mode == "pre-ln"
    for layer in (f"bert.encoder.layer.{i}" for i in range(LAYERS)):
        y = normed(f"{layer}.PreAttentionLayerNorm", x) if pre else x
        q, k, v = (heads(linear(f"{layer}.attention.self.{name}", y)) for name in ("query", "key", "value"))
        scores = (q @ k.mT / math.sqrt(WIDTH // HEADS)).masked_fill(~mask.bool()[:, None, None], -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(f"{layer}.attention.output.dense", mixed)
        x = x if pre else normed(f"{layer}.PreAttentionLayerNorm", x)
        y = normed(f"{layer}.PostAttentionLayerNorm", x) if pre else x
        x = x + linear(f"{layer}.output.dense", gelu(linear(f"{layer}.intermediate.dense_act", y)))
        x = x if pre else normed(f"{layer}.PostAttentionLayerNorm", x)
    x = normed("bert.encoder.FinalLayerNorm", x) if pre else x
    if kind == "BertForQuestionAnswering":
        return linear("qa_outputs", x)
    if kind == "BertForSequenceClassification":
        return linear("classifier", linear("bert.pooler.dense_act", x[:, 0]).tanh())
    hidden = normed("cls.predictions.transform.LayerNorm", gelu(linear("cls.predictions.transform.dense_act", x)))
    return hidden @ w["cls.predictions.decoder.weight"].T  # the original adds no bias where it predicts sparsely


def inputs() -> dict[str, Any]:
    torch.manual_seed(5)
    mask = (torch.arange(LENGTH) < torch.tensor([[LENGTH], [9]])).long()
    ids = torch.randint(1, VOCABULARY, (2, LENGTH)) * mask
    return {"input_ids": ids, "token_type_ids": torch.randint(0, 2, (2, LENGTH)), "attention_mask": mask}


def scores(model: Any, kind: str) -> Any:
    with torch.no_grad():
        out = model.eval()(**inputs())
    return torch.stack([out.start_logits, out.end_logits], -1) if kind == "BertForQuestionAnswering" else out.logits


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", list(HEADS_OF))
@pytest.mark.parametrize("norm", ["pytorch", "apex", "rms_norm"])
@pytest.mark.parametrize("mode", ["pre-ln", "post-ln"])
def test_the_scores_are_those_of_the_definition(tmp_path: Path, mode: str, norm: str, kind: str, fused: bool):
    weights = write_original(tmp_path / "original", mode, norm, kind, fused=fused)
    given = inputs()
    expected = oracle(weights, mode, norm, kind, *given.values())
    convert(tmp_path / "original", tmp_path / "converted")
    direct, info = load_original(tmp_path / "original", AUTO[kind], output_loading_info=True)
    assert not check_weights_fit(direct, info, "it", new_head=False)
    real = slice(None) if kind == "BertForSequenceClassification" else given["attention_mask"].bool()
    for model in (direct, AUTO[kind].from_pretrained(tmp_path / "converted")):
        if uses_rms_norm(model.config):
            replace_layer_norms(model)  # as nip does when it loads a model
        torch.testing.assert_close(scores(model, kind)[real], expected.float()[real], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"encoder_ln_mode": "mid-ln"}, "encoder_ln_mode must be pre-ln or post-ln"),
        ({"layer_norm_type": "batch"}, "layer_norm_type must be pytorch, apex or rms_norm"),
        ({"useLN": False}, "without norms"),
        ({"hidden_act": "mish"}, "hidden_act must be one of gelu, relu, swish, tanh"),
        ({"num_hidden_layers": 3}, "do not fit RobertaPreLayerNormForSequenceClassification: it lacks"),
        ({"num_hidden_layers": 1}, "for which there is no place"),
    ],
)
def test_what_has_no_counterpart_is_refused_and_nothing_written(tmp_path: Path, config: dict[str, Any], says: str):
    write_original(tmp_path / "original", "pre-ln", "pytorch", "BertForSequenceClassification", **config)
    with pytest.raises(ValueError, match=says):
        convert(tmp_path / "original", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_folders_that_are_no_original(tmp_path: Path):
    (tmp_path / "a").mkdir()
    assert not is_original(tmp_path / "a") and not is_original("bert-base-uncased")
    with pytest.raises(ValueError, match="is no BERT of the original"):
        convert(tmp_path / "a", tmp_path / "b")
    write_original(tmp_path / "c", "pre-ln", "pytorch", "BertForSequenceClassification")
    (tmp_path / "a" / "mine").touch()
    with pytest.raises(ValueError, match="is not empty"):
        convert(tmp_path / "c", tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_a_pickle_with_code_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_original(tmp_path / "original", "pre-ln", "pytorch", "BertForSequenceClassification")
    torch.save({"a": Evil()}, tmp_path / "original" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle of more than tensors, which is not loaded"):
        convert(tmp_path / "original", tmp_path / "out")
    assert "executed" not in capsys.readouterr().out


def test_nip_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_original(tmp_path / "original", "post-ln", "pytorch", "BertForSequenceClassification")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    (tmp_path / "original" / "vocab.txt").write_text("\n".join(words))
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(tmp_path / "original"), "--out", str(tmp_path / "new"), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["model"] == "BertForSequenceClassification"
    assert converted_config(tmp_path / "original").id2label == {0: "a", 1: "b", 2: "c"}
    assert AutoTokenizer.from_pretrained(tmp_path / "new")("a").input_ids

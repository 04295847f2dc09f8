import pytest
import torch
from transformers import BertConfig, BertModel

import nip
from nip.models.huggingface.norms import replace_layer_norms, use_rms_norm

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 9}


def test_a_replaced_norm_divides_by_the_root_of_the_mean_square():
    model = torch.nn.Sequential(torch.nn.LayerNorm(8, eps=0.1), torch.nn.Linear(8, 8)).eval()
    model[0].weight.data.uniform_(0.5, 2.0)
    weight = model[0].weight
    x = torch.randn(3, 8) + 5
    assert replace_layer_norms(model) == 1 and not model[0].training
    expected = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 0.1) * weight
    torch.testing.assert_close(model[0](x), expected)
    assert model[0].weight is weight and replace_layer_norms(model) == 0


def test_it_is_recorded_with_the_graphs_and_stays_with_another_graph():
    model = use_rms_norm(nip.sparsify(BertModel(BertConfig(**SMALL)), "hypercube", block_size=2))
    assert model.config.nip["norm"] == "rms"
    nip.sparsify(model, "local", block_size=2)
    assert model.config.nip["norm"] == "rms" and model.config.nip["default"]["pattern"] == "local"
    nip.sparsify(BertModel(model.config), "local", block_size=2)
    again = BertModel(model.config)
    assert any(isinstance(module, torch.nn.LayerNorm) for module in again.modules())
    nip.sparsify(again, "local", block_size=2)
    assert not any(isinstance(module, torch.nn.LayerNorm) for module in again.modules())


def test_bad_models():
    with pytest.raises(ValueError, match=r"Call nip\.sparsify before use_rms_norm"):
        use_rms_norm(BertModel(BertConfig(**SMALL)))
    model = use_rms_norm(nip.sparsify(BertModel(BertConfig(**SMALL)), block_size=2))
    with pytest.raises(ValueError, match="BertModel has no LayerNorm to replace"):
        use_rms_norm(model)

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForMaskedLM

from nip.models.huggingface.masks import packed
from nip.models.huggingface.sparsify import attention_layers
from nip.pretraining.model import MaskedLMObjective, ModelSettings, build_model, total_loss
from nip.pretraining.settings import ARCHITECTURES

SMALL = ModelSettings(2, 16, 2, 32, max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0)


def weights(model):
    return dict(model.named_parameters())


@pytest.mark.parametrize(("size", "parameters"), [("base", 109_514_298), ("large", 335_174_458)])
def test_sizes_have_the_number_of_weights_of_the_published_models(vocabulary, size, parameters):
    with torch.device("meta"):
        model = build_model(ModelSettings.of_size(size, vocab_size=30522), vocabulary, "softmax")
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_weights_are_a_function_of_the_seed(vocabulary, architecture):
    settings = replace(SMALL, architecture=architecture)
    before = torch.get_rng_state()
    one, same, other = (weights(build_model(settings, vocabulary, block_size=4, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("architecture", ["bert", "roberta-prelayernorm"])
def test_residual_layers_have_scaled_initial_weights(vocabulary, architecture):
    plain = weights(build_model(replace(SMALL, architecture=architecture, scaled_init=False), vocabulary))
    scaled = weights(build_model(replace(SMALL, architecture=architecture), vocabulary))
    ends = {f"{architecture.replace('-', '_')}.encoder.layer.{i}.{part}.dense.weight"
            for i in range(2) for part in ("attention.output", "output")}  # fmt: skip
    assert ends <= plain.keys()
    for name in plain:
        factor = 1 / math.sqrt(4) if name in ends else 1.0
        assert torch.allclose(scaled[name], plain[name] * factor, rtol=1e-6, atol=0), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_output_layer_is_tied_or_not(vocabulary, architecture):
    tied = build_model(replace(SMALL, architecture=architecture), vocabulary)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    untied = build_model(replace(SMALL, architecture=architecture, tie_word_embeddings=False), vocabulary)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dense_attention_equals_transformers(vocabulary, architecture):
    model = build_model(replace(SMALL, architecture=architecture), vocabulary, "softmax", block_size=4).eval()
    config = type(model.config).from_dict(model.config.to_dict())
    own = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    own.load_state_dict(model.state_dict())
    ids = torch.randint(5, 61, (2, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(ids).logits, own(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_attends_over_its_pattern_at_full_length(vocabulary, architecture):
    model = build_model(
        replace(SMALL, architecture=architecture),
        vocabulary,
        "bigbird",
        layers=["local", "bigbird"],
        block_size=4,
        seed=3,
    )
    model(torch.full((1, 32), 7))
    sites = attention_layers(model)
    assert [site.graph.name for site in sites] == ["local", "bigbird"]
    assert [site.calls for site in sites] == [1, 1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rms_norm_replaces_every_layer_norm(vocabulary, architecture):
    model = build_model(replace(SMALL, architecture=architecture, norm="rms"), vocabulary)
    kinds = [type(module) for module in model.modules() if type(module) in (torch.nn.LayerNorm, torch.nn.RMSNorm)]
    plain = build_model(replace(SMALL, architecture=architecture), vocabulary)
    assert kinds == [torch.nn.RMSNorm] * sum(isinstance(module, torch.nn.LayerNorm) for module in plain.modules())
    assert len(kinds) >= 5


def test_rows_of_the_embedding_table(vocabulary):
    assert SMALL.rows(vocabulary) == 64  # of 61
    assert replace(SMALL, vocab_size=61).rows(vocabulary) == 61
    with pytest.raises(ValueError, match=r"at least that of the tokenizer, 61\. Got 60 instead"):
        build_model(replace(SMALL, vocab_size=60), vocabulary)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_hidden_layers": 0}, "'num_hidden_layers' parameter of the model must be an integer of at least 1"),
        ({"num_attention_heads": 3}, "must divide its width 16. Got 3"),
        ({"architecture": "gpt"}, "one of bert, roberta-prelayernorm, modernbert. Got 'gpt'"),
        ({"norm": "batch"}, "one of layer, rms. Got 'batch'"),
        ({"hidden_act": "abrupt"}, "'hidden_act' parameter of the model must be one of"),
        ({"hidden_dropout_prob": 1.0}, r"'hidden_dropout_prob' parameter of the model must be in \[0, 1\)"),
        ({"initializer_range": 0.0}, "'initializer_range' parameter of the model must be above 0"),
        ({"layer_norm_eps": float("nan")}, "'layer_norm_eps' parameter of the model must be above 0"),
        ({"next_sentence": True, "type_vocab_size": 1}, "type_vocab_size of at least 2"),
        ({"next_sentence": True, "architecture": "modernbert"}, "ModernBERT has no token types"),
        ({"scaled_init": False, "architecture": "modernbert"}, "ModernBERT always scales"),
    ],
)
def test_impossible_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **wrong)


@pytest.fixture
def batch():
    """Masked ids, labels as transformers takes them, and the masked positions."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 61, (3, 32), generator=draw)
    labels = torch.where(torch.rand(3, 32, generator=draw) < 0.2, ids, -100)
    positions = (labels.flatten() != -100).nonzero().flatten()
    return torch.where(labels == -100, ids, 4), labels, positions


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_equal_those_of_transformers(vocabulary, batch, architecture):
    ids, labels, positions = batch
    model = build_model(replace(SMALL, architecture=architecture), vocabulary, block_size=4)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(len(output)))
    sums = MaskedLMObjective(model)(ids, positions, labels.flatten()[positions])
    loss = total_loss(sums, len(positions), len(ids))
    full = model(ids, labels=labels)
    torch.testing.assert_close(loss, full.loss, rtol=1e-5, atol=0)
    guessed = full.logits.argmax(-1)
    assert int(sums.correct.sum()) == int((guessed == labels).sum()) and seen[0] == len(positions) < ids.numel()
    assert_same(gradients(model, loss), gradients(model, full.loss))


def test_correct_predictions_are_counted(vocabulary, batch):
    ids, _, positions = batch
    model = build_model(SMALL, vocabulary, block_size=4)
    best = model(ids).logits.argmax(-1).flatten()[positions]
    labels = best.clone()
    labels[0] = (labels[0] + 1) % 60
    assert int(MaskedLMObjective(model)(ids, positions, labels).correct.sum()) == len(positions) - 1


def test_next_sentence_prediction_equals_that_of_transformers(vocabulary, batch):
    ids, labels, positions = batch
    kinds, answers = (torch.arange(32) > 15).long().expand(3, -1), torch.tensor([0, 1, 1])
    model = build_model(replace(SMALL, next_sentence=True), vocabulary, block_size=4)
    objective = MaskedLMObjective(model, next_sentence=True)
    assert objective.sentences is None  # the model's own head, which is saved with it
    sums = objective(ids, positions, labels.flatten()[positions], None, kinds, answers)
    full = model(ids, token_type_ids=kinds, labels=labels, next_sentence_label=answers)
    loss = total_loss(sums, len(positions), len(ids))
    torch.testing.assert_close(loss, full.loss, rtol=1e-5, atol=0)
    assert int(sums.sentence_correct) == int((full.seq_relationship_logits.argmax(-1) == answers).sum())
    assert_same(gradients(model, loss), gradients(model, full.loss))


def test_an_architecture_without_a_next_sentence_head_gets_one(vocabulary, batch):
    ids, labels, positions = batch
    settings = replace(SMALL, architecture="roberta-prelayernorm", next_sentence=True)
    made = [
        MaskedLMObjective(build_model(settings, vocabulary, block_size=4), next_sentence=True, seed=seed)
        for seed in (1, 1, 2)
    ]
    one, same, other = (objective.sentences.dense.weight for objective in made)
    assert torch.equal(one, same) and not torch.equal(one, other)
    answers = torch.tensor([0, 1, 1])
    sums = made[0](ids, positions, labels.flatten()[positions], next_sentence=answers)
    hidden = made[0].model.base_model(ids).last_hidden_state[:, 0]
    scores = made[0].sentences.answer(torch.tanh(made[0].sentences.dense(hidden)))
    expected = torch.logsumexp(scores, 1) - scores[torch.arange(3), answers]
    torch.testing.assert_close(sums.sentence_loss, expected.sum())
    sums.sentence_loss.backward()
    assert one.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_micro_batches_add_up_to_the_batch(vocabulary, batch, architecture):
    ids, labels, positions = batch
    model = build_model(replace(SMALL, architecture=architecture), vocabulary, block_size=4)
    objective = MaskedLMObjective(model)
    full = gradients(model, total_loss(objective(ids, positions, labels.flatten()[positions]), len(positions), 3))
    model.zero_grad()
    for rows in (slice(0, 1), slice(1, 3)):
        own = labels[rows].flatten()
        where = (own != -100).nonzero().flatten()
        total_loss(objective(ids[rows], where, own[where]), len(positions), 3).backward()
    assert_same({name: weight.grad for name, weight in model.named_parameters() if name in full}, full)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_does_not_cross_documents(vocabulary, batch, architecture):
    ids, labels, positions = batch
    model = build_model(replace(SMALL, architecture=architecture), vocabulary, block_size=4)
    segments = torch.where(torch.arange(32) < 13, 1, 2).expand(3, -1)
    first = positions[positions % 32 < 13]
    asked = first, labels.flatten()[first]
    changed = torch.where(segments == 2, 9, ids)
    one, other = (MaskedLMObjective(model)(x, *asked, segments).loss for x in (ids, changed))
    assert torch.equal(one, other)
    without = MaskedLMObjective(model)(changed, *asked).loss
    assert not torch.equal(one, without)
    full = model(ids, attention_mask=packed(segments), labels=torch.where(segments == 1, labels, -100))
    torch.testing.assert_close(one / len(first), full.loss)


def test_a_micro_batch_without_targets_has_no_loss(vocabulary, batch):
    model = build_model(SMALL, vocabulary, block_size=4)
    nothing = torch.zeros(0, dtype=torch.int64)
    sums = MaskedLMObjective(model)(batch[0], nothing, nothing)
    assert total_loss(sums, 5, 3).item() == 0.0 and int(sums.correct.sum()) == 0


def test_models_without_next_sentence_prediction_are_refused(vocabulary):
    with pytest.raises(ValueError, match="has no head for next sentences"):
        MaskedLMObjective(build_model(SMALL, vocabulary), next_sentence=True)
    with pytest.raises(ValueError, match="does not distinguish the two sentences"):
        MaskedLMObjective(build_model(replace(SMALL, architecture="modernbert"), vocabulary), next_sentence=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_another_default_device_changes_nothing(vocabulary, architecture):
    model = build_model(replace(SMALL, architecture=architecture), vocabulary, block_size=4)
    module = MaskedLMObjective(model, next_sentence=False)
    ids = torch.randint(5, vocabulary.size, (2, 32), generator=torch.Generator().manual_seed(0))
    rest = torch.tensor([3, 40]), torch.tensor([7, 8]), (torch.arange(32) // 20 + 1).expand(2, -1)

    def run():
        loss = module(ids, *rest).loss
        return loss, *torch.autograd.grad(loss, model.get_input_embeddings().weight)

    expected = run()
    with torch.device("meta"):  # whose tensors have no values
        found = run()
    assert all(x.device.type == "cpu" and torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("mode", ["train", "frozen", "no_grad", "inference_mode"])
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_compiled_in_every_grad_mode(vocabulary, mode):
    module = MaskedLMObjective(build_model(SMALL, vocabulary, block_size=4)).requires_grad_(mode != "frozen")
    ids = torch.randint(5, vocabulary.size, (2, 32), generator=torch.Generator().manual_seed(0))
    rest = torch.tensor([3, 40]), torch.tensor([7, 8]), (torch.arange(32) // 20 + 1).expand(2, -1)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager")
    with {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(mode, torch.enable_grad)():
        found, expected = compiled(ids, *rest), module(ids, *rest)
    torch.testing.assert_close(found, expected)
    if mode == "train":
        table = module.model.get_input_embeddings().weight
        for x, y in zip(*(torch.autograd.grad(sums.loss, table) for sums in (found, expected)), strict=True):
            torch.testing.assert_close(x, y)

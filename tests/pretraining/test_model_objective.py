from dataclasses import replace

import pytest
import torch

from nip.models.huggingface.masks import packed
from nip.pretraining.model import FAMILIES, MaskedObjective, ModelSettings, build_model, total_loss

SMALL = ModelSettings(2, 16, 2, 32, max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0)


@pytest.fixture
def batch():
    """Ids, labels as transformers takes them, and where they are."""
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


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers_own_head(vocabulary, batch, family):
    ids, labels, positions = batch
    model = build_model(replace(SMALL, family=family), vocabulary, block_size=4)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(len(output)))
    sums = MaskedObjective(model)(ids, positions, labels.flatten()[positions])
    loss = total_loss(sums, len(positions), len(ids))
    whole = model(ids, labels=labels)
    torch.testing.assert_close(loss, whole.loss, rtol=1e-5, atol=0)
    guessed = whole.logits.argmax(-1)
    assert int(sums.right.sum()) == int((guessed == labels).sum()) and seen[0] == len(positions) < ids.numel()
    assert_same(gradients(model, loss), gradients(model, whole.loss))


def test_the_right_answers_are_counted(vocabulary, batch):
    ids, _, positions = batch
    model = build_model(SMALL, vocabulary, block_size=4)
    best = model(ids).logits.argmax(-1).flatten()[positions]
    labels = best.clone()
    labels[0] = (labels[0] + 1) % 60
    assert int(MaskedObjective(model)(ids, positions, labels).right.sum()) == len(positions) - 1


def test_next_sentences_as_transformers_asks_them(vocabulary, batch):
    ids, labels, positions = batch
    kinds, answers = (torch.arange(32) > 15).long().expand(3, -1), torch.tensor([0, 1, 1])
    model = build_model(replace(SMALL, next_sentence=True), vocabulary, block_size=4)
    objective = MaskedObjective(model, next_sentence=True)
    assert objective.sentences is None  # the model's own head, saved with it
    sums = objective(ids, positions, labels.flatten()[positions], None, kinds, answers)
    whole = model(ids, token_type_ids=kinds, labels=labels, next_sentence_label=answers)
    loss = total_loss(sums, len(positions), len(ids))
    torch.testing.assert_close(loss, whole.loss, rtol=1e-5, atol=0)
    assert int(sums.sentence_right) == int((whole.seq_relationship_logits.argmax(-1) == answers).sum())
    assert_same(gradients(model, loss), gradients(model, whole.loss))


def test_a_family_without_a_head_for_sentences_gets_one(vocabulary, batch):
    ids, labels, positions = batch
    settings = replace(SMALL, family="roberta-prelayernorm", next_sentence=True)
    made = [
        MaskedObjective(build_model(settings, vocabulary, block_size=4), next_sentence=True, seed=seed)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_a_batch_add_up_to_it(vocabulary, batch, family):
    ids, labels, positions = batch
    model = build_model(replace(SMALL, family=family), vocabulary, block_size=4)
    objective = MaskedObjective(model)
    whole = gradients(model, total_loss(objective(ids, positions, labels.flatten()[positions]), len(positions), 3))
    model.zero_grad()
    for rows in (slice(0, 1), slice(1, 3)):
        own = labels[rows].flatten()
        where = (own != -100).nonzero().flatten()
        total_loss(objective(ids[rows], where, own[where]), len(positions), 3).backward()
    assert_same({name: weight.grad for name, weight in model.named_parameters() if name in whole}, whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_stays_inside_a_document(vocabulary, batch, family):
    ids, labels, positions = batch
    model = build_model(replace(SMALL, family=family), vocabulary, block_size=4)
    segments = torch.where(torch.arange(32) < 13, 1, 2).expand(3, -1)
    first = positions[positions % 32 < 13]
    asked = first, labels.flatten()[first]
    changed = torch.where(segments == 2, 9, ids)
    one, other = (MaskedObjective(model)(x, *asked, segments).loss for x in (ids, changed))
    assert torch.equal(one, other)
    without = MaskedObjective(model)(changed, *asked).loss
    assert not torch.equal(one, without)
    whole = model(ids, attention_mask=packed(segments), labels=torch.where(segments == 1, labels, -100))
    torch.testing.assert_close(one / len(first), whole.loss)


def test_a_part_that_asks_for_nothing_has_no_loss(vocabulary, batch):
    model = build_model(SMALL, vocabulary, block_size=4)
    nothing = torch.zeros(0, dtype=torch.int64)
    sums = MaskedObjective(model)(batch[0], nothing, nothing)
    assert total_loss(sums, 5, 3).item() == 0.0 and int(sums.right.sum()) == 0


def test_bad_objectives(vocabulary):
    with pytest.raises(ValueError, match="was built without a head for next sentences"):
        MaskedObjective(build_model(SMALL, vocabulary), next_sentence=True)
    with pytest.raises(ValueError, match="does not tell the two sentences"):
        MaskedObjective(build_model(replace(SMALL, family="modernbert"), vocabulary), next_sentence=True)

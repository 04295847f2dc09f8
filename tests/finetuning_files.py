"""Small models, tokenizers, and files in GLUE's official forms, for tests of finetuning."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

WORDS = [
    *("the", "a", "cat", "dog", "bird", "sat", "ran", "sang", "on", "under", "mat", "tree", "house", "red", "blue"),
    *("big", "small", "and", "then", "saw", "it"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tokenizer(folder: Path, words: list[str] = WORDS) -> Path:
    """A tokenizer of whole words, as BERT's folders have it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *words])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names).save_pretrained(folder)
    return folder


def write_model(folder: Path, *, words: list[str] = WORDS, **settings: Any) -> Path:
    """A BERT of two layers with random weights, and its tokenizer; dropout as in the real one.

    It has heads for masked tokens and for answers, but none for classes.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertForMaskedLM, BertForQuestionAnswering, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    known = {"vocab_size": len(SPECIAL) + len(words), "max_position_embeddings": 64, **sizes}
    torch.manual_seed(0)
    config = BertConfig(**{**known, **settings})
    BertModel(config).save_pretrained(folder)
    weights = {f"bert.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    for kind in (BertForMaskedLM, BertForQuestionAnswering):
        head = {name: weight for name, weight in kind(config).state_dict().items() if not name.startswith("bert.")}
        weights |= {name: weight.clone() for name, weight in head.items() if "decoder" not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return write_tokenizer(folder, words)


def sentence(drawn: random.Random, n: int = 5) -> str:
    """Some words."""
    return " ".join(drawn.choice(WORDS) for _ in range(n))


def write_mrpc(folder: Path, *, train: int = 24, dev: int = 12, test: int = 5) -> Path:
    """Microsoft's paraphrases as GLUE's archive has them: alike is a pair, or not; the first of all has a byte mark."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = random.Random(7)
    for name, n in (("train", train), ("dev", dev)):
        lines = ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for i in range(n):
            one, alike = sentence(drawn), drawn.random() < 0.6
            lines.append(f"{int(alike)}\t{i}\t{i + 1}\t{one}\t{one if alike else sentence(drawn)}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["index\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    lines += [f"{i}\t{i}\t{i}\t{sentence(drawn)}\t{sentence(drawn)}" for i in range(test)]
    (folder / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_text(path: Path, lines: int = 40) -> Path:
    """Running text, a line after the other."""
    drawn = random.Random(3)
    path.write_text("\n".join(sentence(drawn, 9) for _ in range(lines)) + "\n", encoding="utf-8")
    return path

"""Labelled real texts from packages for the finetuning commands, in the formats that these read.

Three data sets: long documents to classify (the Brown corpus), questions on passages (a dictionary), and texts with a
summary (descriptions of Debian's packages).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nip.data.offline import corpora, texts
from nip.data.offline.corpora import GENRES

PACKAGES = Path("/var/lib/dpkg/status")
KINDS = {  # the kinds of prose of the corpus's manual (Francis and Kučera, 1979), the two largest split
    "press": ("news", "editorial", "reviews"),
    "general": ("religion", "hobbies", "lore", "belles lettres", "government"),
    "learned": ("learned",),
    "fiction": ("fiction", "mystery", "science fiction", "adventure", "romance", "humor"),
}
ENTRIES = 24  # of the dictionary per passage
QUESTIONS = 3  # per passage
HELD_OUT = 10  # one in ten examples is for validation
ALIKE = 40  # equal first characters put two descriptions into one group
_ENTRY = re.compile(
    r"(?P<word>[A-Z][a-z]+) \\[^\\]+\\(?: \([^)]*\))*,? (?P<part>n|a|adv|v\. t|v\. i)\.,?"
    r"(?: [\[(][^\])]*[\])])*(?: 1\.)?(?: [\[(][^\])]*[\])])* "
    r"(?P<meaning>[A-Z][^\[{}\"]+?\.)(?= (?:--|[\[\"]|\d\.|Syn:)|$)"
)
_WORDS = {"n": "noun", "a": "adjective", "adv": "adverb", "v. t": "verb", "v. i": "verb"}

T = TypeVar("T")
Split = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class LabelledSet:
    """A labelled data set.

    Parameters
    ----------
    origin : Origin
        Its source.
    splits : callable
        From the source's path and a seed to the training and the validation examples.
    suffix : str
        Of its files.
    """

    origin: texts.Origin
    splits: Callable[[Path, int], tuple[Split, Split]]
    suffix: str = "jsonl"


@dataclass(frozen=True)
class Made:
    """A written data set.

    Parameters
    ----------
    name : str
    origin : Path
        The input.
    train, validation : Path
        The output.
    n_train, n_validation : int
        Number of examples, or of questions.
    """

    name: str
    origin: Path
    train: Path
    validation: Path
    n_train: int
    n_validation: int


def genres(folder: Path, seed: int) -> tuple[Split, Split]:
    """The texts of the Brown corpus, of about 2,000 words each, labelled with one of `KINDS`.

    A random fifth of each genre is for validation.
    """
    kind_of = {genre: kind for kind, members in KINDS.items() for genre in members}
    lot = random.Random(seed)
    train, validation = [], []
    all_texts = corpora.read_brown(folder)
    for label, genre in enumerate(GENRES):
        members = [
            {"sentence": text.content.decode("latin-1"), "label": kind_of[genre], "id": text.name}
            for text in all_texts
            if text.label == label
        ]
        lot.shuffle(members)
        n = max(1, len(members) // 5)
        validation += members[:n]
        train += members[n:]
    return train, validation


def meanings(origin: Path) -> Iterator[tuple[str, str, str]]:
    """Words of the dictionary, their part of speech and first meaning, in the order of the text."""
    for entry in texts.dictionary_documents(origin):
        found = _ENTRY.match(entry)
        if found and 20 <= len(found["meaning"]) <= 200:
            yield found["word"], _WORDS[found["part"]], found["meaning"]


def questions(origin: Path, seed: int) -> tuple[Split, Split]:
    """Passages of `ENTRIES` entries of a dictionary, with questions on the meaning of `QUESTIONS` words, as in SQuAD.

    Words with two entries in a passage are not asked for. One in `HELD_OUT` passages is for validation.
    """
    lot = random.Random(seed)
    known = list(meanings(origin))
    articles: list[dict[str, Any]] = []
    for start in range(0, len(known) - ENTRIES + 1, ENTRIES):
        entries = known[start : start + ENTRIES]
        context, begins = "", []
        for word, part, meaning in entries:
            context += f"{' ' if context else ''}{word}, {part}: "
            begins.append(len(context))
            context += meaning
        words = [word for word, _, _ in entries]
        asked = [i for i, word in enumerate(words) if words.count(word) == 1]
        qas = [
            {
                "id": f"{start + i}",
                "question": f"What does {words[i].lower()} mean?",
                "answers": [{"text": entries[i][2], "answer_start": begins[i]}],
            }
            for i in sorted(lot.sample(asked, min(QUESTIONS, len(asked))))
        ]
        title = f"{words[0]} to {words[-1]}"
        articles.append({"title": title, "paragraphs": [{"context": context, "qas": qas}]})
    return _dealt(articles, lot)


def synopses(origin: Path, seed: int) -> tuple[Split, Split]:
    """Descriptions of Debian's packages, with the one-line synopsis as summary.

    Packages of one source repeat each other's texts: descriptions that begin alike are in the same split.

    Parameters
    ----------
    origin : Path
        Records of packages as in ``/var/lib/dpkg/status``.
    seed : int

    Raises
    ------
    ValueError
        If there is no description.
    """
    described: dict[str, dict[str, Any]] = {}
    for record in origin.read_text("utf-8", "replace").split("\n\n"):
        found = re.search(r"^Description(?:-en)?: (.+)\n((?: .*(?:\n|$))+)", record, re.MULTILINE)
        name = re.search(r"^Package: (\S+)", record, re.MULTILINE)
        if not found or not name:
            continue
        long = " ".join(line.strip() for line in found[2].splitlines() if line.strip() != ".")
        described.setdefault(long, {"text": long, "summary": found[1].strip(), "package": name[1]})
    if not described:
        raise ValueError(f"{origin} describes no package: there is no 'Description:' with lines below it.")
    alike: dict[str, list[dict[str, Any]]] = {}
    for each in described.values():
        alike.setdefault(each["text"][:ALIKE], []).append(each)
    train, held_out = _dealt(list(alike.values()), random.Random(seed))
    return [each for group in train for each in group], [each for group in held_out for each in group]


def _dealt(examples: list[T], lot: random.Random) -> tuple[list[T], list[T]]:
    lot.shuffle(examples)
    n = max(1, len(examples) // HELD_OUT)
    return examples[n:], examples[:n]


SETS: dict[str, LabelledSet] = {
    "genres": LabelledSet(texts.ORIGINS["brown"], genres),
    "questions": LabelledSet(texts.ORIGINS["gcide"], questions, suffix="json"),
    "synopses": LabelledSet(
        texts.Origin("Debian's list of packages", "it is Debian's own", lambda: [PACKAGES]), synopses
    ),
}


def write_set(name: str, origin: Path, out: Path, seed: int = 0) -> Made:
    """Write the ``train`` and ``validation`` files of a data set into a folder of its name, each atomically.

    Parameters
    ----------
    name : str
        A key of `SETS`. `questions` are JSON as in SQuAD, the others JSON lines.
    origin : Path
        Its source.
    out : Path
        Parent of the data set's folder.
    seed : int, default=0

    Returns
    -------
    Made

    Raises
    ------
    ValueError
        If the source is malformed or too small.
    """
    chosen = SETS[name]
    folder = out / name
    splits = dict(zip(("train", "validation"), chosen.splits(origin, seed), strict=True))
    if any(not examples for examples in splits.values()):
        raise ValueError(f"{origin} is too small for {name}: both splits need an example.")
    folder.mkdir(parents=True, exist_ok=True)
    files, counts = {}, {}
    for split, examples in splits.items():
        files[split] = folder / f"{split}.{chosen.suffix}"
        if chosen.suffix == "json":
            content = json.dumps({"version": "1.1", "data": list(examples)}, ensure_ascii=False)
            counts[split] = sum(len(each["paragraphs"][0]["qas"]) for each in examples)
        else:
            content = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in examples)
            counts[split] = len(examples)
        texts.write_anew(files[split], content.encode())
    return Made(name, origin, files["train"], files["validation"], counts["train"], counts["validation"])

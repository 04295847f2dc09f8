"""The commands on three documentation pages are valid."""

import shlex
from pathlib import Path

import pytest
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from nip.finetuning.arguments import parse
from nip.finetuning.qa.task import QaArguments
from nip.finetuning.search.arguments import read_search
from nip.finetuning.search.space import FULL, SMALL, read_space
from nip.finetuning.summarization.task import SummarizationArguments

DOCS = Path(__file__).parents[2] / "docs"


def commands(page):
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("nip ")]


def flags_of_table(page):
    rows = [line for line in (DOCS / page).read_text(encoding="utf-8").splitlines() if line.startswith("| `--")]
    return [word.strip("`|, ").split()[0] for line in rows for word in line.split("|")[1].split("`") if "--" in word]


@pytest.mark.parametrize("words", commands("question-answering.md"), ids=" ".join)
def test_qa_commands(words, capsys):
    assert words[0] == "qa"
    parse(words[1:], QaArguments, program="nip qa")


@pytest.mark.parametrize("words", commands("summarization.md"), ids=" ".join)
def test_summarization_commands(words, capsys):
    assert words[0] == "summarization"
    parse(words[1:], SummarizationArguments, program="nip summarization", training_class=Seq2SeqTrainingArguments)


@pytest.mark.parametrize("words", commands("hpo.md"), ids=" ".join)
def test_search_commands(words, capsys):
    assert words[0] == "hpo"
    read_search(words[1:])


@pytest.mark.parametrize(
    ("page", "task", "training"),
    [
        ("question-answering.md", QaArguments, TrainingArguments),
        ("summarization.md", SummarizationArguments, Seq2SeqTrainingArguments),
    ],
)
def test_flags_of_tables_exist(page, task, training, capsys):
    with pytest.raises(SystemExit):
        parse(["--help"], task, program="nip", training_class=training)
    said = capsys.readouterr().out
    assert len(flags_of_table(page)) > 5
    assert [flag for flag in flags_of_table(page) if f"{flag} " not in said and f"{flag}," not in said] == []


def test_the_documented_spaces(tmp_path):
    page = (DOCS / "hpo.md").read_text(encoding="utf-8")
    for row, name in (
        ("learning rate", "learning_rate"),
        ("batch", "per_device_train_batch_size"),
        ("epochs", "num_train_epochs"),
    ):
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {row} |"))
        full, small = (tuple(map(float, cell.split(","))) for cell in line.split("|")[2:4])
        assert (full, small) == (FULL[name], SMALL[name])
    path = tmp_path / "space.json"
    path.write_text(page.split("```json\n")[1].split("```")[0])
    assert set(read_space(str(path))) == {"attention", "block_size", "learning_rate"}

"""The commands on the documentation page about finetuning are valid."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from nip.finetuning.arguments import Parser
from nip.finetuning.deprecated_flags import OLD, translate
from nip.finetuning.glue.task import GlueArguments
from nip.finetuning.masked_lm.task import MaskedLmArguments

PAGE = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text("utf-8")
BLOCKS = "\n".join(re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
COMMANDS = [shlex.split(line) for line in BLOCKS.splitlines() if line.startswith(("nip glue", "nip mlm"))]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:4]))
def test_documented_commands_are_valid(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from nip.finetuning.arguments import parse

    task = {"glue": GlueArguments, "mlm": MaskedLmArguments}[words[1]]
    command = parse([*words[2:], "--output_dir", str(tmp_path)], task, program=" ".join(words[:2]))
    assert command.training.do_train
    assert command.attention.attention == "hypercube"


def test_the_table_lists_translated_flags():
    from nip.finetuning.arguments import AttentionArguments, ModelArguments, RunArguments

    training = importlib.import_module("transformers").TrainingArguments
    parser = Parser((GlueArguments, AttentionArguments, ModelArguments, RunArguments, training), "nip glue", None)
    known = parser.names
    table = PAGE[PAGE.index("| then | now |") :]
    named = re.findall(r"`--([a-z0-9_]+)", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert len(named) > 15
    for name in named:
        assert name in OLD or name in known
    for name, old in OLD.items():
        words, _ = translate([f"--{name}", "true" if old.switch else "0"], known)
        assert all(word[2:] in known for word in words if word.startswith("--")), name

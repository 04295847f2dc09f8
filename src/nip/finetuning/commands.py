"""The finetuning commands, for all who list them: the command line, the search, `nip checkpoints` and output folders.

A new command is a module with ``read_command(argv, program)`` and ``main(argv, program)``, and an entry in `COMMANDS`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FinetuningCommand:
    """A finetuning command.

    Parameters
    ----------
    name : str
        On the command line, and the ``kind`` of its runs in ``run.json``.
    module : str
        Imported on use.
    help : str
        What it does.
    metric : str
        What a search optimizes by default.
    outputs : tuple of str
        Files that only this task writes to an output folder; a new run there deletes those of an older one.
    """

    name: str
    module: str
    help: str
    metric: str
    outputs: tuple[str, ...] = ()

    def load(self) -> Any:
        """The command's module."""
        return importlib.import_module(self.module)


_ANSWERS = ("predictions.json", "nbest_predictions.json", "null_odds.json")

COMMANDS = {
    command.name: command
    for command in (
        FinetuningCommand(
            "glue",
            "nip.finetuning.glue.benchmark",
            "Finetune a text classifier on a GLUE task, a dataset of the hub, or files.",
            "accuracy",
            (
                *("predictions.tsv", "eval_mm_results.json", "CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv"),
                *("STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv", "RTE.tsv", "WNLI.tsv", "AX.tsv"),
            ),
        ),
        FinetuningCommand(
            "mlm",
            "nip.finetuning.masked_lm.task",
            "Train a masked language model, from pretrained weights or from scratch.",
            "loss",
        ),
        FinetuningCommand(
            "qa",
            "nip.finetuning.qa.task",
            "Finetune extractive question answering on SQuAD 1.1 or 2.0, or files.",
            "f1",
            (*_ANSWERS, *(f"predict_{name}" for name in _ANSWERS)),
        ),
        FinetuningCommand(
            "summarization",
            "nip.finetuning.summarization.task",
            "Finetune an encoder–decoder such as BART or T5 on summarization.",
            "loss",
            ("generated_predictions.txt",),
        ),
    )
}

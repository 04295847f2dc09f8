"""The registry of the finetuning commands."""

from __future__ import annotations

from nip.finetuning.commands import COMMANDS
from nip.finetuning.glue.registry import TASKS


def test_the_registry_lists_every_submission_file():
    assert {name for task in TASKS.values() for name in task.submissions} < set(COMMANDS["glue"].outputs)


def test_every_command_has_a_module():
    for command in COMMANDS.values():
        module = command.load()
        assert callable(module.read_command) and callable(module.main)

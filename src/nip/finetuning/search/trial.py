"""One trial of a search, in a process of its own: ``python -m nip.finetuning.search.trial COMMAND FLAG …``.

What a trial does (memory, a crash, being stopped) is then no other's concern. It ends with the process that started it:
that one holds a pipe to its standard input, which closes when it dies, be it by ``kill -9``. Nothing is lost by that,
for the run goes on from its last checkpoint.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any

from nip.runs.process import spin_briefly

# Where the ``main`` of each command is, loaded on use.
COMMANDS = {
    "glue": "nip.finetuning.glue.task",
    "mlm": "nip.finetuning.masked_lm.task",
    "qa": "nip.finetuning.qa.task",
    "summarization": "nip.finetuning.summarization.task",
}


def module_of(command: str) -> Any:
    """The module of a command."""
    return importlib.import_module(COMMANDS[command])


def main(words: list[str]) -> int:
    """Carry the command out; 0, or 2 with a sentence on standard error where its input is wrong."""
    spin_briefly()  # before torch is imported
    threading.Thread(target=_end_with_starter, daemon=True).start()
    try:
        module_of(words[0]).main(words[1:])
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _end_with_starter() -> None:
    while os.read(0, 4096):  # the descriptor itself: a buffer's lock held here would abort Python's own end
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

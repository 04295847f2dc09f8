"""Child processes that log their output and end with their parent, even if that is killed by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Worker(subprocess.Popen[bytes]):
    """A child process in a session of its own, whose output is appended to a log file.

    Its standard input is a pipe that closes when this process dies, which `end_with_parent` watches in the child. As a
    context manager it kills the child, with all that this has started, if it still runs at the end of the block.

    Parameters
    ----------
    command : sequence of str
    log : Path
        The log file; its folder is created.
    title : str, default=""
        Follows the time on the line that separates this process's output from earlier output.
    environment : mapping of str to str, optional
        Environment variables, default those of this process.
    """

    def __init__(
        self, command: Sequence[str], log: Path, *, title: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}{title and f' {title}'}\n".encode())
            file.flush()
            self._output_start = file.tell()
            # A session of its own: an interrupt from the terminal is for the parent, which ends its workers.
            super().__init__(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, start_new_session=True
            )

    def __exit__(self, *error: object) -> None:
        if self.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(self.pid, signal.SIGKILL)
            self.kill()
        super().__exit__(*error)  # type: ignore[arg-type]

    def error(self) -> str | None:
        """The last line of output, or how the process ended; None if it exited with code 0."""
        if self.returncode == 0:
            return None
        lines = self.log.read_bytes()[self._output_start :].decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if self.returncode < 0:
            return f"killed by signal {-self.returncode}" + (f"; last line of output: {last}" if last else "")
        return last or f"exited with code {self.returncode} and no output"


def end_with_parent() -> None:
    """Exit this process as soon as its standard input closes: called in a `Worker`'s child process."""
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def _exit_at_end_of_input() -> None:
    while os.read(0, 4096):  # the descriptor itself: a buffer's lock held here would abort Python's own exit
        pass
    os._exit(1)

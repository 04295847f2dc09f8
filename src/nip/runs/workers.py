"""Child processes that end with their parent, even if that is killed by SIGKILL.

A signal that kills a process does not reach its children: each child watches for the end of its parent itself.

- Children with a program of their own (`Worker`, `run_module`) call `end_with_parent` first, which watches their
  standard input, a pipe that closes with the parent.
- Forked children (data loaders, `datasets`) watch their parent's id: a command calls `watch_in_forked_children` once.
- Joblib's processes watch their parent's id too: `end_with` is their initializer.

``python -m nip.runs.workers MODULE ARGUMENT …`` runs a module so.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

_PERIOD = 0.2  # seconds between two looks at the parent
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


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


def run_module(
    module: str, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module in a process that ends with this one, and return its exit code and output.

    Parameters
    ----------
    module : str
        Run as ``python -m MODULE ARGUMENT …``.
    arguments : sequence of str
    environment : mapping of str to str, optional
        Environment variables, default those of this process.
    """
    command = [sys.executable, "-m", "nip.runs.workers", module, *arguments]
    read, write = os.pipe()  # the child does not inherit the end to which nobody writes
    try:
        return subprocess.run(command, stdin=read, capture_output=True, text=True, check=False, env=environment)
    finally:
        os.close(read)
        os.close(write)


def end_with_parent() -> None:
    """Exit this process as soon as its standard input closes: called in the child processes of this module.

    On Linux the kernel kills it when the thread that started it ends, as where a long call keeps Python's lock.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def _exit_at_end_of_input() -> None:
    while os.read(0, 4096):  # the descriptor itself: a buffer's lock held here would abort Python's own exit
        pass
    os._exit(1)


def end_with(parent: int) -> None:
    """Exit this process when its parent ends: the initializer of joblib's processes.

    Parameters
    ----------
    parent : int
        The parent's process id. If it has ended by now, this process exits at once.
    """
    if os.getpid() != parent:
        threading.Thread(target=_exit_without_parent, args=(parent,), daemon=True).start()


@lru_cache(1)
def watch_in_forked_children() -> None:
    """Let every process that is forked from this one, or from such a process, exit when its parent does."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_note_parent, after_in_child=_watch_parent)


_forking = threading.local()  # the id of the process that forks: its child may be too late to ask for it


def _note_parent() -> None:
    _forking.process = os.getpid()


def _watch_parent() -> None:
    threading.Thread(target=_exit_without_parent, args=(_forking.process,), daemon=True).start()


def _exit_without_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PERIOD)
    os._exit(1)


if __name__ == "__main__":
    end_with_parent()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

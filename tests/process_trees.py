"""The processes that a process has started, and whether they end with it."""

import os
import signal
import subprocess
import time
from pathlib import Path

SIGNALS = [signal.SIGKILL, signal.SIGTERM]
DEADLINE = 2  # seconds after which no child may run


def _status(pid):
    """State and parent of a process; nothing if there is none."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def alive(pid):
    status = _status(pid)
    return status is not None and status[0] != "Z"


def descendants(pid):
    """The running children of a process, and theirs."""
    parents = {int(path.name): _status(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = [pid]
    for each in found:
        found += [child for child, status in parents.items() if status and status[1] == each and status[0] != "Z"]
    return found[1:]


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def check_children_end(command, number, wanted="", *, with_signal, **options):
    """Kill a command once it has `number` children whose command line contains `wanted`; all must end in time."""
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, **options
    )
    found = []
    try:
        deadline = time.monotonic() + 120
        while sum(wanted in command_line(child) for child in found) < number:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline, [command_line(child) for child in found]
            time.sleep(0.02)
            found = descendants(process.pid)
        time.sleep(0.5)  # at work
        found = descendants(process.pid)
        assert process.poll() is None, "it has ended too early"
        process.send_signal(with_signal)
        deadline = time.monotonic() + DEADLINE
        while remaining := [child for child in found if alive(child)]:
            assert time.monotonic() < deadline, [command_line(child) for child in remaining]
            time.sleep(0.02)
        assert process.wait() == -with_signal
    finally:
        for each in (process.pid, *found):
            if alive(each):
                os.kill(each, signal.SIGKILL)
        process.wait()
        process.stderr.close()

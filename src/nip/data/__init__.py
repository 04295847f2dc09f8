"""Tasks and their data: what is trained on, where it lies, how it is made and read."""

from __future__ import annotations

from nip.data.examples import Examples
from nip.data.folders import data_folder, runs_folder
from nip.data.listops import Rule
from nip.data.sampling import generate
from nip.data.statistics import Statistics, baselines, statistics
from nip.data.storage import open_split, read_manifest, verify, write_task
from nip.data.tasks import SPLITS, TASKS, Task, find_task

__all__ = [
    "SPLITS",
    "TASKS",
    "Examples",
    "Rule",
    "Statistics",
    "Task",
    "baselines",
    "data_folder",
    "find_task",
    "generate",
    "open_split",
    "read_manifest",
    "runs_folder",
    "statistics",
    "verify",
    "write_task",
]

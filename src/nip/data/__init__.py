"""Tasks and their data: what is trained on, where it lies, how it is made and read."""

from __future__ import annotations

from nip.data.build import build_listops, import_listops
from nip.data.examples import Examples
from nip.data.folders import data_folder, runs_folder
from nip.data.listops import Rule, decode, encode, evaluate
from nip.data.sampling import generate
from nip.data.statistics import Statistics, baselines, statistics
from nip.data.storage import open_split, read_manifest, verify, write_task
from nip.data.tasks import SPLITS, TASKS, Task, find_task
from nip.data.tsv import read_tsv, write_tsv

__all__ = [
    "SPLITS",
    "TASKS",
    "Examples",
    "Rule",
    "Statistics",
    "Task",
    "baselines",
    "build_listops",
    "data_folder",
    "decode",
    "encode",
    "evaluate",
    "find_task",
    "generate",
    "import_listops",
    "open_split",
    "read_manifest",
    "read_tsv",
    "runs_folder",
    "statistics",
    "verify",
    "write_task",
    "write_tsv",
]

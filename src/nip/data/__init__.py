"""Tasks and their data: what is trained on, where it lies, how it is made and read."""

from __future__ import annotations

from nip.data.build import build, build_listops
from nip.data.examples import Examples, chunks
from nip.data.folders import data_folder, runs_folder
from nip.data.listops import Rule, decode, encode, evaluate
from nip.data.sampling import generate
from nip.data.sources import SOURCES, find_source, sources_of
from nip.data.statistics import Statistics, baselines, counts, statistics
from nip.data.storage import open_split, read_manifest, task_in, verify
from nip.data.tasks import SPLITS, TASKS, Task, find_task
from nip.data.tsv import read_tsv, write_tsv
from nip.data.writing import write_task

__all__ = [
    "SOURCES",
    "SPLITS",
    "TASKS",
    "Examples",
    "Rule",
    "Statistics",
    "Task",
    "baselines",
    "build",
    "build_listops",
    "chunks",
    "counts",
    "data_folder",
    "decode",
    "encode",
    "evaluate",
    "find_source",
    "find_task",
    "generate",
    "open_split",
    "read_manifest",
    "read_tsv",
    "runs_folder",
    "sources_of",
    "statistics",
    "task_in",
    "verify",
    "write_task",
    "write_tsv",
]

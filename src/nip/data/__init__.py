"""Tasks and their data: made from files or random numbers, stored as flat arrays, read by training."""

from __future__ import annotations

from nip.data.tasks.build import build, build_listops
from nip.data.tasks.examples import Examples, chunks
from nip.data.tasks.listops.generate import generate
from nip.data.tasks.listops.language import Rule, decode, encode, evaluate
from nip.data.tasks.listops.official_files import read_tsv, write_tsv
from nip.data.tasks.registry import SPLITS, TASKS, Task, find_task
from nip.data.tasks.sources import SOURCES, find_source, sources_of
from nip.data.tasks.statistics import Statistics, baselines, counts, statistics
from nip.data.tasks.storage import open_split, read_manifest, task_in, verify, write_task
from nip.locations import data_folder, runs_folder

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

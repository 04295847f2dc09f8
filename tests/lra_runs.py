"""Fixtures of tests that train: a tiny data set and configuration, and runs in new processes."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from nip.data import TASKS, Examples, write_task
from nip.data.tasks.probe import ProbeRule, draw_probe
from nip.lra import RunConfig, recipe
from nip.lra.objective import LABELS
from nip.lra.task import LabelTask
from nip.runs.console import Console
from nip.runs.folder import RunFolder
from nip.training.checkpoint import Progress, TrainState
from nip.training.trainer import EngineSettings, Run, take_step

SIZES = {"train": 24, "dev": 14, "test": 13}

RUNNER = """
import json, os, sys, traceback
from pathlib import Path
import torch
from nip.lra import RunConfig, train
torch.optim.AdamW([torch.zeros(1)])  # imports what optimizers need once, before forking
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            train(RunConfig(**order["config"]), Path(order["out"]), data=Path(order["data"]))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Runner:
    """Runs `train` in new processes, forked from a single-threaded one that has imported torch."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "PYTEST_XDIST_WORKER" in os.environ else None,
            text=True,
            env=environment,
        )

    def run(self, config, out, data, kill=None):
        """Train until the end, or until `kill(pid)` returns and the process is killed; the signal that ended it."""
        order = {"config": dataclasses.asdict(config), "out": str(out), "data": str(data)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if kill is not None:
            kill(child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        status = int(self.process.stdout.readline())
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the run failed"
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.fixture(scope="session")
def runner():
    made = Runner()
    yield made
    made.process.stdin.close()
    made.process.wait()


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: tiny tensors are slower with two on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_split(split, n, seed, longest=30):
    """Random expressions with an easy label: the one digit among operators and brackets."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, longest + 1, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = generator.integers(1, 6, offsets[-1])
    labels = generator.integers(0, 10, n)
    tokens[offsets[:-1] + generator.integers(0, lengths)] = 6 + labels
    return Examples(TASKS["listops"], split, tokens, offsets, labels)


def make_any_split(task, split, n, seed):
    """Sequences of any task with an easy label: half of their tokens are the label; the probe has few pairs."""
    if task.targets:
        rule = ProbeRule(seq_len=40, pairs=3, queries=6, values=2)
        (examples,) = draw_probe(n, rule, split=split, seed=seed)
        return examples
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, task.n_classes, n)
    width = 2 if task.pair else 1
    lengths = np.full(n * width, task.max_length) if task.shape else generator.integers(3, 31, n * width)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = generator.integers(task.ids.start, task.ids.stop, offsets[-1])
    says = np.repeat(np.repeat(labels, width) + (0 if task.shape else 1), lengths)
    tokens = np.where(generator.random(len(tokens)) < 0.5, says, tokens)
    return Examples(task, split, tokens, offsets, labels)


@pytest.fixture(scope="session")
def any_data(tmp_path_factory):
    """A function from a task's name to a data folder with a tiny set of it."""

    @functools.cache
    def made(name):
        folder = tmp_path_factory.mktemp(f"data-{name}")
        task = TASKS[name]
        splits = {split: make_any_split(task, split, n, i) for i, (split, n) in enumerate(SIZES.items())}
        write_task(splits, folder, {"source": "made for tests", "parameters": {}, "split_rule": "", "licence": ""})
        return folder

    return made


@pytest.fixture
def small():
    """A function from a task's name and a protocol to a tiny configuration of its recipe."""

    def shrunk(name, protocol="clean", **settings):
        sizes = {"seq_len": 40, "positions": 48, "block_size": 8, "batch_size": 6, "max_steps": 4, "eval_every": 2}
        config = dataclasses.replace(recipe(name, "original"), gradient_accumulation=2, **sizes)
        config = dataclasses.replace(config, protocol=protocol, eval_steps=2 if protocol == "original" else None)
        return dataclasses.replace(config, **{"cut": 20 if config.cut else None, **settings})

    return shrunk


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data folder with a tiny set in place of ListOps."""
    folder = tmp_path_factory.mktemp("data")
    splits = {"train": make_split("train", 400, 1), "dev": make_split("dev", 50, 2), "test": make_split("test", 70, 3)}
    write_task(splits, folder, {"source": "made for tests", "parameters": {}, "split_rule": "", "licence": ""})
    return folder


@pytest.fixture
def config():
    return RunConfig(
        task="listops",
        seq_len=32,
        positions=32,
        block_size=8,
        batch_size=8,
        learning_rate=1e-3,
        warmup=0.2,
        weight_decay=1e-4,
        dropout=0.1,
        max_steps=12,
        eval_every=4,
        eval_steps=None,
        gradient_accumulation=2,
    )


def comparable(folder: Path):
    """Everything of a run that must be bit-identical: all but times."""
    from nip.runs.folder import RunFolder, read_metrics
    from nip.training.checkpoint import read_tensors

    run = RunFolder(folder)
    clock = ("seconds", "training_seconds", "tokens_per_second")
    result = {key: value for key, value in json.loads(run.result.read_text()).items() if key not in clock}
    metrics = [{key: value for key, value in row.items() if key not in clock} for row in read_metrics(run.metrics)]
    tensors = {}
    for path in (run.checkpoint, run.best):
        for name, tensor in read_tensors(path)[0].items():
            tensors[f"{path.name}/{name}"] = tensor.numpy().tobytes()
    return {"result": result, "metrics": metrics, "tensors": tensors, "config": run.config.read_text()}


@pytest.fixture(name="comparable")
def comparable_fixture():
    return comparable


def one_step(model, optimizer, examples, indices, config, step=0, objective=LABELS):
    """The result of the engine's training step on the examples `indices`."""

    class OneStep(LabelTask):
        def indices(self, step):
            return indices

        def objective(self, step):
            return objective

        def learning_rate(self, run):
            return run.state.optimizer.param_groups[0]["lr"], None

    task = OneStep(config, {"train": examples})
    state = TrainState(Accelerator(mixed_precision="no"), model, optimizer, progress=Progress(step=step))
    run = Run(EngineSettings(seed=config.seed), RunFolder(Path("nowhere")), state, Console(None, None))
    return take_step(run, task, task.batch(run))

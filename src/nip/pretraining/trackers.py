"""Experiment tracking with tensorboard, wandb or trackio, by accelerate's trackers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator

from nip.pretraining.output_dir import trackers_folder
from nip.pretraining.settings import CHANGEABLE, Settings
from nip.runs.folder import RunFolder


@contextmanager
def tracked(
    settings: Settings, accelerator: Accelerator, folder: RunFolder, step: int
) -> Iterator[Callable[[dict[str, float], int], None]]:
    """Open the experiment trackers of a run; gives a function that logs the metrics of a step to them.

    Parameters
    ----------
    settings : Settings
    accelerator : Accelerator
    folder : RunFolder
    step : int
        Finished steps: what was logged of later steps before a restart is removed if the tracker can do so.

    Yields
    ------
    callable
        Takes metrics by name, and the step.

    Raises
    ------
    ImportError
        If one of them is not installed.
    """
    names = [name for name in settings.trackers if name != "none"]
    check_installed(settings)
    if not names:
        yield lambda metrics, at: None
        return
    from accelerate.tracking import filter_trackers

    name = settings.job_name or folder.path.name
    key = hashlib.sha256(str(folder.path.resolve()).encode() + settings_key(settings)).hexdigest()[:8]
    accelerator.project_configuration.logging_dir = str(trackers_folder(folder))
    accelerator.log_with = filter_trackers(names, accelerator.logging_dir)
    special: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},
        "wandb": {"name": name, "id": f"{name}-{key}", "resume": "allow"},
        "trackio": {"name": name, "resume": "allow"},
    }
    values = {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in settings.to_dict().items()
        if value is not None
    }
    accelerator.init_trackers(settings.project, config=values, init_kwargs={key: special[key] for key in names})
    try:
        yield lambda metrics, at: accelerator.log(metrics, step=at)
    finally:
        if accelerator.is_main_process:  # accelerate's end_training would end the process group too
            for tracker in accelerator.trackers:
                tracker.finish()


def settings_key(settings: Settings) -> bytes:
    """What distinguishes runs of the same name."""
    kept = {name: value for name, value in settings.to_dict().items() if name not in CHANGEABLE}
    return json.dumps(kept, sort_keys=True).encode()


def check_installed(settings: Settings) -> None:
    """Check that the experiment trackers are installed.

    Raises
    ------
    ImportError
        If one is not; the message names the command that installs it.
    """
    for name in settings.trackers:
        if name != "none" and importlib.util.find_spec(name) is None:
            raise ImportError(f"--track {name} needs {name}: pip install {name}. Or disable tracking: --track none")

"""What the results of runs show, as sentences that claim no more than the confidence intervals allow.

Runs that differ only in the seed form one group. Two single runs are compared by the interval of a difference of two
proportions (Newcombe's hybrid score interval, which needs only each proportion and its own interval). Two groups of
several seeds are compared by Welch's interval over the seeds, because their test examples are the same.

References
----------
R. G. Newcombe, Interval estimation for the difference between independent proportions: comparison of eleven methods,
Statistics in Medicine 17 (1998), method 10.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nip.formatting import format_percent
from nip.runs.record import Result, RunRecord

NOT_COMPARED = (
    *("seed", "data_seed", "backend", "gradient_accumulation", "graph", "graph_file", "attention", "attention_layers"),
    *("param", "max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps", "processes"),
    *("micro_batch", "eval_micro_batch", "checkpoint_minutes", "track", "project", "job_name", "log_every"),
)
"""Settings that change results by rounding at most, and settings that a record has under another name."""
ANSWERS = {
    "commonest_label": "always answering the commonest label",
    "root_operator": "knowing only the root operator",
    "commonest_token": "always guessing the commonest token",
}
PATTERN_SETTINGS = ("model", "parameters", "checksum", "layer patterns")
MANY = 6  # groups that are all listed in a sentence


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed, with a label that distinguishes them from the other groups."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def results(self) -> list[Result]:
        """The results of the finished runs."""
        return [run.result for run in self.runs if run.result]

    @property
    def accuracy(self) -> float:
        """Mean test accuracy of the finished runs."""
        return fmean(result.test_accuracy for result in self.results)


@dataclass(frozen=True)
class Finding:
    """What the runs of one task show: one sentence, notes that qualify it, and the groups that it compares."""

    task: str
    sentence: str
    notes: tuple[str, ...]
    groups: tuple[Group, ...]


def find(runs: Sequence[RunRecord]) -> list[Finding]:
    """Compare runs, task by task.

    Parameters
    ----------
    runs : sequence of RunRecord
        Finished and unfinished ones; only finished ones are compared, the others are counted in the notes.

    Returns
    -------
    list of Finding
        One per task, in the order of the runs.
    """
    tasks = dict.fromkeys(run.task_label for run in runs)
    return [_find(task, grouped([run for run in runs if run.task_label == task])) for task in tasks]


def grouped(runs: Sequence[RunRecord]) -> tuple[Group, ...]:
    """Groups of runs that differ only in the seed, each with a label of its own."""
    members: dict[str, list[RunRecord]] = {}
    for run in runs:
        known = {name: value for name, value in _compared(run).items() if value is not None}
        members.setdefault(json.dumps(known, sort_keys=True), []).append(run)
    alike = list(members.values())
    labels = [_label(group[0], [other[0] for other in alike]) for group in alike]
    return tuple(Group(label, tuple(group)) for label, group in zip(labels, alike, strict=True))


def differing(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """The settings in which runs differ, with their values; `NOT_COMPARED` is left out."""
    settings = [_compared(run) for run in runs]
    named = dict.fromkeys(key for one in settings for key in one)
    values = {key: list(dict.fromkeys(_written(one.get(key)) for one in settings)) for key in named}
    return {key: found for key, found in values.items() if len(found) > 1}


def difference(first: Group, second: Group) -> tuple[float, tuple[float, float] | None]:
    """The mean test accuracy of the first group minus that of the second, with its 95 % interval.

    The interval is Newcombe's for two single runs, Welch's for two groups of several seeds, and otherwise None.
    """
    gap = first.accuracy - second.accuracy
    ours, theirs = first.results, second.results
    if len(ours) == len(theirs) == 1:
        a, b = ours[0], theirs[0]
        if a.interval is None or b.interval is None:
            return gap, None
        return gap, (
            gap - math.hypot(a.test_accuracy - a.interval[0], b.interval[1] - b.test_accuracy),
            gap + math.hypot(a.interval[1] - a.test_accuracy, b.test_accuracy - b.interval[0]),
        )
    if min(len(ours), len(theirs)) < 2:
        return gap, None
    from scipy import stats  # imported here: slow to load, and only repeated runs need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nearly equal seeds give a narrow interval, as they should
        welch = stats.ttest_ind(
            [r.test_accuracy for r in ours], [r.test_accuracy for r in theirs], equal_var=False
        ).confidence_interval()
    ends = float(welch.low), float(welch.high)
    return gap, ends if all(map(math.isfinite, ends)) else None


def _find(task: str, groups: tuple[Group, ...]) -> Finding:
    finished = sorted((group for group in groups if group.results), key=lambda group: -group.accuracy)
    if not finished:
        return Finding(task, f"No run on {task} has finished yet, so there is nothing to compare.", (), groups)
    if len(finished) > MANY:
        sentence = f"On {task}, of {len(finished)} settings " + ", ".join(_accuracy(group) for group in finished[:3])
        sentence += f" and, last, {_accuracy(finished[-1])}" + _verdict(finished)
        notes = _gaps(finished)
    else:
        sentence = f"On {task}, " + listed([_accuracy(group) for group in finished]) + _verdict(finished)
        notes = [_gap(finished[0], other) for other in finished[1:]]
    unlike = differing([group.runs[0] for group in finished])
    stated = [f"{key} ({' / '.join(values)})" for key, values in unlike.items() if key not in PATTERN_SETTINGS]
    if stated:
        notes.append(f"The runs differ in more than the pattern: {listed(stated)}.")
    if any(len(group.results) == 1 for group in finished):
        notes.append("One seed does not show how much the result varies between seeds.")
    unfinished = sum(run.result is None for group in groups for run in group.runs)
    if unfinished:
        notes.append(f"{unfinished} unfinished run{'s are' if unfinished > 1 else ' is'} shown below but not compared.")
    return Finding(task, sentence, tuple(notes), groups)


def _verdict(finished: Sequence[Group]) -> str:
    results = [result for group in finished for result in group.results]
    bars = sorted({result.bar for result in results if result.bar})
    if any(result.bar is None for result in results):
        return "; without a recorded baseline it is not known whether that is better than guessing."
    named = listed([f"{ANSWERS.get(name, name)} gives {format_percent(value)}" for name, value in bars])
    learned = [sum(result.learned is True for result in group.results) for group in finished]
    if any(result.learned is None for result in results):
        return f"; {named}, and without an interval it is not known which run learned more than that."
    if not any(learned):
        nobody = {1: "it has not", 2: "neither has"}.get(len(results), "none has")
        return f"; {named}, so {nobody} been shown to have learned more than that."
    if sum(learned) == len(results):
        everyone = {1: "it has", 2: "both have"}.get(len(results), "all have")
        return f"; {named}, so {everyone} learned more than that."
    who = [
        group.label + (f" ({count} of {len(group.results)} seeds)" if len(group.results) > 1 else "")
        for group, count in zip(finished, learned, strict=True)
        if count
    ]
    if len(finished) > MANY:
        return f"; {named}, so {sum(learned)} of {len(results)} runs have learned more than that."
    return f"; {named}, so only {listed(who)} {'has' if len(who) == 1 else 'have'} learned more than that."


def _accuracy(group: Group) -> str:
    results = group.results
    if len(results) > 1:
        values = [result.test_accuracy for result in results]
        return (
            f"{group.label} reached {format_percent(group.accuracy)} (mean of {len(values)} seeds, "
            f"{min(values) * 100:.1f}–{max(values) * 100:.1f})"
        )
    interval = results[0].interval
    return f"{group.label} reached {format_percent(group.accuracy)}" + (
        f" (95 % interval {interval[0] * 100:.1f}–{interval[1] * 100:.1f})" if interval else ""
    )


def _gap(first: Group, second: Group) -> str:
    gap, interval = difference(first, second)
    stated = f"{first.label} leads {second.label} by {gap * 100:.1f} points"
    if interval is None:
        return f"{stated}; there are too few seeds or no intervals to say how certain that is."
    ends = f"95 % interval {interval[0] * 100:+.1f} to {interval[1] * 100:+.1f}".replace("-", "−")
    if interval[0] > 0:
        return f"{stated} ({ends}): more than chance alone would give."
    return f"{stated} ({ends}): no more than chance may give, so the order is open."


def _gaps(finished: Sequence[Group]) -> list[str]:
    """Which groups are behind the first, as far as the intervals of the differences show: a sentence for each case."""
    behind: dict[str, list[str]] = {}
    for other in finished[1:]:
        _, interval = difference(finished[0], other)
        kind = "unknown" if interval is None else "behind" if interval[0] > 0 else "open"
        behind.setdefault(kind, []).append(other.label)
    sentences = {
        "behind": f"{finished[0].label} leads by more than chance alone would give",
        "open": f"{finished[0].label} leads by no more than chance may give, so the order is open",
        "unknown": f"There are too few seeds or no intervals to say how certain it is that {finished[0].label} leads",
    }
    return [f"{sentences[kind]}: {'; '.join(behind[kind])}." for kind in sentences if kind in behind]


def _compared(run: RunRecord) -> dict[str, Any]:
    settings = {
        **run.settings,
        **{name: getattr(run, name) for name in ("parameters", "checksum", "block_size", "seq_len", "batch_size")},
        **{"task": run.task_label, "model": run.pattern, "layer patterns": run.layer_patterns},
        **{"max_steps": run.planned_steps, "data": run.data_checksum},
    }
    return {key: value for key, value in settings.items() if key not in NOT_COMPARED}


def _label(run: RunRecord, others: Sequence[RunRecord]) -> str:
    """The pattern's name, and the settings in which the run differs from others with that pattern."""
    apart = differing([other for other in others if other.pattern_label == run.pattern_label])
    settings = _compared(run)
    stated = [f"{key} {_written(settings.get(key))}" for key in apart if key != "checksum" or len(apart) == 1]
    return ", ".join([run.pattern_label, *stated])


def _written(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_written(one)}" for key, one in value.items()) or "default"
    if value is None:
        return "none"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a checksum


def listed(parts: Sequence[str]) -> str:
    """The parts as a list in a sentence: ``a, b and c``."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]

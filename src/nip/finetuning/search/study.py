"""A search's trials in Optuna's database: which run next, which were lost and are retried, which count.

The database is a file (SQLite) or a server that searches on several machines share. These rules apply also when several
processes ask at the same time:

- A trial is *lost* when its process has died: its heartbeat has stopped, or its lock on this machine is free. It is
  marked as failed, and its point queued again under its number, so that its run resumes from its last checkpoint.
- No point is tried twice: a second trial of a point takes over the first one's value, or is *void*.
- Trials beyond the number asked for are void. Void trials are not reported.

Heartbeats are Optuna's. Its `RetryHeartbeatStaleTrialCallback` is not used: it retries only after the grace period, not
as soon as the lock is free; it loses a trial whose retrying process dies before it has queued it; and it copies the
user attributes, so that the retried trial refers to the dead process's lock until it has one of its own.
"""

from __future__ import annotations

import copy
import json
import random
import socket
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nip.finetuning.search.space import Space, Value, grid_points, has_range, space_size
from nip.runs.folder import locked

HEARTBEAT, GRACE = 20, 90  # seconds
DRAWING_SECONDS = 5.0  # at most from a trial's number to its parameters
SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband", "none")


def open_storage(url: str) -> Any:
    """The database at a URL, created if it does not exist.

    Raises
    ------
    ImportError
        If the database's driver is not installed.
    OSError
        If it cannot be reached.
    ValueError
        If the URL is malformed.
    """
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
        shown = parsed.render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError as error:
        raise ValueError(
            f"--storage takes the URL of a database, such as sqlite:///search.db or postgresql://USER@HOST/NAME. "
            f"Got {url!r} instead."
        ) from error
    sqlite = url.startswith("sqlite")
    if sqlite and (not parsed.database or ":memory:" in parsed.database or "mode=memory" in url):
        raise ValueError(
            f"--storage {shown} is a database in memory, which ends with the command. Name a file, such as "
            "sqlite:///search.db, or leave --storage out."
        )
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = optuna.storages.RDBStorage(
                    url, engine_kwargs=options, heartbeat_interval=HEARTBEAT, grace_period=GRACE
                )
            if sqlite:
                _begin_immediate(storage.engine)
            return storage
        except ImportError as error:
            raise ImportError(
                f"The storage {shown} needs a driver that is not installed ({error.name or error}); for PostgreSQL: "
                "pip install 'psycopg[binary]'"
            ) from error
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            # Of two processes that create the tables at the same time one fails, and finds them on its next attempt.
            created_by_other = isinstance(error, sqlalchemy.exc.ProgrammingError | sqlalchemy.exc.IntegrityError)
            if attempt < 4 and (created_by_other or "already exists" in str(error)):
                continue
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise OSError(f"--storage: {shown} cannot be reached ({reason}).") from error
    raise AssertionError("unreachable")


def _begin_immediate(engine: Any) -> None:
    """Let every transaction on SQLite lock the database before it reads.

    SQLite has no ``SELECT … FOR UPDATE``: two processes that look for a waiting trial at the same time would both take
    it (SQLAlchemy, "Serializable isolation / Savepoints / Transactional DDL" of its pysqlite dialect).
    """
    import sqlalchemy

    def no_implicit_begin(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "connect", no_implicit_begin)
    sqlalchemy.event.listen(engine, "begin", begin)
    engine.dispose()  # of connections made before


def open_study(storage: Any, name: str, direction: str, pruner: str) -> optuna.Study:
    """The study of that name, created if it does not exist.

    Parameters
    ----------
    storage : RDBStorage
    name : str
    direction : {"maximize", "minimize"}
    pruner : {"median", "hyperband", "none"}

    Raises
    ------
    ValueError
        If the study has the other direction.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction=direction,  # type: ignore[arg-type]
        load_if_exists=True,
        pruner=make_pruner(pruner),
    )
    if study.direction.name.lower() != direction:
        raise ValueError(
            f"The study {name!r} in this storage is to {study.direction.name.lower()} its metric, not to {direction} "
            "it. Name another with --study."
        )
    return study


def make_pruner(name: str) -> optuna.pruners.BasePruner:
    """The rule that stops unpromising trials; its steps are evaluations, counted from 1."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of the next point; running trials count as bad ones, so that their points are not drawn again."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)


def check_same_search(study: optuna.Study, search: dict[str, Any]) -> None:
    """Store with the study what it searches, and refuse a study of another search.

    Raises
    ------
    ValueError
        If the study's trials belong to another search.
    """
    stored = study.user_attrs.get("search")
    differing = [] if stored is None else [name for name in search if stored.get(name) != search[name]]
    trials = study.get_trials(deepcopy=False)
    if stored is not None and differing and (counted_trials(trials) or (trials and "space" in differing)):
        name = differing[0]
        raise ValueError(
            f"The study {study.study_name!r} in this storage is another search, of other {name}: "
            f"{json.dumps(stored[name])}. Name another with --study, or another --output-dir."
        )
    if stored is None or differing:
        study.set_user_attr("search", search)


def params_of(trial: FrozenTrial) -> dict[str, Value]:
    """A trial's parameters, also of one that still waits; empty if it ended before any was drawn."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def original_number(trial: FrozenTrial | optuna.Trial) -> int:
    """The number that a trial would have if no process had died, which names its run's folder."""
    return int(trial.user_attrs.get("retry_of", trial.user_attrs.get("number", trial.number)))


def counted_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """One attempt of every trial, without void trials and those that took over another's value."""
    groups: dict[int, list[FrozenTrial]] = {}
    for trial in _drawn_trials(trials):
        if not {"void", "same_as"} & set(trial.user_attrs):
            groups.setdefault(original_number(trial), []).append(trial)
    return [_most_advanced(group) for group in groups.values()]


def _drawn_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without those whose process died before it had drawn all parameters: they are drawn again."""
    n = max((len(params_of(trial)) for trial in trials), default=0)

    def drawn(trial: FrozenTrial) -> bool:
        told = {"error", "void", "same_as"} & set(trial.user_attrs)
        return trial.state != TrialState.FAIL or bool(told) or len(params_of(trial)) == n > 0

    return [trial for trial in trials if drawn(trial)]


def _first_attempts(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that there would be if no process had died."""
    return [trial for trial in _drawn_trials(trials) if "retry_of" not in trial.user_attrs]


class _UninterruptedSampler(optuna.samplers.BaseSampler):
    """Draws what a sampler would draw if no process had died: each trial in its own place, one attempt of each.

    Parameters
    ----------
    sampler : BaseSampler
    trials : sequence of FrozenTrial
        All trials of the study.
    direction : StudyDirection
    """

    def __init__(
        self,
        sampler: optuna.samplers.BaseSampler,
        trials: Sequence[FrozenTrial],
        direction: optuna.study.StudyDirection,
    ) -> None:
        others = [trial for trial in _drawn_trials(trials) if {"void", "same_as"} & set(trial.user_attrs)]
        ordered = sorted([*counted_trials(trials), *others], key=original_number)
        self.sampler = sampler
        self.study = optuna.create_study(direction=direction)
        self.study.add_trials(trial for trial in ordered if trial.state != TrialState.WAITING)
        self.study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING))  # the one that is drawn
        self.own = self.study.get_trials(deepcopy=False)[-1]

    def _placed(self, trial: FrozenTrial) -> FrozenTrial:
        placed = copy.copy(trial)
        placed.number, placed._trial_id = self.own.number, self.own._trial_id
        return placed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self.sampler.infer_relative_search_space(self.study, self._placed(trial))

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        drawn = self.sampler.sample_relative(self.study, self._placed(trial), search_space)
        for name, value in self.study.get_trials(deepcopy=False)[-1].system_attrs.items():
            study._storage.set_trial_system_attr(trial._trial_id, name, value)  # for processes that draw meanwhile
        return drawn

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        return self.sampler.sample_independent(self.study, self._placed(trial), param_name, distribution)


def _most_advanced(attempts: Sequence[FrozenTrial]) -> FrozenTrial:
    """The attempt that has finished, else runs, else waits, else failed last."""
    for states in ((TrialState.COMPLETE, TrialState.PRUNED), (TrialState.RUNNING,), (TrialState.WAITING,)):
        found = [trial for trial in attempts if trial.state in states]
        if found:
            return found[0]
    return attempts[-1]


def requeue_lost(study: optuna.Study) -> None:
    """Mark the trials of dead processes as failed, and queue all lost points again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        lock = trial.user_attrs.get("lock")
        if trial.user_attrs.get("host") == socket.gethostname() and lock and _is_free(Path(lock)):
            with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
                study.tell(trial.number, state=TrialState.FAIL)
    _requeue_failed(study, lost_only=True)


def _is_free(path: Path) -> bool:
    if not path.is_file():  # of another machine of the same name, or deleted: its heartbeat decides
        return False
    try:
        with locked(path):
            return True
    except ValueError:
        return False


def retry_failed(study: optuna.Study) -> None:
    """Queue the points of all failed trials again."""
    _requeue_failed(study, lost_only=False)


def _requeue_failed(study: optuna.Study, *, lost_only: bool) -> None:
    for trial in counted_trials(study.get_trials(deepcopy=False)):
        lost = "error" not in trial.user_attrs
        if trial.state == TrialState.FAIL and params_of(trial) and (lost or not lost_only):
            enqueue(study, params_of(trial), retry_of=original_number(trial))


def enqueue(study: optuna.Study, point: dict[str, Value], *, retry_of: int | None = None) -> None:
    """Queue a point.

    Parameters
    ----------
    study : optuna.Study
    point : dict
    retry_of : int, optional
        The number of the trial that this is another attempt at; by default a new trial.
    """
    study.enqueue_trial(point, user_attrs={} if retry_of is None else {"retry_of": retry_of})


def enqueue_grid(study: optuna.Study, space: Space, seed: int, limit: int | None) -> None:
    """Queue the points of a grid that the study has not tried or queued yet.

    Parameters
    ----------
    study : optuna.Study
    space : Space
        Without ranges.
    seed : int
        Decides the order of the grid.
    limit : int or None
        Only the first `limit` points in that order; None: all.
    """
    known = {_key(params_of(trial)) for trial in counted_trials(study.get_trials(deepcopy=False))}
    for point in grid_points(space, seed=seed)[:limit]:
        if _key(point) not in known:
            enqueue(study, point)


def ask(study: optuna.Study, space: Space, sampler: str, limit: int | None, seed: int) -> optuna.Trial | None:
    """The next trial, from the queue or drawn; None if none is left.

    Parameters
    ----------
    study : optuna.Study
    space : Space
    sampler : {"tpe", "random", "grid"}
    limit : int or None
        Number of trials in all; None: the number of points of the space.
    seed : int
        Together with the number of trials so far it decides what is drawn, also after a restart.

    Returns
    -------
    optuna.Trial or None
    """
    everything = study.get_trials(deepcopy=False)
    trials = _first_attempts(everything)
    counted = counted_trials(everything)
    if not any(trial.state == TrialState.WAITING for trial in counted):
        tried = {_key(params_of(trial)) for trial in counted}
        points = space_size(space)
        if sampler == "grid" or len(counted) >= (points if limit is None else limit) or len(tried) >= points:
            return None
        # The sampler repeats itself: draw among the points that are left.
        if len(trials) >= 5 and all({"void", "same_as"} & set(trial.user_attrs) for trial in trials[-5:]):
            left = [] if has_range(space) else grid_points(space, seed=seed + len(trials))
            left = [point for point in left if _key(point) not in tried]
            enqueue(study, random.Random(seed + len(trials)).choice(left))
    study.sampler = make_sampler(sampler, seed + len(trials))
    if len(trials) < len(everything):  # else the sampler's own view of the study is the same
        study.sampler = _UninterruptedSampler(study.sampler, everything, study.direction)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")  # the search sends it itself
        trial = study.ask()
    # Not from the trials of above: another process may have asked meanwhile, and two trials must not share a number.
    before = _first_attempts([each for each in study.get_trials(deepcopy=False) if each.number < trial.number])
    number = max((original_number(each) for each in before), default=-1) + 1
    if "retry_of" not in trial.user_attrs and number != trial.number:
        trial.set_user_attr("number", number)
    return trial


def close_redundant(study: optuna.Study, trial: optuna.Trial, sampler: str, limit: int | None) -> bool:
    """Close a trial whose point another trial has, or that is beyond the limit.

    Parameters
    ----------
    study : optuna.Study
    trial : optuna.Trial
        With its parameters drawn.
    sampler, limit
        As in `ask`.

    Returns
    -------
    bool
        Whether the trial was redundant.
    """
    trials = _trials_with_points(study, trial)
    counted = counted_trials(trials)
    own = next(each for each in trials if each.number == trial.number)
    same = [
        other
        for other in counted
        if other.number != own.number
        and _key(params_of(other)) == _key(params_of(own))
        and (other.state.is_finished() or (other.state == TrialState.RUNNING and other.number < own.number))
    ]
    finished = [other for other in same if other.state == TrialState.COMPLETE]
    queued = "fixed_params" in own.system_attrs
    before = sum(other.number < own.number for other in counted)
    if finished:
        trial.set_user_attr("same_as", original_number(finished[0]))
        study.tell(trial, finished[0].value)
    elif same:
        trial.set_user_attr("void", f"the point of trial {original_number(same[0])}")
        study.tell(trial, state=TrialState.FAIL)
    elif not queued and (sampler == "grid" or (limit is not None and before >= limit)):
        trial.set_user_attr("void", "beyond the number of trials")
        study.tell(trial, state=TrialState.FAIL)
    else:
        return False
    return True


def _trials_with_points(study: optuna.Study, trial: optuna.Trial) -> list[FrozenTrial]:
    """All trials, once the running ones before this one have drawn their parameters: of equal points the first stays.

    A process that died in between is waited for a few seconds only.
    """
    deadline = time.monotonic() + DRAWING_SECONDS
    while True:
        trials = study.get_trials(deepcopy=False)
        earlier = [each for each in trials if each.number < trial.number and each.state == TrialState.RUNNING]
        if all(len(each.params) >= len(trial.params) for each in earlier) or time.monotonic() > deadline:
            return trials
        time.sleep(0.01)


def _key(point: dict[str, Value]) -> str:
    return repr(sorted((name, float(v) if isinstance(v, int) else v) for name, v in point.items()))

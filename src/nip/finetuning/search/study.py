"""The trials of a search, kept in a database: which there are, which comes next, which were lost and come again.

The database is Optuna's, in a file (sqlite) or a server (PostgreSQL) that searches on several machines share. Every
rule here holds also where others ask at the same time:

- A trial is *lost* when what performed it has died: its heartbeat has stopped, or its lock on this machine is free. It
  is closed, and its point queued again under its number, so that its run goes on from the last checkpoint.
- A point that was tried is not tried again: a second trial of it takes over the value, or is *void*.
- Trials beyond the number asked for are void; void ones are shown nowhere.
"""

from __future__ import annotations

import json
import random
import socket
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.trial import FrozenTrial, TrialState

from nip.finetuning.search.space import Range, Space, Value, points, size

HEARTBEAT, GRACE = 20, 90  # seconds
SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband", "none")


def open_storage(url: str) -> Any:
    """The database at a URL, made where there is none.

    Raises
    ------
    ImportError
        If the database's driver is not installed.
    OSError
        If it cannot be reached.
    ValueError
        If the URL is none.
    """
    import sqlalchemy

    try:
        shown = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError as error:
        raise ValueError(
            f"--storage takes the URL of a database, such as sqlite:///search.db or postgresql://USER@HOST/NAME. "
            f"Got {url!r} instead."
        ) from error
    sqlite = url.startswith("sqlite")
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        options["connect_args"] = {"connect_timeout": 15}
    for attempt in range(5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = optuna.storages.RDBStorage(
                    url, engine_kwargs=options, heartbeat_interval=HEARTBEAT, grace_period=GRACE
                )
            if sqlite:
                _lock_from_the_start(storage.engine)
            return storage
        except ImportError as error:
            raise ImportError(
                f"The storage {shown} needs a driver that is not installed ({error.name or error}); for PostgreSQL: "
                "pip install 'psycopg[binary]'"
            ) from error
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            # two that make the tables at the same time: one of them fails, and finds them made
            made_by_another = isinstance(error, sqlalchemy.exc.ProgrammingError | sqlalchemy.exc.IntegrityError)
            if attempt < 4 and (made_by_another or "already exists" in str(error)):
                continue
            said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise OSError(f"--storage: {shown} cannot be reached ({said}).") from error
    raise AssertionError("unreachable")


def _lock_from_the_start(engine: Any) -> None:
    """Let every transaction on sqlite lock the database before it reads.

    sqlite knows no ``SELECT … FOR UPDATE``: two that look for a waiting trial at the same moment would both take it
    (SQLAlchemy, "Serializable isolation / Savepoints / Transactional DDL" of its pysqlite dialect).
    """
    import sqlalchemy

    def no_implicit_begin(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "connect", no_implicit_begin)
    sqlalchemy.event.listen(engine, "begin", begin)
    engine.dispose()  # connections made before know nothing of it


def open_study(storage: Any, name: str, direction: str, pruner: str) -> optuna.Study:
    """The study of a name in a storage, made where there is none.

    Raises
    ------
    ValueError
        If there is one of that name which goes the other way.
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
    """What stops trials that fall behind: by their evaluations, counted from 1."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """What draws the next point; what runs at the same time is taken for bad, so that it is not drawn again."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)


def remember(study: optuna.Study, what: dict[str, Any]) -> None:
    """Keep what a search is about with its study.

    Raises
    ------
    ValueError
        If the study is about something else.
    """
    there = study.user_attrs.get("search")
    differing = [] if there is None else [name for name in what if there.get(name) != what[name]]
    trials = study.get_trials(deepcopy=False)
    if there is not None and differing and (counted(trials) or (trials and "space" in differing)):
        name = differing[0]
        raise ValueError(
            f"The study {study.study_name!r} in this storage is another search, of other {name}: "
            f"{json.dumps(there[name])}. Name another with --study, or another --output_dir."
        )
    if there is None or differing:
        study.set_user_attr("search", what)


def point_of(trial: FrozenTrial) -> dict[str, Value]:
    """Where a trial stands; empty where it ended before that was known."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def first_number(trial: FrozenTrial) -> int:
    """The number under which a trial was first tried: its run folder's."""
    return int(trial.user_attrs.get("retry_of", trial.number))


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: not the void ones, nor those that took over a value; one of those tried again."""
    groups: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if not {"void", "same_as"} & set(trial.user_attrs):
            groups.setdefault(first_number(trial), []).append(trial)
    return [_foremost(group) for group in groups.values()]


def _foremost(group: Sequence[FrozenTrial]) -> FrozenTrial:
    """Of the trials of one run, oldest first: the one that has come to an end, is under way, is queued, failed last."""
    for states in ((TrialState.COMPLETE, TrialState.PRUNED), (TrialState.RUNNING,), (TrialState.WAITING,)):
        found = [trial for trial in group if trial.state in states]
        if found:
            return found[0]
    return group[-1]


def close_lost(study: optuna.Study) -> None:
    """Close the trials whose performer has died, and queue the points of all that were lost again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        lock = trial.user_attrs.get("lock")
        if trial.user_attrs.get("host") == socket.gethostname() and lock and _is_free(Path(lock)):
            with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another was quicker
                study.tell(trial.number, state=TrialState.FAIL)
    for trial in counted(study.get_trials(deepcopy=False)):
        if trial.state == TrialState.FAIL and "error" not in trial.user_attrs and point_of(trial):
            queue(study, point_of(trial), retry_of=first_number(trial))


def _is_free(path: Path) -> bool:
    if not path.is_file():  # of another machine that is called the same, or deleted: its heartbeat tells
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    lock.release()
    return True


def queue(study: optuna.Study, point: dict[str, Value], *, retry_of: int | None = None) -> None:
    """Let a point be the next to be tried."""
    study.enqueue_trial(point, user_attrs={} if retry_of is None else {"retry_of": retry_of})


def retry_failed(study: optuna.Study) -> None:
    """Queue the points of all trials that have failed again."""
    for trial in counted(study.get_trials(deepcopy=False)):
        if trial.state == TrialState.FAIL and point_of(trial):
            queue(study, point_of(trial), retry_of=first_number(trial))


def queue_grid(study: optuna.Study, space: Space, seed: int, limit: int | None) -> None:
    """Queue all points of a space, or the first `limit` in the order that the seed draws, which are not there yet."""
    there = {_key(point_of(trial)) for trial in counted(study.get_trials(deepcopy=False))}
    for point in points(space, seed=seed)[:limit]:
        if _key(point) not in there:
            queue(study, point)


def ask(study: optuna.Study, space: Space, sampler: str, limit: int | None, seed: int) -> optuna.Trial | None:
    """The next trial, drawn or from the queue; None when there is none left.

    Parameters
    ----------
    study : optuna.Study
    space : Space
    sampler : {"tpe", "random", "grid"}
    limit : int or None
        How many trials shall count in all; None: as many as the space has points.
    seed : int
        With the number of trials so far it decides what is drawn, also after a restart.
    """
    trials = study.get_trials(deepcopy=False)
    live = counted(trials)
    if not any(trial.state == TrialState.WAITING for trial in live):
        tried = {_key(point_of(trial)) for trial in live}
        if sampler == "grid" or len(live) >= (size(space) if limit is None else limit) or len(tried) >= size(space):
            return None
        if _stuck(trials):
            queue(study, _untried(space, tried, seed + len(trials)))
    study.sampler = make_sampler(sampler, seed + len(trials))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")  # hpo sends it itself
        return study.ask()


def _stuck(trials: Sequence[FrozenTrial]) -> bool:
    """Whether the sampler draws over and over what was tried already."""
    return len(trials) >= 5 and all({"void", "same_as"} & set(trial.user_attrs) for trial in trials[-5:])


def _untried(space: Space, tried: set[str], seed: int) -> dict[str, Value]:
    left = [point for point in points(space, seed=seed) if _key(point) not in tried] if not _has_range(space) else []
    return random.Random(seed).choice(left)


def _has_range(space: Space) -> bool:
    return any(isinstance(entry, Range) for entry in space.values())


def close_duplicate(study: optuna.Study, trial: optuna.Trial, space: Space, sampler: str, limit: int | None) -> bool:
    """Close a trial that is beyond the limit or of a point that another has; whether it was one."""
    trials = study.get_trials(deepcopy=False)
    live = counted(trials)
    me = next(each for each in trials if each.number == trial.number)
    same = [
        other
        for other in live
        if other.number != me.number
        and _key(point_of(other)) == _key(point_of(me))
        and (other.state.is_finished() or (other.state == TrialState.RUNNING and other.number < me.number))
    ]
    finished = [other for other in same if other.state == TrialState.COMPLETE]
    queued = "fixed_params" in me.system_attrs
    place = sum(other.number < me.number for other in live)
    if finished:
        trial.set_user_attr("same_as", first_number(finished[0]))
        study.tell(trial, finished[0].value)
    elif same:
        trial.set_user_attr("void", f"the point of trial {first_number(same[0])}")
        study.tell(trial, state=TrialState.FAIL)
    elif not queued and (sampler == "grid" or (limit is not None and place >= limit)):
        trial.set_user_attr("void", "beyond the number of trials")
        study.tell(trial, state=TrialState.FAIL)
    else:
        return False
    return True


def _key(point: dict[str, Value]) -> str:
    return repr(sorted((name, float(v) if isinstance(v, int) else v) for name, v in point.items()))

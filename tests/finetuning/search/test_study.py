"""Trials in the database: none is lost or tried twice, with several workers."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import filelock
import optuna
import pytest
from optuna.trial import TrialState

from nip.finetuning.search import study as search_study
from nip.finetuning.search.space import Range, suggest
from nip.finetuning.search.study import (
    ask,
    check_same_search,
    close_redundant,
    counted_trials,
    enqueue,
    enqueue_grid,
    open_storage,
    open_study,
    original_number,
    params_of,
    requeue_lost,
    retry_failed,
)

SPACE = {"x": (1, 2, 3), "y": ("a", "b")}


@pytest.fixture
def study(tmp_path):
    return open_study(open_storage(f"sqlite:///{tmp_path / 'search.db'}"), "test", "maximize", "none")


def take(study, sampler="random", limit=None, space=SPACE, seed=1):
    """The next trial that is to be performed."""
    while (trial := ask(study, space, sampler, limit, seed)) is not None:
        suggest(trial, space)
        if not close_redundant(study, trial, sampler, limit):
            return trial
    return None


def live(study):
    return counted_trials(study.get_trials())


def points_of(study, *states):
    return sorted(str(sorted(params_of(trial).items())) for trial in live(study) if trial.state in states)


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_every_point_is_tried_once(study, sampler):
    if sampler == "grid":
        enqueue_grid(study, SPACE, 1, None)
    while (trial := take(study, sampler)) is not None:
        study.tell(trial, trial.params["x"])
    assert len(points_of(study, TrialState.COMPLETE)) == len(set(points_of(study, TrialState.COMPLETE))) == 6
    assert len(live(study)) == 6


def test_concurrent_workers_try_no_point_twice_and_respect_the_limit(tmp_path):
    url = f"sqlite:///{tmp_path / 'search.db'}"

    def worker(index):
        mine = open_study(open_storage(url), "test", "maximize", "none")
        done = []
        while (trial := take(mine, limit=5, seed=index)) is not None:
            done.append(str(trial.params))
            mine.tell(trial, 1.0)
        return done

    open_study(open_storage(url), "test", "maximize", "none")
    with ThreadPoolExecutor(3) as pool:
        performed = [point for done in pool.map(worker, range(3)) for point in done]
    assert len(performed) == len(set(performed)) == 5


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_two_that_ask_for_the_last_trial_at_the_same_time(study, sampler):
    space = {"x": Range(0.0, 1.0)} if sampler == "random" else SPACE
    if sampler == "grid":
        enqueue(study, {"x": 1, "y": "a"})
    first, second = (
        ask(study, space, sampler, 1, 1),
        study.ask(),
    )  # the second has seen the queue before the first took it
    for trial in (first, second):
        suggest(trial, space)
    assert close_redundant(study, second, sampler, 1)
    assert not close_redundant(study, first, sampler, 1)
    assert [trial.number for trial in live(study)] == [first.number]


def test_a_trial_waits_for_the_parameters_of_those_before_it(study):
    """The first has its number but no parameters yet when the second, at the same point, is checked."""
    point = {"x": (1,)}
    first, second = study.ask(), study.ask()
    suggest(second, point)
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(lambda: (time.sleep(0.2), suggest(first, point)))
        assert close_redundant(study, second, "random", 5)
        drawn.result()
    assert not close_redundant(study, first, "random", 5)


def test_a_grid_that_is_queued_twice_runs_once(study):
    enqueue_grid(study, SPACE, 1, 4)
    for trial in [trial for trial in study.get_trials() if trial.state == TrialState.WAITING]:
        enqueue(study, params_of(trial))  # as another machine would at the same moment
    performed = []
    while (trial := take(study, "grid")) is not None:
        performed.append(str(trial.params))
        study.tell(trial, 0.5)
    assert len(performed) == len(set(performed)) == 4
    enqueue_grid(study, SPACE, 1, None)
    assert sum(trial.state == TrialState.WAITING for trial in live(study)) == 2


def test_a_running_point_is_not_run_again(study):
    enqueue(study, {"x": 1, "y": "a"})
    enqueue(study, {"x": 1, "y": "a"})
    first = take(study, "grid")
    assert take(study, "grid") is None
    study.tell(first, 1.0)
    assert [trial.number for trial in live(study)] == [first.number]


def test_a_finished_value_is_reused(study):
    enqueue(study, {"x": 1, "y": "a"})
    first = take(study, "grid")
    study.tell(first, 0.25)
    enqueue(study, {"x": 1, "y": "a"})
    assert take(study, "grid") is None
    again = study.get_trials()[-1]
    assert (again.value, again.user_attrs["same_as"]) == (0.25, first.number)


def perform_and_die(study, folder, name="dead.lock"):
    trial = take(study, limit=3)
    trial.set_user_attr("host", socket.gethostname())
    (folder / name).touch()
    trial.set_user_attr("lock", str(folder / name))
    return trial


def test_a_lost_trial_is_retried_under_its_number(study, tmp_path):
    lost = perform_and_die(study, tmp_path)
    requeue_lost(study)
    requeue_lost(study)  # nothing is queued twice
    (queued,) = live(study)
    assert (queued.state, original_number(queued), params_of(queued)) == (TrialState.WAITING, lost.number, lost.params)
    again = take(study, limit=1)
    assert again.params == lost.params and again.user_attrs["retry_of"] == lost.number
    again.set_user_attr("host", socket.gethostname())
    again.set_user_attr("lock", lost.user_attrs["lock"])
    requeue_lost(study)  # lost a second time
    last = take(study, limit=1)
    study.tell(last, 1.0)
    assert [original_number(trial) for trial in live(study)] == [lost.number]
    assert take(study, limit=1) is None


def test_two_that_queue_a_lost_trial_at_the_same_time(study, tmp_path):
    lost = perform_and_die(study, tmp_path)
    requeue_lost(study)
    enqueue(study, lost.params, retry_of=lost.number)
    study.tell(take(study, limit=1), 1.0)
    assert take(study, limit=1) is None
    assert [trial.state for trial in live(study)] == [TrialState.COMPLETE]


def test_running_trials_are_not_touched(study, tmp_path):
    with filelock.FileLock(tmp_path / "mine.lock"):
        perform_and_die(study, tmp_path, "mine.lock")
        other = perform_and_die(study, tmp_path)
        other.set_user_attr("host", "another machine")
        third = perform_and_die(study, tmp_path)
        third.set_user_attr("lock", "/no/such/folder/of/a/machine/that/is/called/the/same.lock")
        requeue_lost(study)
        assert [trial.state for trial in live(study)] == [TrialState.RUNNING] * 3


def test_a_trial_on_another_machine_is_lost_when_its_heartbeat_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(search_study, "HEARTBEAT", 1)
    monkeypatch.setattr(search_study, "GRACE", 1)
    storage = open_storage(f"sqlite:///{tmp_path / 'search.db'}")
    study = open_study(storage, "test", "maximize", "none")
    trial = perform_and_die(study, tmp_path)
    trial.set_user_attr("host", "another machine")
    storage.record_heartbeat(trial._trial_id)
    import time

    time.sleep(2.5)
    requeue_lost(study)
    assert [each.state for each in live(study)] == [TrialState.WAITING]


def test_a_failed_trial_is_retried_only_on_request(study, tmp_path):
    trial = take(study, limit=1)
    trial.set_user_attr("error", "out of memory")
    study.tell(trial, state=TrialState.FAIL)
    requeue_lost(study)
    assert take(study, limit=1) is None
    retry_failed(study)
    assert take(study, limit=1).user_attrs["retry_of"] == trial.number


def test_samples_depend_on_the_seed_only(tmp_path):
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        study = open_study(open_storage(f"sqlite:///{tmp_path / name}"), "test", "maximize", "none")
        space = {"x": Range(0.0, 1.0)}
        drawn.append([])
        for _ in range(12):
            study = open_study(study._storage, "test", "maximize", "none")  # as after a restart
            trial = take(study, "tpe", 12, space, seed)
            drawn[-1].append(trial.params["x"])
            study.tell(trial, -((trial.params["x"] - 0.3) ** 2))
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 12


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("deaths", [(0,), (3, 4), (2, 2, 11), (11, 13)])
def test_a_search_whose_processes_die_draws_what_an_uninterrupted_one_does(tmp_path, sampler, deaths):
    """After a trial was drawn, and before it had all its parameters."""
    space = {"x": Range(0.0, 1.0), "y": (1, 2, 3)}
    found = []
    for name, moments in (("full", ()), ("drawn", deaths), ("undrawn", deaths)):
        study = open_study(open_storage(f"sqlite:///{tmp_path / name}"), "test", "maximize", "none")
        left, lock = list(moments), tmp_path / f"{name}.lock"
        lock.touch()
        while True:
            requeue_lost(study)
            died = len([trial for trial in live(study) if trial.state == TrialState.COMPLETE]) in left
            trial = ask(study, space, sampler, 14, 1) if died and name == "undrawn" else take(study, sampler, 14, space)
            if trial is None:
                break
            if died:
                left.remove(len([trial for trial in live(study) if trial.state == TrialState.COMPLETE]))
                trial.set_user_attr("host", socket.gethostname())
                trial.set_user_attr("lock", str(lock))
                continue
            study.tell(trial, -((trial.params["x"] - 0.3) ** 2) + trial.params["y"])
        assert all(trial.state == TrialState.COMPLETE for trial in live(study))
        found.append(sorted((original_number(trial), trial.value, trial.params) for trial in live(study)))
    assert len(found[0]) == 14
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_the_study_of_another_search_raises(study):
    check_same_search(study, {"metric": "f1", "flags": ["--a"]})
    check_same_search(study, {"metric": "f1", "flags": ["--b"]})  # nothing was tried yet
    take(study, limit=1)
    check_same_search(study, {"metric": "f1", "flags": ["--b"]})
    with pytest.raises(ValueError, match=r"'test' in this storage is another search, of other flags: \[\"--b\"\]"):
        check_same_search(study, {"metric": "f1", "flags": ["--a"]})
    with pytest.raises(ValueError, match="is to maximize its metric, not to minimize it"):
        open_study(study._storage, "test", "minimize", "none")


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("nonsense", ValueError, "takes the URL of a database, .* Got 'nonsense'"),
        ("sqlite:////no/such/folder/a.db", OSError, "cannot be reached .*unable to open"),
        ("mysql+nodriver://u:secret@h/d", OSError, r"mysql\+nodriver://u:\*\*\*@h/d cannot be reached"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/d", (OSError, ImportError), r"u:\*\*\*@127.0.0.1"),
    ],
)
def test_a_storage_that_cannot_be_reached(url, error, says):
    with pytest.raises(error, match=says) as raised:
        open_storage(url)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_not_a_database(tmp_path):
    (tmp_path / "a.db").write_text("no database at all, " * 100)
    with pytest.raises(OSError, match="not a database"):
        open_storage(f"sqlite:///{tmp_path / 'a.db'}")


def test_pruners():
    kinds = {name: type(search_study.make_pruner(name)) for name in search_study.PRUNERS}
    assert kinds == {
        "median": optuna.pruners.MedianPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "none": optuna.pruners.NopPruner,
    }


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(ValueError, match="is a database in memory, which ends with the command"):
        open_storage(url)

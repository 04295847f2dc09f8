import dataclasses
import json

import pytest

from nip.lra.config import RunConfig
from nip.study import panel
from run_folders import small_config, write_run


def planned(patterns="hypercube,local", seeds=(0, 1), depths=(), **given):
    return panel.plan(panel.read_members(patterns), seeds, depths, lambda own, folder: small_config(**{**given, **own}))


def test_every_pattern_depth_and_seed_has_a_run_of_its_own():
    runs = planned("softmax,projective_plane@order=2@seq_len=224,bigbird@seed=3@data=elsewhere", depths=(2, 3))
    assert len(runs) == 12 and len({run.name for run in runs}) == 12
    # seed after seed, so that what is interrupted has every pattern
    assert [run.config.seed for run in runs] == [0] * 6 + [1] * 6
    by_name = {run.name: run for run in runs}
    plane = by_name["projective_plane-order2-seq_len224-depth3-seed1"]
    assert plane.config == small_config(
        model="projective_plane", parameters={"order": 2}, seq_len=224, layers=3, seed=1
    )
    big = by_name["bigbird-seed3-dataelsewhere-depth2-seed0"]
    assert big.config.parameters == {"seed": 3} and big.config.seed == 0
    assert big.data.endswith("/elsewhere") and plane.data is None


def test_a_graph_file_stands_for_a_pattern(tmp_path, monkeypatch):
    (tmp_path / "ring.txt").write_text("0 1\n1 2\n")
    monkeypatch.chdir(tmp_path)
    (member,) = panel.read_members("ring.txt@seq_len=48")
    assert dict(member.settings) == {"graph": str(tmp_path / "ring.txt"), "seq_len": 48}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hypercub", "There is no pattern 'hypercub'"),
        (" , ", "names no pattern"),
        ("local,local", "names local twice"),
        ("local@seq_len", "@ must be followed by setting=value"),
        ("local@seq_len=1@seq_len=2", "names 'seq_len' twice"),
        ("local@seed=3", "--seeds sets it"),
        ("local@task=text", "--task sets it"),
        ("local@checksum=3", "local has no setting 'checksum'"),
    ],
)
def test_members_that_are_none(text, says):
    with pytest.raises(ValueError, match=says):
        panel.read_members(text)


def test_plans_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--seeds names no seed"):
        planned(seeds=())
    with pytest.raises(ValueError, match="--depths names 2 twice"):
        planned(depths=(2, 2))
    with pytest.raises(ValueError, match="has a depth of its own"):
        planned("local@layers=3", depths=(2,))
    with pytest.raises(ValueError, match="would share the folder ring-1"):
        (tmp_path / "ring(1").write_text("0 1\n")
        (tmp_path / "ring[1").write_text("0 1\n")
        monkeypatch.chdir(tmp_path)
        planned("ring(1,ring[1")
    with pytest.raises(ValueError, match="longer than the position table"):
        planned("local@seq_len=9999")


def test_the_plan_on_disk_is_the_plan(tmp_path):
    runs = planned("local@data=x,bigbird@num_random_blocks=1")
    panel.write_plan(tmp_path / "study", runs)
    assert panel.read_plan(tmp_path / "study") == runs
    assert panel.read_plan(tmp_path) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": [{}]}', '{"runs": [{"name": "a"}]}', '{"runs": 3}'])
def test_a_damaged_plan_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json is not the plan of a study"):
        panel.read_plan(tmp_path)


def test_a_plan_grows_and_nothing_in_it_changes():
    first = planned("hypercube")
    both = panel.extended(first, planned("local,hypercube", max_steps=300))
    assert [run.name for run in both] == ["hypercube-seed0", "hypercube-seed1", "local-seed0", "local-seed1"]
    assert {run.config.max_steps for run in both} == {300}
    with pytest.raises(ValueError, match="planned hypercube-seed0 with other settings: max_steps is 300 there"):
        panel.extended(both, first)
    with pytest.raises(ValueError, match=r"dropout is 0\.1 there and 0\.5 here"):
        panel.extended(first, planned("hypercube", dropout=0.5))
    moved = [dataclasses.replace(run, data="/elsewhere") for run in first]
    with pytest.raises(ValueError, match="data is None there"):
        panel.extended(first, moved)


def test_finished_is_what_has_done_its_steps_with_its_settings(tmp_path):
    run, other = planned("hypercube")
    assert not panel.finished(tmp_path, run)
    # what a run found and what it left to the machine is no difference
    there = dataclasses.replace(run.config, gradient_accumulation=4, precision="fp32", data="sum")
    write_run(tmp_path, there, name=run.name)
    assert panel.finished(tmp_path, run)
    longer = dataclasses.replace(run, config=dataclasses.replace(run.config, max_steps=900))
    assert not panel.finished(tmp_path, longer)
    write_run(tmp_path, other.config, name=other.name, finished=False)
    assert not panel.finished(tmp_path, other)
    changed = dataclasses.replace(run, config=dataclasses.replace(run.config, dropout=0.5))
    with pytest.raises(ValueError, match=r"holds another run: dropout is 0\.1 there and 0\.5 here"):
        panel.finished(tmp_path, changed)


def test_every_setting_of_a_run_survives_the_plan(tmp_path):
    (run,) = planned("local", seeds=(3,), depths=(5,), batch_size=7, eval_every=11, weight_decay=0.25)
    panel.write_plan(tmp_path, [run])
    (read,) = json.loads((tmp_path / "plan.json").read_text())["runs"]
    assert RunConfig(**read["config"]) == run.config
    assert (run.config.layers, run.config.batch_size, run.config.eval_every) == (5, 7, 11)


def test_configurations_may_depend_on_the_data_of_a_pattern():
    asked = []

    def configure(own, folder):
        asked.append((own["model"], folder))
        return small_config(**own)

    panel.plan(panel.read_members("softmax,local@data=other"), (0,), (), configure, data="usual")
    assert asked == [("softmax", "usual"), ("local", "other")]

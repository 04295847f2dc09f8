import math

import pytest

from nip.runs.accuracy import wilson_interval
from nip.runs.record import find_records
from nip.study import find
from nip.study.finding import Group, difference, differing, grouped
from run_folders import small_config, write_run


def runs(tmp_path, *given):
    for k, (settings, outcome) in enumerate(given):
        write_run(tmp_path / "runs", small_config(**settings), name=f"run-{k}", **outcome)
    return find_records([tmp_path / "runs"])


def test_difference_equals_newcombes_published_example(tmp_path):
    # Newcombe 1998, table II, (a): 56/70 − 48/80, method 10: 0.0524 to 0.3339
    first, second = runs(
        tmp_path,
        ({}, {"test_accuracy": 56 / 70, "interval": list(wilson_interval(56, 70))}),
        ({"model": "local"}, {"test_accuracy": 48 / 80, "interval": list(wilson_interval(48, 80))}),
    )
    gap, interval = difference(Group("a", (first,)), Group("b", (second,)))
    assert gap == pytest.approx(0.2)
    assert interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
    gap, interval = difference(Group("b", (second,)), Group("a", (first,)))
    assert interval == pytest.approx((-0.3339, -0.0524), abs=5e-5)


def test_difference_of_seeds_is_welchs(tmp_path):
    ours, theirs = (760, 780, 800), (700, 720)
    read = runs(
        tmp_path,
        *(({"seed": k}, {"correct": c}) for k, c in enumerate(ours)),
        *(({"seed": k, "model": "local"}, {"correct": c}) for k, c in enumerate(theirs)),
    )
    gap, interval = difference(*grouped(read))
    # by hand: means .39 and .355, variances 1e-4 and 5e-5, squared errors 1e-4/3 and 5e-5/2
    e1, e2 = 1e-4 / 3, 5e-5 / 2
    freedom = (e1 + e2) ** 2 / (e1**2 / 2 + e2**2 / 1)
    assert freedom == pytest.approx(2.8824, abs=1e-4)
    t = 3.2572  # two-sided 5 % point of Student's t at 2.8824 degrees of freedom
    assert gap == pytest.approx(0.035)
    assert interval == pytest.approx((0.035 - t * math.sqrt(e1 + e2), 0.035 + t * math.sqrt(e1 + e2)), abs=2e-5)


def test_one_seed_against_several_has_no_interval(tmp_path):
    read = runs(tmp_path, ({"seed": 1}, {}), ({"seed": 2}, {"correct": 760}), ({"model": "local"}, {"correct": 700}))
    assert difference(*grouped(read))[1] is None
    assert any("too few seeds" in note for note in find(read)[0].notes)


def test_the_sentence_says_who_learned(demo):
    (finding,) = find(find_records([demo]))
    assert finding.sentence == (
        "On listops, hypercube reached 39.5 % (95 % interval 37.4–41.7) and local reached 35.0 % (95 % interval "
        "32.9–37.1); knowing only the root operator gives 36.3 %, so only hypercube has learned more than that."
    )
    assert finding.notes == (
        "hypercube leads local by 4.5 points (95 % interval +1.5 to +7.5): more than chance alone would give.",
        "One seed does not show how much the result varies between seeds.",
        "1 unfinished run is shown below but not compared.",
    )


@pytest.mark.parametrize(
    ("correct", "said"),
    [
        ((700, 720), "so neither has been shown to have learned more than that."),
        ((800, 820), "so both have learned more than that."),
        ((700, 710, 720), "so none has been shown to have learned more than that."),
        ((700,), "so it has not been shown to have learned more than that."),
        ((800, 810, 700), "so only softmax and hypercube have learned more than that."),
    ],
)
def test_above_chance_is_not_learned(tmp_path, correct, said):
    models = ("hypercube", "softmax", "local")
    read = runs(tmp_path, *(({"model": m}, {"correct": c}) for m, c in zip(models, correct, strict=False)))
    assert find(read)[0].sentence.endswith(said)


def test_overlap_leaves_the_order_open(tmp_path):
    read = runs(tmp_path, ({}, {"correct": 780}), ({"model": "local"}, {"correct": 760}))
    assert "95 % interval −2.0 to +4.0): no more than chance may give, so the order is open." in find(read)[0].notes[0]


def test_of_many_groups_the_first_and_the_last_are_spelt_out(tmp_path):
    names = ["hypercube", "local", "global", "bigbird", "longformer", "random", "softmax", "expander"]
    read = runs(
        tmp_path,
        *(({"model": name}, {"correct": 900 - 40 * place}) for place, name in enumerate(names)),
    )
    (finding,) = find(read)
    assert finding.sentence.startswith("On listops, of 8 settings hypercube reached 45.0 % (")
    assert "and, last, expander reached 31.0 %" in finding.sentence and "bigbird" not in finding.sentence
    learned = sum(one.result.learned for one in read)
    assert 0 < learned < 8 and f"so {learned} of 8 runs have learned more than that." in finding.sentence
    ends = {one.label: difference(finding.groups[0], one)[1] for one in finding.groups[1:]}
    for note, sure in zip(finding.notes, (True, False), strict=False):
        assert {name for name in names if name in note.split(": ")[1]} == {
            n for n, e in ends.items() if (e[0] > 0) == sure
        }


def test_nothing_is_claimed_without_baseline_interval_or_result(tmp_path):
    read = runs(tmp_path, ({}, {"baselines": {}}))
    assert "without a recorded baseline it is not known" in find(read)[0].sentence
    read = runs(tmp_path / "b", ({}, {"interval": None}))
    assert "without an interval it is not known" in find(read)[0].sentence
    read = runs(tmp_path / "c", ({}, {"finished": False}))
    assert find(read)[0].sentence == "No run on listops has finished yet, so there is nothing to compare."


def test_seeds_are_one_group_and_other_settings_are_not(tmp_path):
    read = runs(
        tmp_path,
        ({"seed": 1}, {"correct": 780}),
        ({"seed": 2}, {"correct": 800}),
        ({"seed": 1, "learning_rate": 1e-3}, {"correct": 700}),
    )
    groups = grouped(read)
    assert [(g.label, len(g.runs)) for g in groups] == [
        ("hypercube, learning_rate 0.0001", 2),
        ("hypercube, learning_rate 0.001", 1),
    ]
    (finding,) = find(read)
    assert "hypercube, learning_rate 0.0001 reached 39.5 % (mean of 2 seeds, 39.0–40.0)" in finding.sentence
    assert "so only hypercube, learning_rate 0.0001 (2 of 2 seeds) has learned" in finding.sentence
    assert "The runs differ in more than the pattern: learning_rate (0.0001 / 0.001)." in finding.notes


def test_what_differs_is_named_but_for_the_seed_and_the_backend(tmp_path):
    read = runs(
        tmp_path,
        ({"seed": 1, "backend": "gather"}, {}),
        ({"seed": 2, "model": "bigbird", "parameters": {"num_random_blocks": 2}, "dropout": 0.0}, {}),
    )
    assert set(differing(read)) == {"model", "parameters", "dropout", "checksum"}
    assert differing(read)["parameters"] == ["default", "num_random_blocks=2"]
    assert differing(read[:1]) == {}

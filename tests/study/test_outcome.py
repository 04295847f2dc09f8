import dataclasses
import json
import math
import shutil
from xml.etree import ElementTree

import pytest
from scipy import stats

from nip import pattern, score
from nip.cli.study import RemainingTime
from nip.report.scatter import Plot, Point, draw_panel, picture
from nip.report.study_tables import accuracy_rows, correlation_rows, to_console, to_markdown, write_results
from nip.scoring.reach import reach
from nip.study import panel
from nip.study.execute import Outcome
from nip.study.outcome import evaluate, native_vertices, panels, to_dict
from run_folders import small_config, write_run

PATTERNS = "softmax,hypercube,local,bigbird,projective_plane@seq_len=224"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Five patterns and two seeds, of which one run is not finished; and what was planned."""
    folder = tmp_path_factory.mktemp("study")
    runs = panel.plan(panel.read_members(PATTERNS), (0, 1), (), lambda own, folder: small_config(**own))
    for number, run in enumerate(runs):
        write_run(folder, run.config, name=run.name, correct=700 + 15 * number, finished=run.name != "local-seed1")
    return folder, runs


@pytest.fixture(scope="module")
def found(study):
    return evaluate(*study)


def test_accuracy_over_the_seeds(found):
    cells = {cell.label: cell for cell in found.cells}
    assert cells["softmax"].accuracies == {0: 700 / 2000, 1: 775 / 2000}
    assert cells["softmax"].accuracy.mean == pytest.approx(737.5 / 2000)
    assert cells["local"].missing == ("local-seed1",) and cells["local"].accuracy.n == 1
    assert cells["softmax"].depth == 4 and cells["softmax"].baseline == 0.3634
    assert found.cells[0].label == "projective_plane@seq_len=224"
    assert "1 of 10 runs have no result yet." in found.notes
    assert "The inputs have 224 or 256 tokens." in found.notes


def test_other_differences_between_runs_are_noted(study, found, tmp_path):
    folder, runs = tmp_path / "study", study[1]
    shutil.copytree(study[0], folder)
    assert not any("differ in more" in note for note in found.notes)
    (run,) = (run for run in runs if run.name == "local-seed0")
    shorter = dataclasses.replace(run.config, max_steps=run.config.max_steps // 2, batch_size=5)
    other = dataclasses.replace(run, name="local-other", label="local@batch_size=5", config=shorter)
    write_run(folder, shorter, name=other.name)
    notes = evaluate(folder, [*runs, other]).notes
    (note,) = (note for note in notes if "differ in more" in note)
    assert f"max_steps ({run.config.max_steps} or {shorter.max_steps})" in note.replace(",000", "000")
    assert f"batch_size ({run.config.batch_size} or 5)" in note and "seq_len" not in note


def test_the_graphs_are_those_of_the_runs(found):
    cells = {cell.label: cell.graph for cell in found.cells}
    assert cells["hypercube"].vertices == score(pattern("hypercube", 16))
    assert cells["hypercube"].tokens == score(pattern("hypercube", 16), 16)
    assert cells["bigbird"].at_depth == reach(pattern("bigbird", 16), 4, 16)
    assert cells["projective_plane@seq_len=224"].vertices.n_vertices == 14


def test_correlations_are_of_means_against_scores(found):
    one = next(
        f.correlation for f in found.found if (f.predictor, f.correlation.kind) == ("log10_nip_tokens", "pearson")
    )
    x = [cell.graph.tokens.log10_nip_relative for cell in found.cells]
    y = [cell.accuracy.mean for cell in found.cells]
    assert one.r == pytest.approx(stats.pearsonr(x, y).statistic) and one.n == 5
    assert len(found.found) == 14


def test_depths_are_kept_apart(tmp_path):
    runs = panel.plan(
        panel.read_members("softmax,hypercube,local"), (0,), (1, 3), lambda own, folder: small_config(**own)
    )
    for number, run in enumerate(runs):
        write_run(tmp_path, run.config, name=run.name, correct=700 + number)
    both = evaluate(tmp_path, runs)
    assert both.depths() == [2, 6] and len(both.found) == 28
    cubes = [cell.graph.at_depth.reach for cell in both.cells if cell.label == "hypercube"]
    assert cubes == [reach(pattern("hypercube", 16), h, 16).reach for h in (2, 6)]


def test_cut_patterns_are_marked(tmp_path):
    settings = {"projective_plane": 14, "hypercube": 16}
    for name, n in settings.items():
        assert native_vertices(score(pattern(name, n))) == n
    assert native_vertices(score(pattern("projective_plane", 16))) in (14, 26)
    assert native_vertices(score(pattern("hypercube", 14))) == 16
    assert native_vertices(score(pattern("local", 14))) is None
    runs = panel.plan(panel.read_members("hypercube"), (0,), (), lambda own, folder: small_config(**own, seq_len=224))
    write_run(tmp_path, runs[0].config, name=runs[0].name)
    cut = evaluate(tmp_path, runs)
    assert accuracy_rows(cut)[0]["pattern"] == "hypercube (cut)"
    assert "hypercube is cut: it has 14 vertices, its native size is 16." in cut.notes


def test_a_nip_of_zero_is_counted_openly(tmp_path):
    """On 64 blocks a single random key leaves some block unheard."""
    text = "softmax,hypercube,local,expander,random@num_random_blocks=1"
    runs = panel.plan(panel.read_members(text), (0,), (), lambda own, folder: small_config(**own, block_size=4))
    for number, run in enumerate(runs):
        write_run(tmp_path, run.config, name=run.name, correct=700 + 7 * number)
    outcome = evaluate(tmp_path, runs)
    assert any(note.startswith("NIP 0") and "random@num_random_blocks=1" in note for note in outcome.notes)
    by = {(f.predictor, f.correlation.kind): f.correlation for f in outcome.found}
    plain, ranked = (by["log10_nip_vertices", kind] for kind in ("pearson", "spearman"))
    assert (plain.n, plain.left_out, ranked.n) == (4, 1, 5)
    (row,) = [row for row in correlation_rows(outcome.found) if row["accuracy against"] == "log10 NIP, vertices"]
    assert row["n"] == "4 (1 at 0 left out)"
    assert "NIP 0" in draw_panel(outcome)["log10-nip-vertices"]
    json.dumps(outcome.to_dict(), allow_nan=False)


def test_the_outcome_names_what_every_run_took(study, found):
    folder, _ = study
    outcome = found.to_dict()
    runs = {run["name"]: run for run in outcome["runs"]}
    finished = {run.name: run for cell in found.cells for run in cell.runs}
    assert set(runs) == set(finished) == {path.parent.name for path in folder.glob("*/result.json")}
    for name, run in runs.items():
        result = json.loads((folder / name / "result.json").read_text())
        assert [run[key] for key in ("test_accuracy", "seconds")] == [
            result.get(key) for key in ("test_accuracy", "seconds")
        ]
    configs = [cell.config for cell in found.cells]
    assert outcome["settings"]["task"] == "listops"
    assert "seed" not in outcome["settings"] and "model" not in outcome["settings"]
    assert all(getattr(configs[0], key) == value for key, value in outcome["settings"].items())


def test_an_accuracy_has_no_interval_beyond_its_scale(tmp_path):
    runs = panel.plan(panel.read_members("softmax"), (0, 1), (), lambda own, folder: small_config(**own))
    for run, correct in zip(runs, (1990, 1790), strict=True):
        write_run(tmp_path, run.config, name=run.name, correct=correct)
    (cell,) = evaluate(tmp_path, runs).cells
    assert cell.accuracy.interval[1] == 1.0 and 0.0 <= cell.accuracy.interval[0] < 0.9


def test_all_forms_say_the_same(study, found, tmp_path, capsys):
    outcome = {**found.to_dict(), "failed": [{"run": "local-seed1", "error": "no memory", "log": "x"}]}
    write_results(tmp_path, [found], outcome)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(outcome))
    text = (tmp_path / "results.md").read_text()
    assert text == to_markdown(found, outcome, list(draw_panel(found)))
    to_console(found)
    printed = capsys.readouterr().out
    for row in accuracy_rows(found):
        assert "| " + " | ".join(row.values()) + " |" in text
        assert row["pattern"] in printed and row["accuracy"] in printed
    assert "local-seed1 failed: no memory" in text
    for picture_file in tmp_path.glob("*.svg"):
        assert f"({picture_file.name})" in text


def test_the_papers_points_stand_beside_ours(found):
    root = ElementTree.fromstring(draw_panel(found)["log10-nip-vertices"])
    names = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "the paper: Long Range Arena, mean of five tasks" in names and "softmax" in names
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 5 + 5


def test_points_stand_where_their_values_are():
    points = (Point("a", 0.0, 10.0), Point("b", 1.0, 20.0), Point("c", 3.0, 15.0), Point("z", -math.inf, 12.0))
    root = ElementTree.fromstring(picture([Plot("t", "x", points)]))
    by = {}
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        by[circle[0].text.split(":")[0]] = float(circle.get("cx")), float(circle.get("cy"))
    assert (by["c"][0] - by["b"][0]) == pytest.approx(2 * (by["b"][0] - by["a"][0]), abs=0.3)
    assert (by["a"][1] - by["c"][1]) == pytest.approx(by["c"][1] - by["b"][1], abs=0.3)
    assert by["b"][1] < by["a"][1] and by["z"][0] < by["a"][0]


def test_names_lie_on_no_other_name():
    points = [Point(f"pattern number {k}", 0.01 * k, 50 + 0.1 * k) for k in range(9)]
    root = ElementTree.fromstring(picture([Plot("t", "x", (*points, Point("far", 9.0, 60.0)))]))
    texts = [text for text in root.iter("{http://www.w3.org/2000/svg}text") if "name" in text.get("class")]
    assert len(texts) == 10
    spans = []
    for text in texts:
        width, x = 6.2 * len(text.text), float(text.get("x"))
        spans.append(
            (x - width, x, float(text.get("y"))) if "end" in text.get("class") else (x, x + width, float(text.get("y")))
        )
    for k, (start, stop, line) in enumerate(spans):
        assert not any(abs(line - y) < 10.5 and start < b and a < stop for a, b, y in spans[k + 1 :])


def test_progress(study):
    folder, runs = study
    waiting = [run for run in runs if run.label in ("softmax", "hypercube")]
    progress = RemainingTime(folder, waiting, total=len(runs))
    first = progress.ended(Outcome("softmax-seed0", None, 100.0, "log"))
    assert first.startswith("7 of 10: softmax-seed0 35.0 % (1 min 40 s); about ")
    assert progress.ended(Outcome("hypercube-seed0", "no memory", 5.0, "log")).startswith(
        "8 of 10: hypercube-seed0 failed: no memory (5 s)"
    )
    progress._began -= 105.0  # one at a time: what is left takes as long as what was
    assert progress.seconds_left() == pytest.approx(200, rel=0.01)
    progress._began += 52.5  # two at a time
    assert progress.seconds_left() == pytest.approx(100, rel=0.01)


def test_a_changed_run_is_refused(tmp_path):
    (run,) = panel.plan(panel.read_members("local"), (0,), (), lambda own, folder: small_config(**own))
    write_run(tmp_path, dataclasses.replace(run.config, dropout=0.5), name=run.name)
    with pytest.raises(ValueError, match="holds another run: dropout"):
        evaluate(tmp_path, [run])


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """Three patterns on two tasks of other lengths, two seeds; one run is not finished."""
    folder = tmp_path_factory.mktemp("tasks")

    def configure(own, folder):
        return small_config(**{"seq_len": 512 if own["task"] == "text" else 256, **own})

    members = panel.read_members("softmax,hypercube,local")
    runs = panel.plan(members, (0, 1), (), configure, tasks=["listops", "text"])
    for number, run in enumerate(runs):
        write_run(folder, run.config, name=run.name, correct=700 + 15 * number, finished=run.name != "text-local-seed1")
    return folder, runs


def test_runs_on_several_tasks_have_folders_of_their_own(two_tasks):
    names = [run.name for run in two_tasks[1]]
    assert names[:4] == [
        "listops-softmax-seed0",
        "listops-hypercube-seed0",
        "listops-local-seed0",
        "text-softmax-seed0",
    ]
    assert len(set(names)) == 12


def test_accuracies_are_averaged_over_tasks(two_tasks):
    listops, text, mean = panels(*two_tasks)
    assert [listops.task, text.task] == ["listops", "text"] and "average of listops, text" in mean.task
    for cell in mean.cells:
        of_tasks = [next(c for c in each.cells if c.label == cell.label) for each in (listops, text)]
        for seed, accuracy in cell.accuracies.items():
            assert accuracy == pytest.approx(sum(each.accuracies[seed] for each in of_tasks) / 2)
        assert cell.accuracy.mean == pytest.approx(sum(cell.accuracies.values()) / len(cell.accuracies))
    local = next(cell for cell in mean.cells if cell.label == "local")
    assert list(local.accuracies) == [0] and local.missing == ("text-local-seed1",)
    assert any("a seed counts where" in note for note in mean.notes)


def test_the_average_is_correlated_with_the_scores_of_the_longest_graphs(two_tasks):
    *_, mean = panels(*two_tasks)
    assert any("text, 512 tokens" in note for note in mean.notes)
    cube = next(cell for cell in mean.cells if cell.label == "hypercube")
    assert cube.graph.vertices.n_vertices == cube.config.n_blocks == 512 // cube.config.block_size
    values = [cell.graph.predictors()["log10_nip_vertices"] for cell in mean.cells]
    means = [cell.accuracy.mean for cell in mean.cells]
    one = next(f for f in mean.found if f.predictor == "log10_nip_vertices" and f.correlation.kind == "spearman")
    assert one.correlation.r == pytest.approx(stats.spearmanr(values, means).statistic)


def test_the_outcome_on_several_tasks(two_tasks, tmp_path):
    found = panels(*two_tasks)
    outcome = {**to_dict(found), "failed": [{"run": "text-local-seed1", "error": "no memory", "log": "x"}]}
    write_results(tmp_path, found, outcome)
    there = json.loads((tmp_path / "results.json").read_text())
    assert list(there["tasks"]) == ["listops", "text"] and len(there["average"]["cells"]) == 3
    page = (tmp_path / "results.md").read_text()
    assert page.count("# Study of ") == 3 and page.count("text-local-seed1 failed: no memory") == 1
    for picture_file in tmp_path.glob("*.svg"):
        assert f"({picture_file.name})" in page
    assert (tmp_path / "average-reach.svg").is_file() and (tmp_path / "text-reach.svg").is_file()


def test_a_pattern_on_one_task_only_has_no_average(two_tasks, tmp_path):
    folder, runs = two_tasks
    *_, mean = panels(folder, [run for run in runs if not run.name.startswith("text-local")])
    assert {cell.label for cell in mean.cells} == {"softmax", "hypercube"}
    assert any(note.endswith("left out of the average: local.") for note in mean.notes)


def test_one_task_is_as_before(study, found):
    assert to_dict(panels(*study)) == found.to_dict()


def test_recipes_of_other_depths_are_averaged_and_noted(tmp_path):
    def configure(own, folder):
        return small_config(**{"repeats": 1 if own["task"] == "text" else 2, **own})

    runs = panel.plan(panel.read_members("softmax,local"), (0,), (1, 2), configure, tasks=["listops", "text"])
    for run in runs:
        write_run(tmp_path, run.config, name=run.name)
    *_, mean = panels(tmp_path, runs)
    assert sorted((cell.label, cell.layers) for cell in mean.cells) == [
        ("local", 1), ("local", 2), ("softmax", 1), ("softmax", 2),
    ]  # fmt: skip
    assert "The tasks' recipes apply attention a different number of times: listops 2 or 4, text 1 or 2." in mean.notes

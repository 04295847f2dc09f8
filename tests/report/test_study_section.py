import html
import re

import pytest

from nip.report.page import write_report
from nip.report.scatter import draw_panel
from nip.report.study_tables import accuracy_rows, correlation_rows
from nip.study import panel
from nip.study.outcome import evaluate
from run_folders import small_config, write_run


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    members = panel.read_members("softmax,hypercube,local,bigbird,longformer")
    runs = panel.plan(members, (0, 1), (), lambda own, folder: small_config(**own))
    panel.write_plan(folder, runs)
    for number, run in enumerate(runs):
        write_run(folder, run.config, name=run.name, correct=700 + 15 * number, finished=run.name != "local-seed1")
    return folder, runs


def rows_of(page, heading):
    """The text of the rows of the first table behind a heading."""
    table = re.search(r"<table>(.*?)</table>", page[page.index(heading) :], re.S).group(1)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)]
    return [[html.unescape(text) for text in row] for row in cells]


def test_a_study_s_folder_gets_the_study_s_tables_and_pictures(study, tmp_path):
    folder, runs = study
    write_report([folder, folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    found = evaluate(folder, runs)
    heading, *rows = rows_of(page, "Study of listops")
    assert rows == [list(row.values()) for row in accuracy_rows(found)] and "95 % interval" in heading
    heading, *rows = rows_of(page, "Each point is a pattern")
    assert rows == [list(row.values()) for row in correlation_rows(found.found)] and "Spearman" in heading
    assert any(row[2] not in ("–", "") for row in rows)
    assert page.count('src="data:image/svg+xml;base64,') == len(draw_panel(found)) > 5
    assert page.count("Study of listops") == 1  # named twice, shown once
    assert "1 of 10 runs have no result yet." in page


def test_runs_without_a_plan_get_none(study, tmp_path):
    folder, _ = study
    (folder / "plan.json").unlink()
    write_report([folder], tmp_path / "report.html")
    assert "Study of" not in (tmp_path / "report.html").read_text("utf-8")

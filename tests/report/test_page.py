import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nip.graphs import Pattern, names_at
from nip.report.page import write_report
from run_folders import small_config, write_run

HOSTILE = "<script>alert('x')</script>\"><img src=//evil.example onerror=alert(1)>"
VOID = {"meta", "input", "img", "link", "br", "hr", "base", "source", "embed"}


class Page(HTMLParser):
    """The page as a browser takes it apart: elements with their attributes, and every table as rows of text."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.tables, self.text = [], [], [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += " " + data

    def those(self, tag, class_=""):
        wanted = set(class_.split())
        return [a for name, a in self.elements if name == tag and wanted <= set((a.get("class") or "").split())]


@pytest.fixture
def page(demo, tmp_path):
    write_report([demo], tmp_path / "report.html")
    return Page(tmp_path / "report.html")


def test_the_page_is_well_formed_and_loads_nothing(page):
    assert page.open == []
    for name, attributes in page.elements:
        assert name not in ("link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "href", "xlink:href", "srcset", "action"} & set(attributes)
        assert not any(key.startswith("on") for key in attributes)
    assert "url(" not in page.source and "@import" not in page.source and "http" not in page.text
    (policy,) = [a["content"] for a in page.those("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")


def test_it_is_small(page):
    assert len(page.source) < 500_000


def test_the_finding_comes_first(page):
    order = ["hypercube reached 39.5", "Runs", "Graphs, scored", "Attention masks", "Learning curves"]
    order.append("Reproduction")
    places = [page.text.index(part) for part in order]
    assert places == sorted(places)


def test_the_table_of_runs_has_every_run_and_its_numbers(page):
    head, *rows = page.tables[0]
    columns = [" ".join(cell.split()) for cell in head]
    assert columns == [
        *("run", "test accuracy", "commonest label", "root operator", "learned"),
        *("dev accuracy", "steps", "tokens/s", "trained for"),
    ]
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    assert cells == [
        [
            "bigbird (num_random_blocks=1) listops, seed 42, clean",
            "unfinished",
            "–",
            "–",
            "–",
            *("29.2 % latest, step 100", "120 of 200", "–", "48 s"),
        ],
        [
            "hypercube listops, seed 42, clean",
            "39.5 % 37.4–41.7 of 2,000",
            "17.1 %",
            "36.3 %",
            "learned",
            *("39.9 % at step 150", "200", "20,480", "1 min 20 s"),
        ],
        [
            "local listops, seed 42, clean",
            "35.0 % 32.9–37.1 of 2,000",
            "17.1 %",
            "36.3 %",
            "not shown",
            *("35.4 % at step 150", "200", "20,480", "1 min 20 s"),
        ],
    ]


def test_the_table_of_graphs_has_all_patterns_and_the_runs_own(page):
    _, *rows = page.tables[1]
    assert sorted(row[0].strip() for row in rows) == sorted([*names_at(16), "bigbird (num_random_blocks=1)"])
    assert len(page.those("figure", "mask")) == 11


def test_every_run_has_its_curves_in_its_colour(page):
    groups = page.those("g", "series")
    charts = [a for a in page.those("figure", "chart") if a["class"] == "chart"]
    assert len(charts) == 4
    for number, name in enumerate(("bigbird (num_random_blocks=1)", "hypercube", "local")):
        own = [a["data-label"] for a in groups if f"colour-{number}" in a["class"].split()]
        assert sorted(own) == sorted([f"{name}, dev", f"{name}, train"] * 4)
    dev = [a for a in groups if a["data-label"] == "hypercube, dev"]
    by_step, by_time, loss, loss_by_time = ([row[2:] for row in json.loads(a["data-points"])] for a in dev)
    assert by_step == [["50", "22.3 %"], ["100", "32.0 %"], ["150", "36.3 %"], ["200", "38.1 %"]]
    assert by_time == [["20", "22.3 %"], ["40", "32.0 %"], ["60", "36.3 %"], ["80", "38.1 %"]]
    assert loss == [["50", "2.077"], ["100", "1.98"], ["150", "1.937"], ["200", "1.919"]]
    assert [row[0] for row in loss_by_time] == ["20", "40", "60", "80"]
    # two baselines across each of the two accuracy charts, and through the two rows and the foot of the intervals
    assert len(page.those("line", "reference")) == 2 * 2 + 2 * 3


def test_configuration_and_machine_are_there(demo, page):
    config = (demo / "listops-local-seed42" / "config.json").read_text()
    assert config.strip() in page.text
    assert json.loads(config)["checksum"] in page.text
    assert "Some CPU" in page.text


def test_text_from_runs_stays_text(tmp_path):
    ring = Pattern.from_edges(16, range(16), [(k + 1) % 16 for k in range(16)], symmetric=True)
    config = small_config(model=HOSTILE, graph="ring.txt")
    folder = write_run(tmp_path, config, name="bad <b> & ]]>", checksum=ring.checksum, baselines={HOSTILE: 0.2})
    ring.save(folder / "pattern.npz")
    (folder / "environment.json").write_text(json.dumps({"processor": HOSTILE, "lone surrogate": "\ud800"}))
    write_report([folder], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.open == []
    assert [name for name, _ in page.elements if name in ("script", "img")] == ["script"]
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert page.text.count(HOSTILE) >= 5
    assert "bad <b> & ]]>" in page.text
    (label,) = {a["data-label"] for a in page.those("g", "series") if a["data-label"].endswith("dev")}
    assert label == HOSTILE + ", dev"


def test_several_tasks_and_many_runs(tmp_path):
    for seed in range(16):
        write_run(tmp_path / "runs", small_config(seed=seed, seq_len=64), correct=700 + seed)
    write_report([tmp_path / "runs"], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert len(page.tables[0]) == 17
    looks = {re.sub(r"run-\d+ ", "", a["class"]) for a in page.those("g", "series dev")}
    assert len(looks) == 16  # seven colours, three kinds of line


def test_the_first_picture_of_many_runs_shows_their_means(tmp_path):
    for seed in range(7):
        for place, model in enumerate(("hypercube", "local", "random")):
            write_run(tmp_path / "runs", small_config(seed=seed, model=model), correct=700 + seed + 20 * place)
    write_report([tmp_path / "runs"], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert len(page.those("g", "estimate")) == 3
    assert "37.1 % (37.0–37.3)" in page.text.replace("\N{NO-BREAK SPACE}", " ")  # 740 … 746 of 2,000


def test_only_unfinished_runs(tmp_path):
    write_run(tmp_path, small_config(), finished=False, name="a")
    write_report([tmp_path], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "No run on listops has finished yet" in page.text
    assert not page.those("figure", "intervals")


def test_a_failure_leaves_the_old_report_alone(demo, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("old")
    (demo / "listops-local-seed42" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json"):
        write_report([demo], out)
    assert out.read_text() == "old"
    with pytest.raises(OSError, match="cannot write there"):
        write_report([demo / "listops-hypercube-seed42"], tmp_path / "absent" / "report.html")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["demo", "report.html"]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "light")])
def test_in_a_browser(demo, tmp_path, width, scheme):
    """No sideways scrolling, no clipped or overlapping text in the charts, a read-out under the pointer, no errors."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    write_report([demo], tmp_path / "report.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = page.evaluate(
            """() => [...document.querySelectorAll('.chart svg')].map(svg => {
                const frame = svg.getBoundingClientRect();
                const texts = [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect());
                return {outside: texts.filter(t => t.left < frame.left - 1 || t.right > frame.right + 1 ||
                                                   t.bottom > frame.bottom + 1).length,
                        overlaps: texts.filter((a, i) => texts.some((b, k) => k > i && a.left < b.right - 1 &&
                          b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)).length,
                        smallest: Math.min(...texts.map(t => t.height))};
            })"""
        )
        assert len(boxes) == 5
        assert all(box["outside"] == 0 and box["overlaps"] == 0 and box["smallest"] > 9 for box in boxes), boxes
        chart = page.locator(".charts svg").first
        chart.scroll_into_view_if_needed()
        place = chart.bounding_box()
        page.mouse.move(place["x"] + place["width"] * 0.45, place["y"] + place["height"] / 2)
        read_out = page.locator(".read-out").first
        assert "hypercube, dev: " in read_out.inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.locator(".legend input[value='run-1']").uncheck()
        assert page.locator(".series.run-1").first.is_hidden()
        assert page.locator(".series.run-2").first.is_visible()
        browser.close()
    assert said == []
    assert asked == [(tmp_path / "report.html").as_uri()]

"""The report's section on a study: accuracies over the seeds, and their correlations with the scores."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from nip.report.html import tag
from nip.report.scatter import draw_panel
from nip.report.sections import table
from nip.report.study_tables import accuracy_rows, correlation_rows
from nip.study.outcome import PREDICTORS, Panel

WORDS = ("pattern", "accuracy against")  # columns of text


def study_section(panel: Panel) -> Element:
    """The results of a study as `nip study --results` prints them, with charts."""
    pictures = draw_panel(panel)
    return tag(
        "section",
        tag("h2", f"Study of {panel.task}: accuracy against the graphs' scores"),
        tag("ul", *(tag("li", note) for note in panel.notes)) if panel.notes else None,
        tag(
            "p",
            "Accuracies in percent: mean, standard deviation and Student's interval over the seeds. NIP is relative to "
            "the complete graph of the same size. Depth is the number of attention layers applied.",
            class_="quiet",
        ),
        _table(accuracy_rows(panel)),
        tag(
            "p",
            "Each point is a pattern with its mean accuracy over the seeds. Intervals are from 10,000 bootstrap "
            "samples of the patterns; p is from a two-sided permutation test, not corrected for multiple tests.",
            class_="quiet",
        ),
        _table(correlation_rows(panel.found)),
        *(_picture(name, svg) for name, svg in pictures.items()),
    )


def _table(rows: Sequence[Mapping[str, str]]) -> Element:
    if not rows:
        return tag("p", "No run has finished yet.")
    head = [tag("th", name, scope="col", class_="text" if name in WORDS else None) for name in rows[0]]
    return table(head, [tag("tr", *(_cell(name, text) for name, text in row.items())) for row in rows])


def _cell(name: str, text: str) -> Element:
    return tag("th", text, scope="row", class_="text") if name in WORDS else tag("td", text)


def _picture(name: str, svg: str) -> Element:
    says = next(says for predictor, says in PREDICTORS.items() if predictor.replace("_", "-") == name)
    source = f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
    picture = tag("img", src=source, alt=f"Accuracy against {says}", class_="scatter")
    return tag("div", picture, class_="scroll", tabindex="0", role="region", aria_label=f"{says}, scrolls sideways")

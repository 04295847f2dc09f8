"""Scores of attention graphs, before training."""

from nip.scoring.draw import save_figure
from nip.scoring.profile import PayloadAtDistance, payload_by_distance
from nip.scoring.reach import Reach, reach
from nip.scoring.score import Score, score
from nip.scoring.search import Found, search
from nip.scoring.table import Row, compare

__all__ = [
    "Found",
    "PayloadAtDistance",
    "Reach",
    "Row",
    "Score",
    "compare",
    "payload_by_distance",
    "reach",
    "save_figure",
    "score",
    "search",
]

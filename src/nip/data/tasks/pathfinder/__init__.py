"""The Pathfinder task: drawn, and written in the official layout."""

from __future__ import annotations

from nip.data.tasks.pathfinder.drawing import LEVELS, Drawing, Level, draw, draw_many, find_level
from nip.data.tasks.pathfinder.files import write_pictures
from nip.data.tasks.pathfinder.source import PREFIX, plan

__all__ = ["LEVELS", "PREFIX", "Drawing", "Level", "draw", "draw_many", "find_level", "plan", "write_pictures"]

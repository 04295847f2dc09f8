"""The Pathfinder task: drawn, and read and written in the official layout."""

from __future__ import annotations

from nip.data.tasks.pathfinder.drawing import LEVELS, PREFIX, Drawing, Level, draw, draw_many, find_level, plan
from nip.data.tasks.pathfinder.official_files import write_pictures

__all__ = ["LEVELS", "PREFIX", "Drawing", "Level", "draw", "draw_many", "find_level", "plan", "write_pictures"]

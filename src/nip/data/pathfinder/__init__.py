"""The Pathfinder task: drawn, and written in the official layout."""

from __future__ import annotations

from nip.data.pathfinder.drawing import LEVELS, Drawing, Level, draw, draw_many, find_level

__all__ = ["LEVELS", "Drawing", "Level", "draw", "draw_many", "find_level"]

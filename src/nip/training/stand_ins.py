"""The tasks that stand in for those of Long Range Arena, and so have their recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nip.training.config import RunConfig

STANDS_IN_FOR = {
    "fashion-mnist": "image",
    "bible-books": "text",
    "bible-pairs": "retrieval",
    "brown-genres": "text",
    "brown-pairs": "retrieval",
}

Recipe = Callable[[], RunConfig]


def stand_ins(recipes: Mapping[str, Recipe], adapted: Callable[[RunConfig, str], RunConfig]) -> dict[str, Recipe]:
    """The recipe of every task that stands in for one of those given: that one's, adapted to the task of that name."""

    def made(task: str, official: str) -> Recipe:
        return lambda: adapted(recipes[official](), task)

    return {task: made(task, official) for task, official in STANDS_IN_FOR.items()}

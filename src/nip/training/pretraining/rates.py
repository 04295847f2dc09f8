"""The learning rate of a step: the schedule says what is counted, the curve what comes of it."""

from __future__ import annotations

from nip.training.pretraining.budget import HOUR, Spent
from nip.training.pretraining.settings import Settings
from nip.training.schedules import Course


def rate_of(settings: Settings, spent: Spent) -> float:
    """The learning rate of the step that is taken next.

    Examples
    --------
    >>> settings = Settings(hours=2.0, curve="linear", warmup=0.25, learning_rate=1.0)
    >>> [rate_of(settings, Spent(seconds=60.0 * minutes)) for minutes in (15, 30, 75, 120)]
    [0.5, 1.0, 0.5, 0.0]
    """
    position, total = {
        "step": (spent.step, settings.max_steps),
        "constant_step": (spent.step, settings.max_steps),
        "time": (spent.seconds / HOUR, settings.hours),
        "tokens": (spent.tokens, settings.max_tokens),
    }[settings.moved_by]
    assert total is not None  # the settings have refused a schedule whose budget is missing
    course = Course(
        settings.curve,
        settings.learning_rate,
        warmup=settings.warmup * total if settings.warmup_steps is None else settings.warmup_steps,
        decay_rate=settings.decay_rate,
        decay_step=settings.decay_step,
        decay_share=settings.decay_share,
    )
    return course.rate(position, total)

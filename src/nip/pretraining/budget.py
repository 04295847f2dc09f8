"""How much of a run is done: the share of its budget, and all that follows from the share.

A budget counts steps, tokens or hours, or several of them: what is used up first ends the run. Steps and tokens decide
the same way after a restart, so a run with such budgets ends with the same bits; hours are those of the run, with
evaluations and checkpoints, without the time between a stop and the next start.

The learning rate of a step: the schedule says what is counted, the curve what comes of it.
"""

from __future__ import annotations

from nip.pretraining.settings import Settings
from nip.training.checkpoint import Progress
from nip.training.lr_schedules import LRSchedule

HOUR = 3600.0


def shares(settings: Settings, spent: Progress) -> dict[str, float]:
    """The share of each budget that is used up, by what it counts.

    Examples
    --------
    >>> shares(Settings(max_steps=100, hours=2.0), Progress(step=25, seconds=3600.0))
    {'steps': 0.25, 'hours': 0.5}
    """
    found: dict[str, float] = {}
    if settings.max_steps is not None:
        found["steps"] = spent.step / settings.max_steps
    if settings.max_tokens is not None:
        found["tokens"] = spent.tokens / settings.max_tokens
    if settings.hours is not None:
        found["hours"] = spent.seconds / (HOUR * settings.hours)
    return found


def share(settings: Settings, spent: Progress) -> float:
    """The share of the budget that is used up, at most 1: of several the largest."""
    return min(1.0, max(shares(settings, spent).values()))


def ended(settings: Settings, spent: Progress) -> str | None:
    """What is used up, in words; None while something is left.

    Examples
    --------
    >>> ended(Settings(max_steps=100), Progress(step=100))
    '100 steps are done'
    """
    if settings.max_steps is not None and spent.step >= settings.max_steps:
        return f"{settings.max_steps:,} steps are done"
    if settings.max_tokens is not None and spent.tokens >= settings.max_tokens:
        return f"{settings.max_tokens:,} tokens are seen"
    if settings.hours is not None and spent.seconds >= HOUR * settings.hours:
        return f"{settings.hours:g} hours are over"
    return None


def stage_at(settings: Settings, done: float) -> int:
    """The number of the stage of lengths in which the run is at a share of its budget.

    Examples
    --------
    >>> settings = Settings(max_steps=100, lengths=((128, 0.9), (512, 0.1)))
    >>> [stage_at(settings, done) for done in (0.0, 0.89, 0.9, 1.0)]
    [0, 0, 1, 1]
    """
    end = 0.0
    for number, (_, part) in enumerate(settings.lengths):
        end += part
        if done < end - 1e-9:
            return number
    return len(settings.lengths) - 1


def batch_at(settings: Settings, done: float) -> int:
    """Samples of the step that is taken at a share of the budget.

    The batch grows from `ramp_from` to `batch_size` along a line, by `ramp_from` samples at a time.

    Examples
    --------
    >>> settings = Settings(max_steps=100, batch_size=64, ramp_from=16, ramp_share=0.5)
    >>> [batch_at(settings, done) for done in (0.0, 0.1, 0.25, 0.4, 0.5, 0.9)]
    [16, 16, 32, 48, 64, 64]
    """
    if settings.ramp_from is None or done >= settings.ramp_share:
        return settings.batch_size
    grown = settings.ramp_from + (settings.batch_size - settings.ramp_from) * done / settings.ramp_share
    return int(grown) // settings.ramp_from * settings.ramp_from


def eval_every(settings: Settings, done: float) -> int:
    """Steps between evaluations at a share of the budget: they come in three phases.

    Examples
    --------
    >>> settings = Settings(max_steps=100, eval_every=50, eval_every_begin=5, eval_every_end=10)
    >>> [eval_every(settings, done) for done in (0.01, 0.5, 0.96)]
    [5, 50, 10]
    """
    if done < settings.eval_begin_share and settings.eval_every_begin is not None:
        return settings.eval_every_begin
    if done >= 1 - settings.eval_end_share and settings.eval_every_end is not None:
        return settings.eval_every_end
    return settings.eval_every


def learning_rate(settings: Settings, spent: Progress) -> float:
    """The learning rate of the step that is taken next.

    Examples
    --------
    >>> settings = Settings(hours=2.0, curve="linear", warmup=0.25, learning_rate=1.0)
    >>> [learning_rate(settings, Progress(seconds=60.0 * minutes)) for minutes in (15, 30, 75, 120)]
    [0.5, 1.0, 0.5, 0.0]
    """
    position, total = {
        "step": (spent.step, settings.max_steps),
        "constant_step": (spent.step, settings.max_steps),
        "time": (spent.seconds / HOUR, settings.hours),
        "tokens": (spent.tokens, settings.max_tokens),
    }[settings.schedule_unit]
    assert total is not None  # the settings have refused a schedule whose budget is missing
    schedule = LRSchedule(
        settings.curve,
        settings.learning_rate,
        warmup=settings.warmup * total if settings.warmup_steps is None else settings.warmup_steps,
        decay_rate=settings.decay_rate,
        decay_step=settings.decay_step,
        decay_share=settings.decay_share,
    )
    return schedule.rate(position, total)

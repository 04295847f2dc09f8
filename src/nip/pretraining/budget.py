"""Functions of a run's budget: the share that is used up, and the stage, batch size and learning rate at that share.

A budget counts steps, tokens or hours, or several of them; the first that is used up ends the run. With budgets of
steps and tokens a resumed run is bit-identical. Hours are run time: evaluations and checkpoints count, downtime does
not.
"""

from __future__ import annotations

from nip.pretraining.settings import Settings
from nip.training.checkpoint import Progress
from nip.training.lr_schedules import LRSchedule

HOUR = 3600.0


def shares(settings: Settings, progress: Progress) -> dict[str, float]:
    """The used share of each budget, by its unit.

    Examples
    --------
    >>> shares(Settings(max_steps=100, hours=2.0), Progress(step=25, seconds=3600.0))
    {'steps': 0.25, 'hours': 0.5}
    """
    found: dict[str, float] = {}
    if settings.max_steps is not None:
        found["steps"] = progress.step / settings.max_steps
    if settings.max_tokens is not None:
        found["tokens"] = progress.tokens / settings.max_tokens
    if settings.hours is not None:
        found["hours"] = progress.seconds / (HOUR * settings.hours)
    return found


def share(settings: Settings, progress: Progress) -> float:
    """The used share of the budget, at most 1; of several budgets, the largest share."""
    return min(1.0, max(shares(settings, progress).values()))


def end_reason(settings: Settings, progress: Progress) -> str | None:
    """Which budget is used up, as text; None if none is.

    Examples
    --------
    >>> end_reason(Settings(max_steps=100), Progress(step=100))
    '100 steps are done'
    """
    if settings.max_steps is not None and progress.step >= settings.max_steps:
        return f"{settings.max_steps:,} steps are done"
    if settings.max_tokens is not None and progress.tokens >= settings.max_tokens:
        return f"{settings.max_tokens:,} tokens are done"
    if settings.hours is not None and progress.seconds >= HOUR * settings.hours:
        return f"{settings.hours:g} hours have passed"
    return None


def stage_at(settings: Settings, done: float) -> int:
    """The number of the stage (of sequence lengths) at a used share of the budget.

    Examples
    --------
    >>> settings = Settings(max_steps=100, lengths=((128, 0.9), (512, 0.1)))
    >>> [stage_at(settings, done) for done in (0.0, 0.89, 0.9, 1.0)]
    [0, 0, 1, 1]
    """
    end = 0.0
    for number, (_, stage_share) in enumerate(settings.lengths):
        end += stage_share
        if done < end - 1e-9:
            return number
    return len(settings.lengths) - 1


def batch_size_at(settings: Settings, done: float) -> int:
    """Samples of a step at a used share of the budget.

    With `ramp_from` the batch grows linearly from `ramp_from` to `batch_size`, in multiples of `ramp_from`.

    Examples
    --------
    >>> settings = Settings(max_steps=100, batch_size=64, ramp_from=16, ramp_share=0.5)
    >>> [batch_size_at(settings, done) for done in (0.0, 0.1, 0.25, 0.4, 0.5, 0.9)]
    [16, 16, 32, 48, 64, 64]
    """
    if settings.ramp_from is None or done >= settings.ramp_share:
        return settings.batch_size
    grown = settings.ramp_from + (settings.batch_size - settings.ramp_from) * done / settings.ramp_share
    return int(grown) // settings.ramp_from * settings.ramp_from


def eval_every(settings: Settings, done: float) -> int:
    """Steps between evaluations at a used share of the budget, which has three phases.

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


def learning_rate(settings: Settings, progress: Progress) -> float:
    """The learning rate of the next step.

    Examples
    --------
    >>> settings = Settings(hours=2.0, curve="linear", warmup=0.25, learning_rate=1.0)
    >>> [learning_rate(settings, Progress(seconds=60.0 * minutes)) for minutes in (15, 30, 75, 120)]
    [0.5, 1.0, 0.5, 0.0]
    """
    position, total = {
        "step": (progress.step, settings.max_steps),
        "constant_step": (progress.step, settings.max_steps),
        "time": (progress.seconds / HOUR, settings.hours),
        "tokens": (progress.tokens, settings.max_tokens),
    }[settings.schedule_unit]
    assert total is not None  # the settings check that the schedule has its budget
    schedule = LRSchedule(
        settings.curve,
        settings.learning_rate,
        warmup=settings.warmup * total if settings.warmup_steps is None else settings.warmup_steps,
        decay_rate=settings.decay_rate,
        decay_step=settings.decay_step,
        decay_share=settings.decay_share,
    )
    return schedule.rate(position, total)

import pytest
import torch

from nip.bench.quiet import LONG_SECONDS, TRIES, Probe, mm_probe, time_alternately


class Machine:
    """A clock advanced by calls, and a speed that may change with every call of the probe."""

    def __init__(self, speeds=()):
        self.now, self.speeds, self.log = 0.0, list(speeds), []
        self.probe = Probe(self.probed, flop=1e9, clock=self.clock)

    def clock(self):
        return self.now

    def probed(self):
        self.now += 1 / (self.speeds.pop(0) if self.speeds else 100)
        self.log.append("probe")

    def call(self, name, *seconds):
        """A call that takes these times in turn, then always the last one."""
        left = list(seconds)

        def made():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.log.append(name)

        return made


def timed(machine, calls, repeats, **options):
    return time_alternately(calls, repeats, machine.probe, clock=machine.clock, **options)


def test_calls_take_turns_each_warmed_between_two_probes():
    machine = Machine()
    found = timed(machine, {"a": machine.call("a", 0.001), "b": machine.call("b", 0.002)}, 2)
    one_round = ["a", "a", "probe", "b", "b", "probe"]
    assert machine.log == ["a", "b", "probe", *one_round, *one_round]
    assert found["a"].times == pytest.approx([1, 1]) and found["b"].times == pytest.approx([2, 2])
    assert (found["a"].kept, found["b"].kept) == (2, 2)


def test_long_calls_are_not_warmed():
    machine = Machine()
    timed(machine, {"a": machine.call("a", LONG_SECONDS * 1.01)}, 2)
    assert machine.log == ["a", "probe", "a", "probe", "a", "probe"]


def test_the_warm_up_is_not_timed():
    machine = Machine()
    found = timed(machine, {"a": machine.call("a", 0.2, 0.1, 0.001, 0.1, 0.003)}, 2)
    assert found["a"].times == pytest.approx([1, 3])
    assert found["a"].ms == pytest.approx(2)


def test_samples_next_to_a_slow_probe_are_repeated_for_the_calls_that_need_them():
    # the probe after b's first sample is slow: that sample is dropped, and so is a's next one, which starts with it
    machine = Machine([100, 100, 84, 100, 100])
    found = timed(machine, {"a": machine.call("a", 1e-3), "b": machine.call("b", 1e-3)}, 2)
    assert (found["a"].kept, found["b"].kept) == (2, 2)
    first, second = ["a", "a", "probe", "b", "b", "probe"], ["a", "a", "probe", "b", "b", "probe"]
    assert machine.log == ["a", "b", "probe", *first, *second, *second]


def test_a_probe_that_is_a_little_slower_is_quiet():
    machine = Machine([100, 86, 86, 86])
    timed(machine, {"a": machine.call("a", 1e-3)}, 2)
    assert machine.log.count("probe") == 3


def test_a_call_with_enough_samples_waits():
    machine = Machine([100, 100, 50, 50, 100])
    found = timed(machine, {"a": machine.call("a", 1e-3), "b": machine.call("b", 1e-3)}, 1)
    # only b is repeated: between two slow probes, then between a slow and a fast one, then quiet
    assert machine.log[3:] == ["a", "a", "probe", "b", "b", "probe", *["b", "b", "probe"] * (TRIES - 1)]
    assert (found["a"].kept, len(found["a"].times)) == (1, 1)


def test_a_faster_probe_later_invalidates_samples():
    machine = Machine([50, 50, 100])
    found = timed(machine, {"a": machine.call("a", 9.0, 1.0, 2.0, 3.0, 4.0)}, 2)
    # the first sample was quiet by the best speed until then, and the second started so
    assert found["a"].times == pytest.approx([3000, 4000])


def test_if_the_machine_is_never_quiet_all_samples_count_and_it_shows():
    machine = Machine([100, *[10] * 50])
    found = timed(machine, {"a": machine.call("a", 0.1, 1e-3, 2e-3, 1e-3, 4e-3, 1e-3, 9e-3, 1e-3, 9e-3)}, 2)
    assert found["a"].kept == 0
    assert len(found["a"].times) == 2 * TRIES
    assert found["a"].times[:3] == pytest.approx([2, 4, 9])


def test_extra_probes_are_measured_once_a_round():
    machine = Machine()
    extra = Probe(machine.call("half", 0.5), flop=3e9, clock=machine.clock)
    timed(machine, {"a": machine.call("a", 1e-3)}, 3, extra_probes=[extra])
    assert machine.log.count("half") == 3
    assert extra.best == pytest.approx(6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_multiplies_matrices(dtype):
    probe = mm_probe(dtype)
    assert probe.flop == 2 * 1024**3
    assert probe.best > 0
    product = probe.call()
    assert product.shape == (1024, 1024) and product.dtype == dtype

"""Settings of all tests."""

import os

from hypothesis import settings

# As `nip lra` does: idle OpenMP threads that spin for long slow down everything else on a shared machine.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Machines are shared: how long an example takes says nothing. In continuous integration the examples are the same every
# time, so that a change fails by what it changed; elsewhere they are drawn anew.
settings.register_profile("nip", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "nip")

"""Settings of all tests."""

import os

from hypothesis import settings

# Machines are shared: how long an example takes says nothing. In continuous integration the examples are the same every
# time, so that a change fails by what it changed; elsewhere they are drawn anew.
settings.register_profile("nip", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "nip")

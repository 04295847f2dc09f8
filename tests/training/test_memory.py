import resource
import subprocess
import sys

import pytest

# How many pages the system hands out while a 64 MiB tensor is made and freed again and again.
CODE = """
import resource, sys, torch
from nip.training.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.zeros(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(1 << 24)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_memory_is_used_again():
    def fresh_bytes(how):
        done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert resource.getpagesize() > 0
    assert fresh_bytes("keep") < 2**24
    assert fresh_bytes("give back") > 2**28

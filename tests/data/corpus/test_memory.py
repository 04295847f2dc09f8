import random
import subprocess
import sys

import pytest

PEAK = """
import resource, sys
from pathlib import Path
from joblib.externals.loky import get_reusable_executor
from nip.data.corpus import Settings, build_corpus
build_corpus(sys.argv[1], Path(sys.argv[2]), Settings(train_tokenizer=500, shard_mb=1), jobs=2)
get_reusable_executor().shutdown(wait=True)  # only then are the workers counted
print(*(resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""
SMALL, LARGE = 4, 28  # megabytes of text


def peaks(folder):
    """Megabytes of memory that a corpus takes to make: of the process, and of the largest of its workers."""
    made = subprocess.run([sys.executable, "-c", PEAK, str(folder), f"{folder}-out"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return [int(peak) for peak in made.stdout.split()]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """With 24 MB more of text workers take half of that more at most; the process that starts them frees less of it."""
    draw = random.Random(0)
    words = [f"w{i:x}" for i in range(30_000)]
    for name, megabytes in (("small", SMALL), ("large", LARGE)):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "a.txt").open("w") as file:
            while file.tell() < megabytes << 20:
                file.write(" ".join(draw.choices(words, k=400)) + "\n\n")
    small, large = (peaks(tmp_path / name) for name in ("small", "large"))
    for before, after, allowed in zip(small, large, (2.0, 0.5), strict=True):
        assert after < before + allowed * (LARGE - SMALL)

import random
import subprocess
import sys

import pytest

PEAK = """
import resource, sys
from pathlib import Path
from nip.data.text import Settings, build_corpus
build_corpus(sys.argv[1], Path(sys.argv[2]), Settings(train_tokenizer=500, shard_mb=1), jobs=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(folder, megabytes):
    """Megabytes of memory that a corpus of that size takes to make."""
    draw = random.Random(0)
    words = [f"w{i:x}" for i in range(30_000)]
    folder.mkdir()
    with (folder / "a.txt").open("w") as file:
        while file.tell() < megabytes << 20:
            file.write(" ".join(draw.choices(words, k=400)) + "\n\n")
    made = subprocess.run([sys.executable, "-c", PEAK, str(folder), f"{folder}-out"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return int(made.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    small, large = peak(tmp_path / "small", 4), peak(tmp_path / "large", 40)
    assert large < small + 60

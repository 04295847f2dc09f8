"""Small corpora for tests, and what is on disk of them."""

import hashlib
import random

WORDS = [
    "the",
    "sparse",
    "graph",
    "of",
    "attention",
    "joins",
    "blocks",
    "and",
    "tokens",
    "while",
    "a",
    "hypercube",
    "has",
    "few",
    "edges",
    "but",
    "short",
    "paths",
]


def documents(n, seed=0):
    """Texts of a few sentences."""
    draw = random.Random(seed)
    for i in range(n):
        lines = []
        for _ in range(draw.randrange(1, 6)):
            words = [draw.choice(WORDS) for _ in range(draw.randrange(3, 30))]
            lines.append(f"{' '.join(words).capitalize()} {i}.")
        yield "\n".join(lines)


def write_texts(folder, n_files=5, per_file=60, seed=0):
    """A folder with text files, some of them in folders of it."""
    for k in range(n_files):
        path = folder / ("more" if k % 2 else ".") / f"{k}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(documents(per_file, seed + k)), "utf-8")
    return folder


def fingerprint(folder):
    """The checksum of every file of a folder but the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }

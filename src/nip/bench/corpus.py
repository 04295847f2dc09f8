"""Time and memory of the steps of building a corpus, compared with the `tokenizers` library alone on the same text."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nip.bench.machine import Machine, this_machine
from nip.bench.memory import printed_by
from nip.bench.table import markdown_table
from nip.data.corpus import Settings, build_corpus
from nip.data.corpus.clean import by_size
from nip.data.corpus.files import find_files
from nip.data.corpus.tokenizer import existing_tokenizer
from nip.graphs.pattern import check_int

HEADER = ("step", "MB", "s", "MB/s", "times tokenizers", "peak MiB")
ALONE, TEXT_STEPS, TOKENS, TOTAL = "tokenizers alone", "reading + comparing", "tokenizing", "total"
SHORTEST, LONGEST = 50, 2000  # words of a generated document
_FILE, _BATCH, _COMPARED = 100_000_000, 4_000_000, 100_000_000  # bytes of a generated file, a batch, all batches


@dataclass(frozen=True)
class CorpusRow:
    """A step of building a corpus.

    Parameters
    ----------
    step : str
        ``reading`` (and cleaning), ``comparing`` (deduplication and splitting), both together, ``tokenizing`` (into
        shards), the total; or `tokenizers` alone on batches of the same text, with one thread per process.
    megabytes : float
        Millions of bytes of raw text.
    seconds : float
    ratio_to_tokenizers : float or None
        Rate / rate of the library alone, for steps that tokenize: above 1 is faster.
    peak_mib : float or None
        Of the total: peak resident memory of the process, plus that of its largest worker times the number of workers.
    """

    step: str
    megabytes: float
    seconds: float
    ratio_to_tokenizers: float | None
    peak_mib: float | None
    jobs: int
    machine: Machine

    @property
    def megabytes_per_second(self) -> float:
        """Rate in millions of bytes of raw text per second."""
        return self.megabytes / max(self.seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, flat."""
        record = asdict(self)
        machine = record.pop("machine")
        return {**record, "megabytes_per_second": round(self.megabytes_per_second, 3), **machine}


def bench_corpus(origin: Path, tokenizer: str, megabytes: int, *, jobs: int) -> list[CorpusRow]:
    """Build a corpus of generated text once, in a separate process, and time its steps.

    Parameters
    ----------
    origin : Path
        A text file, or a folder of them: words are drawn with their frequencies in it.
    tokenizer : str
        As for ``nip data corpus --tokenizer``.
    megabytes : int
        Size of the generated text.
    jobs : int
        Number of processes.

    Returns
    -------
    list of CorpusRow

    Raises
    ------
    ValueError
        If a number is below 1, the tokenizer is invalid, the text has no words, or the process fails.
    OSError
        If the text does not exist, or the disk is full.
    """
    megabytes = check_int("megabytes", megabytes, "bench corpus", minimum=1)
    jobs = check_int("jobs", jobs, "bench corpus", minimum=1)
    existing_tokenizer(tokenizer, lower_case=True)
    machine = this_machine()
    with TemporaryDirectory() as folder:
        size = draw_text(origin, Path(folder) / "text", megabytes * 1_000_000) / 1e6
        job = {"text": f"{folder}/text", "out": f"{folder}/out", "tokenizer": tokenizer, "jobs": jobs}
        threads = {"RAYON_NUM_THREADS": str(jobs), "TOKENIZERS_PARALLELISM": "true"}
        # the library alone before and after, so that other load on the machine in these minutes affects both
        before, made, after = (
            json.loads(printed_by("nip.bench.corpus", {**job, "alone": alone}, "Building the corpus", **threads))
            for alone in (True, False, True)
        )
    alone = {key: (before[key] + after[key]) / 2 for key in before}
    rate = alone["megabytes"] / alone["seconds"]
    times = made["seconds"]
    rows = {**times, TEXT_STEPS: times["reading"] + times["comparing"], TOTAL: sum(times.values())}
    ratios = {TOKENS: size / rows[TOKENS] / rate}
    order = ("reading", "comparing", TEXT_STEPS, TOKENS, TOTAL)
    return [
        *(
            CorpusRow(step, size, rows[step], ratios.get(step), made["mib"] if step == TOTAL else None, jobs, machine)
            for step in order
        ),
        CorpusRow(ALONE, alone["megabytes"], alone["seconds"], 1.0, None, jobs, machine),
    ]


def draw_text(origin: Path, folder: Path, size: int, *, seed: int = 0) -> int:
    """Write files of random documents with the word frequencies of a text.

    Documents have 50 to 2,000 words, one sentence per line, and are separated by empty lines.

    Parameters
    ----------
    origin : Path
        A text file, or a folder of them.
    folder : Path
        Is created.
    size : int
        Minimum number of bytes.
    seed : int, default=0

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    ValueError
        If a file is not UTF-8 text, or there are no words.
    """
    counts: Counter[str] = Counter()
    for path in find_files(origin):
        try:
            counts.update(path.read_text("utf-8").split())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text, from which words are drawn.") from error
    if not counts:
        raise ValueError(f"{origin} has no words to draw from.")
    words = np.array(list(counts), object)
    ends = np.cumsum(np.array(list(counts.values()), float))
    drawn = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    written = 0
    while written < size:
        with (folder / f"{written // _FILE:04}.txt").open("ab") as file:
            of = words[np.searchsorted(ends, drawn.random(drawn.integers(SHORTEST, LONGEST)) * ends[-1], "right")]
            written += file.write(" ".join(of).replace(". ", ".\n").encode() + b"\n\n")
    return written


def cells(row: CorpusRow) -> list[str]:
    """The displayed texts of a row, in the order of `HEADER`."""
    ratio = "" if row.ratio_to_tokenizers is None else f"{row.ratio_to_tokenizers:.2f}"
    peak = "" if row.peak_mib is None else f"{row.peak_mib:,.0f}"
    return [row.step, f"{row.megabytes:,.0f}", f"{row.seconds:,.1f}", f"{row.megabytes_per_second:.1f}", ratio, peak]


def caption(rows: Sequence[CorpusRow]) -> str:
    """The measurement and the machine."""
    jobs = rows[0].jobs
    return f"Building a corpus of generated text with {jobs} process{'es' if jobs > 1 else ''}. {rows[0].machine}."


def to_markdown(rows: Sequence[CorpusRow]) -> str:
    """The caption and a Markdown table."""
    return markdown_table(caption(rows), HEADER, map(cells, rows))


def _made(job: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, float] = {}
    last: dict[str, float] = {}

    def progress(step: str, *_: int) -> None:
        last[step] = time.perf_counter()
        first.setdefault(step, last[step])

    settings = Settings(tokenizer=job["tokenizer"])
    began = time.perf_counter()
    build_corpus(job["text"], Path(job["out"]), settings, jobs=job["jobs"], progress=progress)
    times = [began, last["reading"], first["tokenizing"], time.perf_counter()]
    seconds = dict(zip(("reading", "comparing", TOKENS), np.diff(times).tolist(), strict=True))
    if job["jobs"] > 1:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)  # getrusage counts only workers that have ended
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {"seconds": seconds, "mib": (own + job["jobs"] * worker) / unit}


def _alone(job: dict[str, Any]) -> dict[str, Any]:
    tokenizer, _ = existing_tokenizer(job["tokenizer"], lower_case=True)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size, seconds = 0, 0.0
    for texts in by_size(_documents(Path(job["text"])), _BATCH):
        began = time.perf_counter()
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            _ = encoding.ids
        seconds += time.perf_counter() - began
        size += sum(len(text.encode()) + 2 for text in texts)
        if size >= _COMPARED:
            break
    return {"seconds": seconds, "megabytes": size / 1e6}


def _documents(folder: Path) -> Iterator[str]:
    for file in find_files(folder):
        yield from file.read_text("utf-8").split("\n\n")[:-1]


def _main(job: str) -> None:
    request = json.loads(job)
    print(json.dumps((_alone if request["alone"] else _made)(request)))


if __name__ == "__main__":
    _main(sys.argv[1])

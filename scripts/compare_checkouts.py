"""Run the same small commands in two checkouts of nip, and compare bit for bit what they leave.

For a change that must not change behaviour: ``python scripts/compare_checkouts.py OLD NEW --out runs/golden``, with
the roots of two checkouts that have their compiled kernels in place. Every case (``--list``) is a few commands in a
fresh folder ``OUT/old/CASE`` or ``OUT/new-NAME/CASE``, NAME being the name of NEW's folder. From it are taken

- the exit codes, and what was printed where that is the result (``--json``, scores);
- the checksum of every tensor of every safetensors file, by name, type and shape;
- the values of every JSON and ``metrics.jsonl`` file but times, speeds, versions, paths and sentences (`LEFT_OUT`);
- the checksum of every other file, but of those that hold times (`PRESENT_ONLY`).

Exit code 1: they differ. What a side left is kept and used again as long as its sources, the case and the interpreter
stay the same. Bits differ between processors, so both sides run on the same machine. All runs are on the CPU.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Facts = dict[str, str]

# Fields of JSON files, by any part of their path.
LEFT_OUT = re.compile(
    r"second|runtime|_per_s|speed|mfu|utili[sz]ation|memory|peak_mib|version|environment|commit|^date|_time$|^time|folder|command|host|"
    r"total_flos|^created|^began|^ended"
)
IGNORED = (".cache/*", "*.lock", ".lock")  # files of a case that are no result
PRESENT_ONLY = (
    *("*.html", "*.png", "*.svg", "*.pdf", "*.log", "*.db", "*.pth", "*/training_args.bin", "*/environment.json"),
    *("environment.json", "*.tfevents.*"),
)
BYTES = ("*prediction*.json", "*/submission/*", "*tokenizer*.json", "*/vocab.txt")  # JSON whose every byte counts
LIMIT = 600  # seconds of a command
WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "sang", "on", "under", "mat", "tree", "house", "red", "blue"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Case:
    """Commands that run in one folder, one after the other.

    Parameters
    ----------
    name, covers : str
        The folder's name, and what is compared.
    commands : tuple of str
        What follows ``python -m nip``; those that begin with ``scripts/`` are run as they are. They run in the case's
        folder: ``../../inputs`` is what `write_inputs` made, ``../CASE`` what another case left.
    needs : tuple of str
        Cases that must have run before.
    printed : bool
        Whether standard output is compared as text.
    """

    name: str
    covers: str
    commands: tuple[str, ...]
    needs: tuple[str, ...] = ()
    printed: bool = False


LRA = "lra --data ../data-tasks/data --seq-len 64 --block-size 8 --batch-size 4 --eval-every 5 --json"
PRETRAIN = (
    "pretrain --size tiny --layers 2 --width 32 --heads 2 --inner-width 64 --block-size 8 --track none --eval-every 8 "
    "--eval-samples 16 --json"
)
STAGES = "--dataset ../data-corpus/packed --lengths 32:0.5,64:0.5 --batch-size 8 --max-steps"
TASKS = ("data-tasks",)
CORPUS = ("data-corpus",)
FINETUNE = "--block_size 8 --max_steps 20 --learning_rate 1e-3 --logging_steps 2 --report_to none --seed 5 --json"
GLUE = "glue --model_name_or_path ../../inputs/bert --task_name mrpc --data_dir ../../inputs/MRPC --max_seq_length 32"
MLM = "mlm --model_name_or_path ../../inputs/bert --train_file ../../inputs/mlm.txt --validation_split_percentage 20"
QA = (
    "qa --model_name_or_path ../../inputs/bert --train_file ../../inputs/squad.json --validation_file "
    "../../inputs/squad.json --test_file ../../inputs/squad.json --max_seq_length 24 --doc_stride 6"
)
SUMMARIZE = (
    "summarization --train_file ../../inputs/texts.jsonl --validation_file ../../inputs/texts.jsonl --test_file "
    "../../inputs/texts.jsonl --max_source_length 20 --max_target_length 6 --predict_with_generate --num_beams 2"
)
STEPS = "--eval_strategy steps --eval_steps 10 --save_steps 10"
ALL = "--do_train --do_eval --do_predict"

CASES = (
    Case(
        "data-tasks",
        "nip data: listops (and its .tsv), probe, pathfinder",
        (
            "data listops --out data --train 80 --dev 20 --test 20 --min-length 4 --max-length 60 --seed 1 --tsv",
            "data probe --out data --param train=80 --param dev=20 --param test=20 --param seq_len=64 --param pairs=4 "
            "--param queries=4 --param values=4",
            "data pathfinder32-curv_baseline --out data --param train=12 --param dev=8 --param test=8 --png png",
        ),
    ),
    Case(
        "data-corpus",
        "nip data corpus: packed; in pairs, masked once",
        (
            "data corpus --from ../../inputs/corpus --out packed --train-tokenizer 200 --max-seq-length 64 "
            "--frac-test 0.2 --jobs 1 --keep-text",
            "data corpus --from ../../inputs/corpus --out pairs --train-tokenizer 200 --max-seq-length 32 "
            "--frac-test 0.2 --jobs 1 --masked-once --next-sentence --dup-factor 2 --max-predictions-per-seq 5",
        ),
    ),
    Case(
        "lra-clean",
        "clean protocol, original recipe, dropout, continued from 10 to 20 steps, tested again",
        (f"{LRA} --max-steps 10 --out run", f"{LRA} --max-steps 20 --out run", f"{LRA} --skip-train --out run"),
        TASKS,
    ),
    Case(
        "lra-original",
        "original protocol and log, softmax, accumulation, continued",
        tuple(
            f"{LRA} --protocol original --model softmax --original-log --eval-steps 2 --gradient-accumulation 2 "
            f"--out run --max-steps {n}"
            for n in (10, 20)
        ),
        TASKS,
    ),
    Case(
        "lra-modern",
        "modern recipe with denoising steps, average of weights and patience, continued",
        tuple(
            f"{LRA} --recipe modern --pretrain-steps 10 --ema 0.9 --patience 3 --layers 2 --model bigbird --param "
            f"num_random_blocks=1 --out run --max-steps {n}"
            for n in (10, 20)
        ),
        TASKS,
    ),
    Case(
        "lra-probe",
        "the retrieval probe (targets by token), expander, layers recomputed",
        (f"{LRA} --task probe --model expander --max-steps 20 --gradient-checkpointing --out run",),
        TASKS,
    ),
    Case(
        "pretrain-stages",
        "stages of length, a ramp of the batch, warmup, adamw, continued from 10 to 20 steps",
        tuple(f"{PRETRAIN} {STAGES} {n} --ramp-from 2 --micro-batch 2 --out run" for n in (10, 20)),
        CORPUS,
    ),
    Case(
        "pretrain-pairs",
        "next sentence, lamb, pre-LN, RMSNorm",
        (
            f"{PRETRAIN} --dataset ../data-corpus/pairs --batch-size 8 --next-sentence --optimizer lamb --architecture "
            "roberta-prelayernorm --norm rms --max-steps 20 --model bigbird --out run",
        ),
        CORPUS,
    ),
    Case(
        "pretrain-skips",
        "steps that are skipped for their loss, and rolled back, continued",
        tuple(
            f"{PRETRAIN} --dataset ../data-corpus/packed --batch-size 1 --micro-batch 1 --lengths 32 --spike 0.1 "
            f"--bad-steps 1 --rollback-every 10 --max-rollbacks 50 --learning-rate 0.02 --max-steps {n} --out run"
            for n in (80, 130)
        ),
        CORPUS,
    ),
    Case(
        "glue",
        "trained, evaluated, predicted, with checkpoints",
        (f"{GLUE} {FINETUNE} {STEPS} {ALL} --output_dir run",),
    ),
    Case(
        "mlm",
        "trained and evaluated",
        (f"{MLM} {FINETUNE} {STEPS} --max_seq_length 32 --do_train --do_eval --output_dir run",),
    ),
    Case("qa", "trained, evaluated, predicted", (f"{QA} {FINETUNE} {STEPS} {ALL} --output_dir run",)),
    Case(
        "summarization",
        "BART trained, evaluated, predicted",
        (f"{SUMMARIZE} --model_name_or_path ../../inputs/bart {FINETUNE} {STEPS} {ALL} --output_dir run",),
    ),
    Case(
        "hpo",
        "two trials of a grid over nip glue",
        (
            f"hpo {GLUE} --do_train --do_eval --block_size 8 --report_to none --max_steps 4 --output_dir run "
            "--sampler grid --space ../../inputs/space.json --trials 2 --pruner none",
        ),
    ),
    Case(
        "study",
        "two patterns, their outcome, and a report on their runs",
        (
            f"{LRA.replace('lra', 'study', 1)} --patterns hypercube,local --seeds 0 --max-steps 6 --out study",
            "report study --out report.html",
        ),
        TASKS,
    ),
    Case(
        "graphs",
        "score, compare and search, as printed",
        (
            "score hypercube --seq-len 512 --block-size 16 --depth 3",
            "compare --seq-len 256 --block-size 16 --csv",
            "search --n-vertices 24 --degree 4 --steps 50 --json",
        ),
        printed=True,
    ),
)


def write_inputs(folder: Path) -> None:
    """Write the texts, data sets and random models that the cases read."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from torch import manual_seed
    from transformers import BartConfig, BartForConditionalGeneration, BertConfig, BertModel, PreTrainedTokenizerFast

    drawn = random.Random(7)

    def said(n: int) -> str:
        return " ".join(drawn.choice(WORDS) for _ in range(n))

    def lines(n: int, longest: int) -> list[str]:
        return [said(drawn.randint(4, longest)) for _ in range(n)]

    def write(name: str, text: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")

    for i in range(4):
        written = ("\n".join(line.capitalize() + f" {k}." for k, line in enumerate(lines(4, 30))) for _ in range(30))
        write(f"corpus/{i}.txt", "\n\n".join(written))
    write("mlm.txt", "\n".join(lines(60, 12)))
    for name, n in (("train", 40), ("dev", 16), ("test", 8)):
        first = ["index" if name == "test" else "Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
        rows = [[str(i % 2), str(i), str(i), one, one if i % 2 else said(6)] for i, one in enumerate(lines(n, 8))]
        write(f"MRPC/{name}.tsv", "\n".join("\t".join(row) for row in [first, *rows]))
    paragraphs = []
    for i in range(30):
        context, word = said(12), drawn.randrange(12)
        answer = {"text": context.split()[word], "answer_start": len(" ".join(["", *context.split()[:word]]))}
        asked = {"id": f"q{i}", "question": f"where is {answer['text']}", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [asked]})
    write("squad.json", json.dumps({"version": "1.1", "data": [{"title": "words", "paragraphs": paragraphs}]}))
    rows = [{"article": text, "abstract": " ".join(text.split()[:3])} for text in lines(24, 16)]
    write("texts.jsonl", "\n".join(map(json.dumps, rows)))
    write("space.json", json.dumps({"learning_rate": [1e-3, 1e-4]}))

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    manual_seed(0)
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(
        folder / "bert"
    )
    tokenizer.save_pretrained(folder / "bert")
    parts = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    sizes = {f"{side}_{part}": n for side in ("encoder", "decoder") for part, n in parts.items()}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = BartConfig(
        vocab_size=len(vocabulary), d_model=16, max_position_embeddings=32, forced_eos_token_id=3, **ids, **sizes
    )
    BartForConditionalGeneration(config).save_pretrained(folder / "bart")
    tokenizer.save_pretrained(folder / "bart")


def digest(*contents: bytes | str) -> str:
    """The checksum of some contents."""
    whole = hashlib.sha256()
    for content in contents:
        whole.update(content.encode() if isinstance(content, str) else content)
    return whole.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a name matches one of some globs."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def tensor_facts(path: Path) -> Facts:
    """The checksum of each tensor of a safetensors file; the header's metadata is left out."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    facts = {}
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            key = f"{name} {entry['dtype']} {entry['shape']}"
            facts[key] = digest(content[8 + length + begin : 8 + length + end])
    return facts


def json_facts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The numbers, truth values and single words in a JSON value, by their place."""
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            if not LEFT_OUT.search(str(key)):
                yield from json_facts(entry, f"{place}.{key}" if place else str(key))
    elif not isinstance(value, str) or not re.search(r"[\s/]", value):
        yield place, json.dumps(value)


def facts_of(folder: Path) -> Facts:
    """What is to be compared of the files in a folder, by file, or by file and place in it (``FILE:PLACE``)."""
    facts: Facts = {}
    for path in files_of(folder):
        name = path.relative_to(folder).as_posix()
        parts: Mapping[str, str] = {}
        if matches(name, IGNORED):
            continue
        if path.suffix == ".safetensors":
            parts = tensor_facts(path)
        elif path.suffix == ".jsonl" and path.name.startswith("metrics"):
            parts = dict(json_facts([json.loads(line) for line in path.read_text().splitlines()]))
        elif path.suffix == ".json" and not matches(name, BYTES):
            parts = dict(json_facts(json.loads(path.read_text())))
        elif not matches(name, PRESENT_ONLY):
            facts[name] = digest(path.read_bytes())
        facts.setdefault(name, "is there")
        facts.update({f"{name}:{place}": value for place, value in parts.items()})
    return facts


def differences(old: Facts, new: Facts, *, ignore: Sequence[str] = (), new_fields: bool = False) -> dict[str, bool]:
    """A line for each fact in which two sides differ, and whether it counts.

    Parameters
    ----------
    old, new : dict
        As from `facts_of`.
    ignore : sequence of str
        Globs of facts that are not compared.
    new_fields : bool, default=False
        Whether new values in JSON files that are on both sides are listed but do not count.
    """
    found = {}
    for name in sorted(key for key in old.keys() | new.keys() if not matches(key, ignore)):
        file, _, place = name.partition(":")
        if name in old and name in new:
            if old[name] != new[name]:
                found[f"{name}: {old[name][:60]} became {new[name][:60]}"] = True
            continue
        side = "old" if name in old else "new"
        if not place:
            found[f"{name}: file only in {side}"] = True
        elif file in old and file in new:
            field = not file.endswith(".safetensors")
            found[f"{name}: {'field' if field else 'tensor'} only in {side}"] = not (
                field and side == "new" and new_fields
            )
    return found


class Side:
    """A checkout and the folder of what its commands leave."""

    def __init__(self, root: Path, folder: Path):
        """Take note of the sources; refuse a checkout whose kernels are missing, or that would not be imported."""
        self.root, self.folder = root.resolve(), folder
        if not list(self.root.glob("src/nip/**/*.so")):
            raise ValueError(f"{root} has no compiled kernel (src/nip/**/*.so): build it, or copy it there.")
        self.folder.mkdir(parents=True, exist_ok=True)
        sources = [path for path in files_of(self.root / "src") if path.suffix in (".py", ".so")]
        self.version = digest(*(part for path in sources for part in (path.name, path.read_bytes())))
        imported = self.run(["-c", "import nip; print(nip.__file__)"], self.folder)
        if not Path(imported.stdout.strip() or ".").is_relative_to(self.root):
            raise ValueError(f"Python imports another nip than {root}'s: {imported.stdout}{imported.stderr}")

    def run(self, words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Run Python with some words in a folder, with a fixed environment."""
        cache = folder / ".cache"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NIP_", "PYTHON"))}
        environment |= dict.fromkeys(("XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "MPLCONFIGDIR"), str(cache))
        environment |= dict.fromkeys(("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "PYTHONSAFEPATH"), "1")
        environment |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"}
        environment |= {"PYTHONPATH": str(self.root / "src"), "PYTHONPYCACHEPREFIX": str(self.folder / ".pycache")}
        try:
            return subprocess.run(
                [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(list(words), 124, "", f"stopped after {LIMIT} seconds")

    def leave(self, case: Case, key: str) -> Path:
        """The folder of what a case leaves: as it is where `key` is the same as before, else made anew."""
        kept, folder = self.folder / f"{case.name}.key", self.folder / case.name
        if kept.is_file() and kept.read_text() == key:
            return folder
        kept.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began = time.perf_counter()
        for number, command in enumerate(case.commands, 1):
            words = shlex.split(command)
            script = words[0].startswith("scripts/")
            done = self.run([str(self.root / words[0]), *words[1:]] if script else ["-m", "nip", *words], folder)
            form = "json" if done.stdout.startswith("{") else "txt" if case.printed else "log"
            (folder / f"printed-{number}.{form}").write_text(done.stdout)
            (folder / f"said-{number}.log").write_text(done.stderr)
            (folder / f"exit-code-{number}.txt").write_text(str(done.returncode))
            if done.returncode:
                print(f"{self.folder.name}: {command}: exit code {done.returncode}\n{done.stderr[-2000:]}", flush=True)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        kept.write_text(key)
        print(f"{self.folder.name}: {case.name} in {time.perf_counter() - began:.1f} s", flush=True)
        return folder

    def leave_all(self, cases: Sequence[Case], inputs: str, jobs: int) -> dict[str, Path]:
        """The folders of what some cases leave; those that they need come before them."""
        keys: dict[str, str] = {}
        futures: dict[str, Future[Path]] = {}

        def one(case: Case) -> Path:
            for name in case.needs:
                futures[name].result()
            return self.leave(case, keys[case.name])

        with locked(self.folder), ThreadPoolExecutor(jobs) as pool:
            for case in cases:
                before = [keys[name] for name in case.needs]
                keys[case.name] = digest(self.version, sys.version, inputs, *case.commands, *before)
                futures[case.name] = pool.submit(one, case)
            return {name: future.result() for name, future in futures.items()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from running in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def chosen(names: Sequence[str] | None) -> list[Case]:
    """The cases of some names and those that they need; all where none is named."""
    known = {case.name: case for case in CASES}
    if unknown := set(names or ()) - set(known):
        raise ValueError(f"There is no case {min(unknown)!r}. The cases are {', '.join(known)}.")
    wanted = set(names or known)
    wanted |= {need for name in wanted for need in known[name].needs}
    return [case for case in CASES if case.name in wanted]


def main(words: Sequence[str] | None = None) -> int:
    """Compare two checkouts; whether they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, nargs="?", help="Root of the checkout to compare with.")
    parser.add_argument("new", type=Path, nargs="?", help="Root of the checkout to check.")
    parser.add_argument("--out", type=Path, help="Folder of all that is run.")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="Run these cases (and those that they need).")
    parser.add_argument("--list", action="store_true", help="List the cases and run nothing.")
    parser.add_argument("--jobs", type=int, default=1, help="Cases at a time. Default: 1.")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="GLOB",
                        help="Leave out facts: CASE/FILE or CASE/FILE:FIELD.")  # fmt: skip
    parser.add_argument("--allow-new-fields", action="store_true", help="New fields of JSON files are no difference.")
    parser.add_argument("--most", type=int, default=20, help="Differences listed of a case. Default: 20.")
    asked = parser.parse_args(words)
    cases = chosen(asked.only)
    if asked.list:
        print("\n".join(f"{case.name:16} {case.covers}" for case in cases))
        return 0
    if not (asked.old and asked.new and asked.out):
        parser.error("OLD, NEW and --out are needed.")
    out, made_by = asked.out.resolve(), digest(Path(__file__).read_text().partition("def write_inputs")[2][:6000])
    with locked(out):
        mark = out / "inputs" / "made-by.txt"
        if not mark.is_file() or mark.read_text() != made_by:
            shutil.rmtree(out / "inputs", ignore_errors=True)
            write_inputs(out / "inputs")
            mark.write_text(made_by)
    inputs = digest(*(part for path in files_of(out / "inputs") for part in (path.name, path.read_bytes())))
    left = [
        Side(root, out / name).leave_all(cases, inputs, asked.jobs)
        for root, name in ((asked.old, "old"), (asked.new, f"new-{asked.new.resolve().name}"))
    ]
    differ = 0
    for case in cases:
        old, new = ({f"{case.name}/{name}": v for name, v in facts_of(side[case.name]).items()} for side in left)
        found = differences(old, new, ignore=asked.ignore, new_fields=asked.allow_new_fields)
        counted = sum(found.values())
        differ += counted > 0
        print(f"{case.name}: {counted or 'no'} difference{'s' * (counted != 1)} in {len(old)} facts")
        for line in sorted(found, key=found.__getitem__, reverse=True)[: asked.most]:
            print(f"  {line}" if found[line] else f"  ({line})")
        if len(found) > asked.most:
            print(f"  … and {len(found) - asked.most} more (--most)")
    return int(differ > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"compare_checkouts.py: {error}")

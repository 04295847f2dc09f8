"""Run the same small commands in two checkouts of nip and compare their outputs bit for bit.

For a change that must not change behaviour: ``python scripts/compare_checkouts.py OLD NEW --output-dir runs/golden``;
OLD and NEW are the roots of two checkouts with compiled kernels. Every case (``--list``) is a few commands that run in
a fresh folder, ``OUT/old/CASE`` or ``OUT/new-NAME/CASE``, where NAME is the name of NEW's folder. Compared are

- the exit code of every command, and its standard output where that is the result (JSON; scores as text);
- the checksum of every tensor in every safetensors file, by name, dtype and shape;
- the values in every JSON and ``metrics.jsonl`` file except times, speeds, versions and paths (`LEFT_OUT`); of a
  sentence only its numbers;
- the checksum of every other file, except those that contain times or prose (`PRESENT_ONLY`).

The exit code is 1 if they differ. The outputs of a side are reused while its sources, the case, its inputs and the
Python version stay the same. Bits differ between processors, so nothing in OUT is valid on another machine. All
commands run on the CPU with one thread.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import hashlib
import importlib
import inspect
import json
import os
import random
import re
import runpy
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from string import Template
from typing import Any

Facts = dict[str, str]

# JSON fields that are not compared: the pattern is searched in every key of a field's path.
LEFT_OUT = re.compile(
    r"second|runtime|_per_s|speed|mfu|utili[sz]ation|memory|peak_mib|peak_flops|version|environment|commit|^date|_time$|^time|^t$|"
    r"folder|command|host|^created|^began|^ended"
)
# Files of which only the existence is compared.
PRESENT_ONLY = [f"*.{suffix}" for suffix in ("html", "png", "svg", "pdf", "log", "md", "db", "pth", "bin")]
PRESENT_ONLY += ["environment.json", "*/environment.json", "*.tfevents.*"]
IGNORED = [".cache/*", "*.lock"]
ROWS = ["metrics.jsonl", "*/metrics.jsonl", "*_output.log"]  # a JSON value a line
BYTES = ["*prediction*.json", "*tokenizer*.json"]  # JSON files that are compared by bytes
LIMIT = 600  # seconds of a command
WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "sang", "on", "under", "mat", "tree", "house", "red", "blue"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# "NAME = words" defines $NAME. "CASE < NEEDED CASES: description" is followed by the commands of a case: arguments of
# `python -m nip`, or a script or module (-m). After ">" standard output is compared as text; {a,b}: one command with
# each. A command runs in the folder of its case; $I has the files of `write_inputs`, ../CASE those of another case.
CASES = """
I = ../../inputs
LRA = --data ../data-tasks/data --seq-len 64 --block-size 8 --batch-size 4 --eval-every 5 --json
TINY = --size tiny --layers 2 --width 32 --heads 2 --inner-width 64 --block-size 8
PRE = pretrain $TINY --track none --eval-every 8 --eval-samples 16 --json --out run
PACKED = --dataset ../data-corpus/packed --batch-size 8
TWO = -m torch.distributed.run --standalone --nproc_per_node 2 -m nip
FINE = --block_size 8 --max_steps 20 --learning_rate 1e-3 --logging_steps 2 --report_to none --seed 5 --json
STEPS = --eval_strategy steps --eval_steps 10 --save_steps 10
MRPC = --model_name_or_path $I/bert --task_name mrpc --data_dir $I/MRPC --max_seq_length 32 --do_train --do_eval
QA = qa --model_name_or_path $I/bert --max_seq_length 24 --doc_stride 6 --do_train --do_eval $FINE
SUM = summarization --train_file $I/texts.jsonl --validation_file $I/texts.jsonl --test_file $I/texts.jsonl $FINE
    --max_source_length 20 --max_target_length 6 --predict_with_generate --num_beams 2 --do_train --do_eval --do_predict

data-tasks: ListOps with its official files, probe, Pathfinder with its images; show and verify
  data listops --out data --train 80 --dev 20 --test 20 --min-length 4 --max-length 60 --seed 1 --tsv --json
  data probe --out data --param train=80 --param dev=20 --param test=20 --param seq_len=64 --param pairs=4
    --param queries=4 --param values=4 --json
  data pathfinder32-curv_baseline --out data --param train=12 --param dev=8 --param test=8 --png png --json
  data show listops --data data --count 3 --json
  data verify listops --data data --json
data-files < data-tasks: data sets read from official ListOps and Pathfinder files, IMDb's folder, the Brown corpus
  data listops --out data --from ../data-tasks/data/listops --json
  data pathfinder32-curv_baseline --out data --from ../data-tasks/png --split-rule shuffled --json
  data text --out data --from $I/aclImdb --json
  data brown-{genres,pairs} --out data --from $I/brown --param length=200 --json
  data texts --out texts --source brown --from brown=$I/brown --json
  data labelled-texts --out labelled --source genres,synopses --from genres=$I/brown --from synopses=$I/status --json
data-corpus: a packed corpus; one of sentence pairs with static masks; verify
  data corpus --from $I/corpus --out packed --train-tokenizer 200 --max-seq-length 64 --frac-test 0.2 --jobs 1
    --keep-text --json
  data corpus --from $I/corpus --out pairs --train-tokenizer 200 --max-seq-length 32 --frac-test 0.2 --jobs 2
    --masked-once --next-sentence --dup-factor 2 --max-predictions-per-seq 5 --json
  data verify packed --json
scripts-corpus: the original's corpus commands
  scripts/process_data.py -f $I/corpus -o text --type bookcorpus --n_processes 1
  scripts/shard_data.py --dir text -o shards --num_train_shards 2 --num_test_shards 1 --frac_test 0.4
  scripts/merge_shards.py --data shards --output_dir merged --ratio 3
  scripts/generate_samples.py --dir shards -o samples --model_name bert --vocab_file $I/vocab.txt --max_seq_length 32
    --dup_factor 2 --n_processes 1

lra-clean < data-tasks: clean protocol, original recipe, dropout; resumed; test only; other settings refused
  lra $LRA --max-steps {10,20} --out run
  lra $LRA --skip-train --out run
  lra $LRA --max-steps 20 --batch-size 5 --out run
lra-original < data-tasks: original protocol and log, softmax, accumulation; resumed; the original's run_tasks.py
  lra $LRA --protocol original --model softmax --original-log --eval-steps 2 --gradient-accumulation 2 --out run
    --max-steps {10,20}
  scripts/run_tasks.py --model local --task listops --seed 7 --seq_len 64 --block_size 8 --batch_size 4 --max_steps 10
    --eval_every 5 --eval-steps 2 --data ../data-tasks/data --out second
lra-modern < data-tasks: modern recipe with denoising pretraining and EMA; resumed
  lra $LRA --recipe modern --pretrain-steps 10 --ema 0.9 --layers 2 --model bigbird --param num_random_blocks=1
    --attention-dropout 0.1 --out run --max-steps {10,20}
lra-probe < data-tasks: retrieval probe, expander, gradient checkpointing, early stopping
  lra $LRA --task probe --model expander --max-steps 40 --patience 1 --gradient-checkpointing --out run
lra-graph < data-tasks: a searched graph from a file, bf16, truncated inputs, constant learning rate
  search --n-vertices 8 --degree 3 --steps 20 --out best.npz --json
  lra $LRA --graph best.npz --precision bf16 --cut 40 --schedule constant --max-steps 20 --out run
lra-two < data-tasks: two processes
  $TWO lra $LRA --max-steps 10 --dropout 0 --out run

pretrain-stages < data-corpus: length stages, batch size ramp, micro-batches, adamw; resumed to more steps
  $PRE $PACKED --lengths 32:0.5,64:0.5 --ramp-from 2 --micro-batch 2 --max-steps {10,20}
pretrain-pairs < data-corpus: next-sentence loss, lamb, pre-LN, RMSNorm, exponential decay
  $PRE --dataset ../data-corpus/pairs --batch-size 8 --next-sentence --optimizer lamb --max-steps 20 --model bigbird
    --architecture roberta-prelayernorm --norm rms --curve exp --decay-step 5
pretrain-modernbert < data-corpus: ModernBERT, adafactor, warmup-stable-decay, bf16, gradient checkpointing, dense
  $PRE $PACKED --architecture modernbert --optimizer adafactor --curve warmup-stable-decay --precision bf16
    --gradient-checkpointing --model softmax --lengths 64 --max-steps 20
pretrain-tokens < data-corpus: token budget, fp16, adam, cosine; --init-from; --dry-run
  $PRE $PACKED --lengths 32 --precision fp16 --optimizer adam --curve cosine --max-tokens 4000
  pretrain $TINY $PACKED --lengths 32 --init-from run --max-steps 5 --track none --out second --json
  pretrain $TINY $PACKED --lengths 32:0.9,64:0.1 --max-steps 100 --dry-run --json
pretrain-skips < data-corpus: loss spikes: skipped steps and rollbacks; resumed
  $PRE --dataset ../data-corpus/packed --batch-size 1 --micro-batch 1 --lengths 32 --spike 0.1 --bad-steps 1
    --rollback-every 10 --max-rollbacks 50 --learning-rate 0.02 --max-steps {80,130}
pretrain-diverges < data-corpus: NaN losses, rolled back until the run fails
  $PRE $PACKED --lengths 32 --bad-steps 2 --rollback-every 4 --max-rollbacks 2 --learning-rate 1e30 --max-steps 20
pretrain-original < data-corpus: the original's pretraining command with its flags; grids
  scripts/run_pretraining_sparse.py --dataset_path ../data-corpus/pairs --output_dir . --current_run_id 3 --job_name job
    --hidden_size 32 --num_hidden_layers 2 --num_attention_heads 2 --intermediate_size 64 --encoder_ln_mode pre-ln
    --max_position_embeddings 32 --train_batch_size 8 --train_micro_batch_size_per_gpu 4 --lr 1e-2 --curve exp
    --lr_schedule constant_step --num_warmup_steps 3 --optimizer_type adam --gradient_clipping 0.5 --max_steps 12
    --sparse_mask_prediction --block_size 8 --track none --do_validation --validation_epochs 2 --max_steps_per_epoch 3
  > pretrain grid $I/grid.yaml
  > scripts/generate_training_commands.py --param_file $I/grid.yaml --job_name job
pretrain-two < data-corpus: two processes, data-parallel and FSDP
  $TWO $PRE $PACKED --lengths 32 --max-steps 10 --dropout 0 --attention-dropout 0
  -m accelerate.commands.launch --config_file $I/fsdp.yaml --main_process_port 0 -m nip pretrain $TINY $PACKED
    --lengths 32 --max-steps 6 --dropout 0 --attention-dropout 0 --track none --out sharded --json

glue: train, evaluate, predict, checkpoints; nip checkpoints; the original's run_glue_predict.py
  glue $MRPC --do_predict $STEPS $FINE --output_dir run
  checkpoints run --json
  scripts/run_glue_predict.py --model_name_or_path run --output_dir predicted
glue-files < pretrain-stages: CSV files, weights from nip pretrain, patterns by layer, early stopping
  glue --model_name_or_path ../pretrain-stages/run --train_file $I/pairs.csv --validation_file $I/pairs.csv
    --attention_layers local,softmax --max_seq_length 48 --early_stopping_patience 1 --do_train --do_eval $STEPS $FINE
    --output_dir run
mlm: train and evaluate, extended positions; line by line from random weights
  mlm --model_name_or_path $I/bert --train_file $I/mlm.txt --validation_split_percentage 20 --max_seq_length 128
    --extend_positions reflect --do_train --do_eval $FINE --output_dir run
  mlm --config_name $I/bert --tokenizer_name $I/bert --train_file $I/mlm.txt --validation_file $I/mlm.txt
    --line_by_line --max_seq_length 32 --do_train --do_eval $FINE --output_dir second
qa: train, evaluate, predict; SQuAD 2 with unanswerable questions
  $QA --train_file $I/squad.json --validation_file $I/squad.json --test_file $I/squad.json --do_predict $STEPS
    --output_dir run
  $QA --train_file $I/squad2.json --validation_file $I/squad2.json --version_2_with_negative --output_dir second
summarization: BART and T5: train, evaluate, predict
  $SUM --model_name_or_path $I/{bart,t5} $STEPS --output_dir {bart,t5}
hpo: two trials of a grid over nip glue
  hpo glue $MRPC --block_size 8 --report_to none --max_steps 4 --output_dir run --sampler grid
    --space $I/space.json --trials 2 --pruner none --json

study < data-tasks: two patterns and their outcome; the paper's points
  study $LRA --patterns hypercube,local --seeds 0 --max-steps 6 --out study
  study --out study --results --json
  study --from-paper --json
report < lra-clean lra-modern pretrain-stages glue qa study: a report on runs of all kinds
  report ../lra-clean/run ../lra-modern/run ../pretrain-stages/run ../glue/run ../qa/run ../study/study --json
graphs: score, compare, show and search
  score hypercube --seq-len 512 --block-size 16 --depth 3 --json
  > compare --seq-len 256 --block-size 16 --csv
  > show bigbird --n-vertices 32
  search --n-vertices 24 --degree 4 --steps 50 --json
"""


@dataclass
class Case:
    """Commands that run one after the other in one folder, and the cases whose folders they read."""

    covers: str
    needs: list[str]
    commands: list[str] = field(default_factory=list)


def read_cases(text: str) -> dict[str, Case]:
    """Parse a text in the form of `CASES`: the cases by name.

    Examples
    --------
    >>> read_cases("N = --json\\na: first\\n  x\\nb < a: second\\n  y {1,2}\\n    $N")["b"]
    Case(covers='second', needs=['a'], commands=['y 1 --json', 'y 2 --json'])
    """
    named: dict[str, str] = {}
    cases: dict[str, Case] = {}
    for line in re.sub(r"\n {4,}", " ", text).splitlines():
        words = Template(line.strip()).substitute(named)
        if line.startswith("  "):
            lists = [found.split(",") for found in re.findall(r"\{(.*?)\}", words)] or [[""]]
            form = re.sub(r"\{.*?\}", "{}", words)
            cases[list(cases)[-1]].commands += [form.format(*values) for values in zip(*lists, strict=True)]
        elif found := re.fullmatch(r"([A-Z]+) = (.*)", words):
            named[found[1]] = found[2]
        elif line:
            name, covers = words.split(": ", 1)
            name, _, needs = name.partition(" < ")
            cases[name] = Case(covers, needs.split())
    return cases


def write_inputs(folder: Path) -> None:
    """Write the texts, data sets and random models that the cases read."""
    drawn = random.Random(7)

    def said(n: int) -> str:
        return " ".join(drawn.choice(WORDS) for _ in range(n))

    def lines(n: int, longest: int) -> list[str]:
        return [said(drawn.randint(4, longest)) for _ in range(n)]

    def write(name: str, *rows: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")

    for i in range(12):
        documents = ("\n".join(f"{line.capitalize()} {k}." for k, line in enumerate(lines(4, 30))) for _ in range(10))
        write(f"corpus/{i}.txt", "\n\n".join(documents))
    for part, kind in ((part, kind) for part in ("train", "test") for kind in ("pos", "neg")):
        for i in range(12):
            write(f"aclImdb/{part}/{kind}/{i}_7.txt", said(40))
    for name in (f"c{letter}{i:02d}" for letter in "abcdefghjklmnpr" for i in range(1, 7)):
        write(f"brown/{name}", *(" ".join(f"{word}/nn" for word in line.split()) for line in lines(12, 30)))
    for i in range(30):
        with (folder / "status").open("a") as file:
            file.write(f"Package: p{i}\nDescription: {said(4)}\n {said(20)}\n\n")
    write("mlm.txt", *lines(60, 12))
    write("vocab.txt", *SPECIAL, *WORDS, *(f"{mark}{letter}" for mark in ("", "##") for letter in "bcdefgh.0123456789"))
    write("grid.yaml", "hyperparameters: {lr: [1.0e-3, 5.0e-4], optimizer_type: [adam, lamb]}")
    write("fsdp.yaml", "distributed_type: FSDP", "num_machines: 1", "num_processes: 2", "use_cpu: true", "fsdp_config:",
          "  fsdp_version: 2", "  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP",
          "  fsdp_transformer_layer_cls_to_wrap: BertLayer")  # fmt: skip
    for name, n in (("train", 40), ("dev", 16), ("test", 8)):
        first = ["index" if name == "test" else "Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
        rows = [[str(i % 2), str(i), str(i), one, one if i % 2 else said(6)] for i, one in enumerate(lines(n, 8))]
        write(f"MRPC/{name}.tsv", *("\t".join(row) for row in [first, *rows]))
    write("pairs.csv", "sentence1,sentence2,label", *(f"{line},{said(5)},{len(line) % 3}" for line in lines(30, 9)))
    for name in ("squad", "squad2"):
        paragraphs = []
        for i in range(30):
            words, at = said(12).split(), drawn.randrange(12)
            answers = [{"text": words[at], "answer_start": len(" ".join(["", *words[:at]]))}]
            none = name == "squad2" and i % 3 == 0
            asked = {"id": f"q{i}", "question": f"the {words[at]}", "answers": [] if none else answers}
            paragraphs.append({"context": " ".join(words), "qas": [{**asked, "is_impossible": none}]})
        write(f"{name}.json", json.dumps({"version": "1.1", "data": [{"title": "words", "paragraphs": paragraphs}]}))
    rows_of_text = ({"article": text, "abstract": " ".join(text.split()[:3])} for text in lines(24, 16))
    write("texts.jsonl", *map(json.dumps, rows_of_text))
    write("space.json", json.dumps({"learning_rate": [1e-3, 1e-4]}))
    write_models(folder)


def write_models(folder: Path) -> None:
    """Write a BERT, a BART and a T5 with random weights, each with a tokenizer of whole words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from torch import manual_seed

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    parts = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    sizes: dict[str, dict[str, Any]] = {
        "Bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
                 "max_position_embeddings": 64},
        "Bart": {f"{side}_{part}": n for side in ("encoder", "decoder") for part, n in parts.items()}
        | {"d_model": 16, "max_position_embeddings": 32, "forced_eos_token_id": 3, **ids},
        "T5": {"d_model": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "d_ff": 32, **ids},
    }  # fmt: skip
    for family, kind in (("Bert", "Model"), ("Bart", "ForConditionalGeneration"), ("T5", "ForConditionalGeneration")):
        config = getattr(transformers, f"{family}Config")(vocab_size=len(vocabulary), **sizes[family])
        manual_seed(0)
        getattr(transformers, family + kind)(config).save_pretrained(folder / family.lower())
        longest = {"model_max_length": 64} if family == "Bert" else {}
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names, **longest)
        tokenizer.save_pretrained(folder / family.lower())


def digest(*contents: bytes | str) -> str:
    """The SHA-256 of the concatenated contents."""
    whole = hashlib.sha256()
    for content in contents:
        whole.update(content.encode() if isinstance(content, str) else content)
    return whole.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a name matches one of the globs."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def tensor_facts(path: Path) -> Iterator[tuple[str, str]]:
    """The name, dtype and shape of each tensor in a safetensors file, and its checksum; metadata is not compared."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            yield f"{name} {entry['dtype']} {entry['shape']}", digest(content[begin:end])


def json_facts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The path of each number, boolean, single word or sentence in a JSON value, and what is compared of it."""
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            # the manifest of a run has checksums of files whose headers contain times
            if not LEFT_OUT.search(str(key)) and not (key == "sha256" and "owned" in value):
                yield from json_facts(entry, f"{place}.{key}" if place else str(key))
    elif not isinstance(value, str) or not re.search(r"\s|/", value):
        yield place, json.dumps(value)
    elif "/" not in value.replace(" / ", ""):  # a sentence: its wording may change
        yield place, " ".join(sorted(re.findall(r"\d+(?:[.,]\d+)*", value)))


def facts_of(folder: Path) -> Facts:
    """What is compared of the files in a folder, by ``FILE`` or ``FILE:FIELD``."""
    facts: Facts = {}
    for path in files_of(folder):
        name = path.relative_to(folder).as_posix()
        parts: Iterable[tuple[str, str]] = ()
        if matches(name, IGNORED):
            continue
        facts[name] = "exists"
        if path.suffix == ".safetensors":
            parts = tensor_facts(path)
        elif matches(name, ROWS):
            parts = json_facts([json.loads(line) for line in path.read_text().splitlines()])
        elif matches(name, PRESENT_ONLY):
            continue
        elif path.suffix == ".json" and not matches(name, BYTES):
            parts = json_facts(json.loads(path.read_text()))
        else:
            content = path.read_bytes()
            facts[name] = content.decode() if name.startswith("exit-code-") else digest(content)
        facts.update({f"{name}:{place}": value for place, value in parts})
    return facts


def differences(old: Facts, new: Facts, *, ignore: Sequence[str] = (), new_fields: bool = False) -> dict[str, bool]:
    """One line for each difference between two sides, and whether it counts.

    Parameters
    ----------
    old, new : dict
        As returned by `facts_of`.
    ignore : sequence of str
        Globs of keys that are not compared.
    new_fields : bool, default=False
        Whether fields that only NEW has, in a JSON file that both have, are listed but do not count.
    """
    found = {}
    for name in sorted(key for key in old.keys() | new.keys() if not matches(key, ignore)):
        file, _, place = name.partition(":")
        if name in old and name in new:
            if old[name] != new[name]:
                found[f"{name}: {old[name][:40]} became {new[name][:40]}"] = True
            continue
        side = "old" if name in old else "new"
        if not place:
            found[f"{name}: file only in {side}"] = True
        elif file in old and file in new:
            kind = "tensor" if file.endswith(".safetensors") else "field"
            found[f"{name}: {kind} only in {side}"] = (kind, side, new_fields) != ("field", "new", True)
    return found


class Side:
    """A checkout and the folder in which its commands run."""

    def __init__(self, root: Path, folder: Path):
        """Check that kernels are compiled and that Python imports nip from this checkout; hash its sources."""
        self.root, self.folder = root.resolve(), folder
        self.idle: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()
        if not list(self.root.glob("src/nip/**/*.so")):
            raise ValueError(f"{root} has no compiled kernel (src/nip/**/*.so): build it or copy it there.")
        sources = [path for path in files_of(self.root / "src") if path.suffix in (".py", ".so")]
        self.version = digest(
            *(part for path in sources for part in (str(path.relative_to(self.root)), path.read_bytes()))
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NIP_", "PYTHON"))}
        kept |= dict.fromkeys(("XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "MPLCONFIGDIR"), str(folder / ".cache"))
        kept |= dict.fromkeys(("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "PYTHONSAFEPATH"), "1")
        kept |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"}
        self.environment = kept | {"PYTHONPATH": str(self.root / "src")}
        asked = [sys.executable, "-c", "import nip; print(nip.__file__)"]
        imported = subprocess.run(asked, env=self.environment, capture_output=True, text=True, check=True).stdout
        if not Path(imported.strip()).is_relative_to(self.root):
            raise ValueError(f"Python imports another nip than {root}'s: {imported.strip()}.")

    def leave(self, name: str, case: Case, key: str) -> Path:
        """Run the commands of a case unless its folder was made with the same `key`; return the folder."""
        kept, folder = self.folder / f"{name}.key", self.folder / name
        if kept.is_file() and kept.read_text() == key:
            return folder
        kept.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began, used = time.perf_counter(), 0.0
        for number, command in enumerate(case.commands, 1):
            words = shlex.split(command.removeprefix("> "))
            if words[0].startswith("scripts/"):
                words[0] = str(self.root / words[0])
            elif words[0] != "-m":
                words = ["-m", "nip", *words]
            printed, said = folder / f"printed-{number}", folder / f"said-{number}.log"
            code, seconds = self.run(words, folder, printed, said)
            used += seconds
            (folder / f"exit-code-{number}.txt").write_text(str(code))
            form = "json" if printed.read_bytes()[:1] in (b"{", b"[") else "log"
            printed.rename(printed.with_suffix(".txt" if command.startswith("> ") else f".{form}"))
            if code:
                print(f"{self.folder.name}: {name}, command {number}: exit code {code}", said.read_text()[-300:])
        kept.write_text(key)
        passed = time.perf_counter() - began
        print(f"{self.folder.name}: {name} in {passed:.1f} s, {used:.1f} s of CPU time", flush=True)
        return folder

    def run(self, words: Sequence[str], folder: Path, printed: Path, said: Path) -> tuple[int, float]:
        """Run Python with some arguments in a folder, its output to files; return the exit code and the CPU seconds."""
        serving = self.idle.get() or subprocess.Popen(
            [sys.executable, __file__, "--serve"], env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert serving.stdin
        assert serving.stdout
        serving.stdin.write(json.dumps([words, *map(str, (folder, printed, said))]).encode() + b"\n")
        serving.stdin.flush()
        code, seconds = serving.stdout.readline().split()
        self.idle.put(serving)
        return int(code), float(seconds)

    def leave_all(self, cases: Mapping[str, Case], inputs: Path, jobs: int) -> dict[str, Path]:
        """Run cases, each after those that it needs; return their folders."""
        keys: dict[str, str] = {}
        futures: dict[str, Future[Path]] = {}

        def one(name: str) -> Path:
            for need in cases[name].needs:
                futures[need].result()
            return self.leave(name, cases[name], keys[name])

        with locked(self.folder), ThreadPoolExecutor(jobs) as pool:
            shutil.rmtree(self.folder / ".cache", ignore_errors=True)
            for _ in range(jobs):
                self.idle.put(None)
            for name, case in cases.items():
                read = [inputs / name for name in sorted(set(re.findall(r"inputs/([\w.]+)", " ".join(case.commands))))]
                contents = (
                    file.read_bytes() for path in read for file in ([path] if path.is_file() else files_of(path))
                )
                before = (keys[need] for need in case.needs)
                keys[name] = digest(self.version, sys.version, *case.commands, *before, *contents)
                futures[name] = pool.submit(one, name)
            left = {name: future.result() for name, future in futures.items()}
            for serving in (self.idle.get() for _ in range(jobs)):
                if serving:
                    serving.communicate()  # closes its standard input, which ends it
            return left


def serve() -> None:
    """Run each command read from standard input in a fork of this process; print its exit code and CPU seconds.

    The libraries are imported once, before the fork, which saves most of the time of a small command. nip is not.
    """
    for name in ("accelerate", "datasets", "torch._dynamo", "transformers.trainer"):
        importlib.import_module(name)
    for line in sys.stdin:
        words, folder, *outputs = json.loads(line)
        if child := os.fork():
            _, status, used = os.wait4(child, 0)
            print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
            continue
        signal.alarm(LIMIT)
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, path in enumerate(outputs, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        sys.exit()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; wait while another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def chosen(names: Sequence[str] | None) -> dict[str, Case]:
    """The named cases and those that they need; all cases if no name is given."""
    cases = read_cases(CASES)
    if unknown := set(names or ()) - set(cases):
        raise ValueError(f"There is no case {min(unknown)!r}. The cases are {', '.join(cases)}.")
    wanted: set[str] = set()
    more = set(names or cases)
    while more:
        wanted |= more
        more = {need for name in more for need in cases[name].needs}
    return {name: case for name, case in cases.items() if name in wanted}


def main(words: Sequence[str] | None = None) -> int:
    """Compare two checkouts; return 1 if they differ, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, nargs="?", help="Root of the checkout to compare with.")
    parser.add_argument("new", type=Path, nargs="?", help="Root of the checkout to check.")
    parser.add_argument("--output-dir", "--out", dest="out", type=Path, help="Folder for all outputs.")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="Run only these cases and those that they need.")
    parser.add_argument("--list", action="store_true", help="List the cases and exit.")
    parser.add_argument("--jobs", type=int, default=1, help="Cases that run at the same time. Default: 1.")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="GLOB",
                        help="Do not compare CASE/FILE or CASE/FILE:FIELD.")  # fmt: skip
    parser.add_argument("--allow-new-fields", action="store_true", help="Fields that only NEW has do not count.")
    parser.add_argument("--most", type=int, default=20, help="Differences printed per case. Default: 20.")
    asked = parser.parse_args(words)
    cases = chosen(asked.only)
    if asked.list:
        print("\n".join(f"{name:20} {case.covers}" for name, case in cases.items()))
        return 0
    if not (asked.old and asked.new and asked.out):
        parser.error("OLD, NEW and --out are needed.")
    out, made_by = asked.out.resolve(), digest(inspect.getsource(write_inputs), inspect.getsource(write_models))
    with locked(out):
        mark = out / "inputs" / "made-by.txt"
        if not mark.is_file() or mark.read_text() != made_by:
            shutil.rmtree(out / "inputs", ignore_errors=True)
            write_inputs(out / "inputs")
            mark.write_text(made_by)
    left = [
        Side(root, out / name).leave_all(cases, out / "inputs", asked.jobs)
        for root, name in ((asked.old, "old"), (asked.new, f"new-{asked.new.resolve().name}"))
    ]
    differ = False
    for case in cases:
        old, new = ({f"{case}/{place}": fact for place, fact in facts_of(side[case]).items()} for side in left)
        found = differences(old, new, ignore=asked.ignore, new_fields=asked.allow_new_fields)
        counted = sum(found.values())
        differ |= counted > 0
        print(f"{case}: {counted or 'no'} difference{'s' * (counted != 1)} in {len(old)} facts")
        for line in sorted(found, key=found.__getitem__, reverse=True)[: asked.most]:
            print(f"  {line}" if found[line] else f"  ({line})")
        if len(found) > asked.most:
            print(f"  … and {len(found) - asked.most} more (--most)")
    return int(differ)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
        sys.exit()
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"compare_checkouts.py: {error}")

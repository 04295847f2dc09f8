"""Numbers without a meaning end a command with one sentence, before torch is imported or anything is written."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from nip.cli.pretrain import KINDS
from nip.data.corpus.corpus import FORMAT, KIND
from nip.data.masking import Vocabulary
from nip.pretraining.settings import flag

LRA = {
    **dict.fromkeys(
        ("learning-rate", "warmup", "ema", "mask-share", "pretrain-learning-rate"), ("nan", "inf", "0", "-1")
    ),
    **dict.fromkeys(("weight-decay", "dropout", "attention-dropout"), ("nan", "inf", "-1")),
    **dict.fromkeys(("max-steps", "seq-len", "cut", "positions", "block-size", "layers", "repeats"), ("0", "-1")),
    **dict.fromkeys(("batch-size", "gradient-accumulation", "eval-every", "eval-steps", "patience"), ("0", "-1")),
    **dict.fromkeys(("seed", "pretrain-steps"), ("-1",)),
}
CORPUS = {
    **dict.fromkeys(("near-duplicates", "frac-test"), ("nan", "inf", "-1", "2")),
    **dict.fromkeys(("shard-mb", "min-chars", "max-seq-length", "train-tokenizer"), ("0", "-5")),
    "max-chars": ("-1",),
    "jobs": ("0",),
}
MASKED_ONCE = {
    "masked-lm-prob": ("nan", "inf", "0", "-1"),
    **dict.fromkeys(("dup-factor", "max-predictions-per-seq"), ("0", "-1")),
    "seed": ("-1",),
}
BENCH = {
    "attention": ("seq-len", "block-size", "batch", "heads", "head-dim", "repeats", "threads"),
    "gpu": ("seq-len", "block-size", "batch", "heads", "head-dim", "repeats"),
    "scoring": ("seq-len", "block-size", "repeats"),
    "step": ("seq-len", "batch-size", "repeats"),
    "encoder": ("seq-len", "block-size", "batch", "layers", "width", "heads", "repeats"),
    "pretrain": ("seq-len", "tokens", "layers", "width", "heads", "vocab-size", "block-size", "repeats"),
}
# Zero is a value: no dropout, decay, clipping, warmup …
ZERO = (
    *("dropout", "attention_dropout", "mask_share", "random_share", "seed", "beta1", "beta2", "weight_decay"),
    *("min_coeff", "clip", "warmup", "warmup_steps", "eval_begin_share", "eval_end_share", "early_stop_loss"),
    *("early_stop_minutes", "spike", "max_rollbacks", "checkpoint_minutes"),
)

RUN = """
import contextlib, io, json, sys
import typer
from nip import cli
built = typer.main.get_command(cli.app)  # once: it takes longer than all else
cli.app = lambda args, **how: built(args, **how)
found = []
for command in json.load(sys.stdin):
    says = io.StringIO()
    code = None
    with contextlib.redirect_stderr(says), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(command)
        except SystemExit as end:
            code = end.code
    found.append([command, code, says.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""


def commands(corpus):
    def each(start, options):
        return [[*start, f"--{name}={value}"] for name, values in options.items() for value in values]

    pretrain = ["pretrain", "--dataset", corpus, "--max-steps", "5"]
    text = ["data", "corpus", "--from", "a.txt", "--out", "new", "--train-tokenizer", "300"]
    numbers = {
        name: (*(("nan", "inf", "-1") if kind is float else ("-1",)), *(() if name in ZERO else ("0",)))
        for name, kind in KINDS.items()
        if kind in (int, float) and name != "max_steps"
    }
    return [
        *each(["lra"], LRA),
        *each(["study", "--attention", "hypercube"], {**LRA, "workers": ("0", "-1"), "depths": ("0", "-1")}),
        ["study", "--results", "--out", "absent"],
        ["pretrain"],
        *([*pretrain, f"{flag(name)}={value}"] for name, values in numbers.items() for value in values),
        *([*pretrain, f"--lengths={text}"] for text in ("0", "-1", "nan", "128:nan", "128:2", "128:0,256:1")),
        *([*pretrain, f"--finetune-hours={text}"] for text in ("0", "-1", "nan", "inf", "2,2")),
        *([*pretrain[:3], f"--max-steps={text}"] for text in ("0", "-1")),
        *each(text, CORPUS),
        *each([*text, "--masked-once"], MASKED_ONCE),
        *each(["data", "listops"], dict.fromkeys(("train", "dev", "test", "min-length", "max-depth"), ("0", "-1"))),
        *each(["data", "probe"], {"seed": ("-1",), "param": ("seq_len=0", "train=0", "pairs=nan")}),
        *each(["data", "labelled-texts", "--out", "new"], {"seed": ("-1",)}),
        *each(["data", "show", "listops"], {"count": ("0", "-1"), "index": ("-1",)}),
        *(["bench", name, f"--{option}={value}"] for name, options in BENCH.items() for option in options
          for value in ("0", "-1")),
        *(["bench", "encoder", f"--{option}={value}"] for option in ("dropout", "hidden-dropout")
          for value in ("nan", "1", "-0.1")),
        *(["bench", "pretrain", f"--masked={value}"] for value in ("nan", "0", "1.1")),
        *(["bench", "corpus", "--from", "a.txt", "--tokenizer", "t", word] for word in ("--megabytes=0", "--jobs=0")),
        *(["compare", "--n-vertices", "16", option] for option in ("--jobs=0", "--depth=0")),
    ]  # fmt: skip


@pytest.fixture
def corpus(tmp_path_factory):
    """The manifest of a corpus: all that is read before numbers are checked."""
    folder = tmp_path_factory.mktemp("corpus")
    vocabulary = dataclasses.asdict(Vocabulary(300, 0, 1, 2, 3, (0, 1, 2, 3, 4)))
    settings = {"masked_once": False, "max_seq_length": 128}
    manifest = {"kind": KIND, "format": FORMAT, "splits": {}, "settings": settings}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "tokenizer": {"vocabulary": vocabulary}}))
    return str(folder)


def test_numbers_without_a_meaning_are_refused_before_torch_is_imported(corpus, tmp_path):
    (tmp_path / "a.txt").write_text("A sentence of some words.\n\n" * 20)
    environment = {**os.environ, "NIP_RUNS": str(tmp_path / "runs"), "NIP_DATA": str(tmp_path / "data")}
    asked = commands(corpus)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(asked),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(asked) > 300
    for command, code, says, imported in found:
        assert code == 2 and says.count("\n") == 1 and says.startswith("nip: "), (command, code, says)
        assert not imported, command
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]

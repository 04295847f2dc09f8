"""The child processes of every command end with it, although it is killed."""

import os
import random
import sys
from pathlib import Path

import pytest

from finetuning_files import write_model, write_mrpc
from nip.data import Rule, build_listops
from process_trees import SIGNALS, check_children_end

SCRIPTS = Path(__file__).parents[2] / "scripts"
NIP = [sys.executable, "-m", "nip"]
LOKY = "popen_loky"  # in the command line of joblib's processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Text that takes several seconds."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    words = [f"w{i:x}" for i in range(30_000)]
    for k in range(8):
        (folder / f"train{k}.txt").write_text("\n\n".join(" ".join(draw.choices(words, k=400)) for _ in range(1500)))
    return folder


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """Arguments of a finetuning that takes long."""
    folder = tmp_path_factory.mktemp("glue")
    write_model(folder / "model")
    write_mrpc(folder / "MRPC", train=3000)
    asked = ["--task_name", "mrpc", "--data_dir", folder / "MRPC"]
    return ["--model_name_or_path", folder / "model", "--max_seq_length", 32, "--block_size", 8, *asked]


@pytest.mark.parametrize("with_signal", SIGNALS)
def test_corpus(texts, tmp_path, with_signal):
    asked = ["--train-tokenizer", 500, "--shard-mb", 1, "--jobs", 2]
    command = [*NIP, "data", "corpus", "--from", texts, "--out", tmp_path / "out", *asked]
    check_children_end(command, 2, LOKY, with_signal=with_signal)


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", SIGNALS)
def test_a_script_of_the_original(texts, glue, tmp_path, with_signal):
    asked = ["--model_name", glue[1], "--n_processes", 2, "--max_seq_length", 32]
    command = [sys.executable, SCRIPTS / "generate_samples.py", "--dir", texts, "-o", tmp_path / "out", *asked]
    check_children_end(command, 2, LOKY, with_signal=with_signal)


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", SIGNALS)
def test_compare(with_signal):
    command = [*NIP, "compare", "--n-vertices", 4096, "--block-size", 16, "--jobs", 2]
    check_children_end(command, 2, LOKY, with_signal=with_signal)


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", SIGNALS)
def test_bench(texts, glue, with_signal):
    command = [*NIP, "bench", "corpus", "--from", texts, "--tokenizer", glue[1], "--megabytes", 50]
    check_children_end(command, 1, "nip.bench.corpus", with_signal=with_signal)


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", SIGNALS)
def test_study(tmp_path, with_signal):
    build_listops(tmp_path / "data", Rule(min_length=4, max_length=60), (60, 10, 12), seed=1)
    asked = ["--seq-len", 64, "--block-size", 4, "--batch-size", 4, "--eval-every", 2, "--max-steps", 100_000]
    command = [*NIP, "study", "--patterns", "softmax,hypercube", "--workers", 2, *asked, "--out", tmp_path / "study"]
    environment = {**os.environ, "NIP_DATA": str(tmp_path / "data")}
    check_children_end(command, 2, "nip.study.worker", with_signal=with_signal, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", SIGNALS)
def test_hpo(glue, tmp_path, with_signal):
    command = [*NIP, "hpo", "glue", *glue, "--trials", 2, "--output_dir", tmp_path / "out"]
    check_children_end(command, 1, "search.trial", with_signal=with_signal)


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", SIGNALS)
def test_data_loaders(glue, tmp_path, with_signal):
    workers = ["--dataloader_num_workers", 2, "--preprocessing_num_workers", 2]
    command = [
        *NIP,
        "glue",
        *glue,
        *workers,
        "--do_train",
        "--num_train_epochs",
        1000,
        "--output_dir",
        tmp_path / "out",
    ]
    check_children_end(command, 2, "nip glue", with_signal=with_signal)

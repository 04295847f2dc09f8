"""The compiled kernel under sanitizers, instruction set by instruction set; and compiled for another processor."""

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import setuptools

from nip.attention import native

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("check_kernel.cpp")
SANITIZERS = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
BUFFERS = ["q", "k", "v", "dout", "dlse", "out", "lse", "dq", "dk", "dv", "indptr", "indices", "query_ids", "key_ids"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(native.missing() is not None, reason=str(native.missing())),
]


@pytest.fixture(scope="module")
def flags():
    """The compiler flags in setup.py: for all builds, and for each instruction set."""
    setup, setuptools.setup = setuptools.setup, lambda **_: None
    try:
        script = runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = setup
    return script["FLAGS"], script["INSTRUCTION_SETS"]


def compile_check(folder, *options, compiler="g++"):
    program = folder / "check_kernel"
    subprocess.run([compiler, *options, f"-I{ROOT / 'csrc'}", SOURCE, "-o", program], check=True, capture_output=True)
    return program


def run(*command):
    environment = {
        "ASAN_OPTIONS": "detect_leaks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_WAIT_POLICY": "passive",  # cases may use more threads than there are cores
    }
    return subprocess.run(
        [str(word) for word in command], env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_a_thousand_cases_stay_in_bounds_leak_nothing_and_equal_the_formula(isa, flags, tmp_path):
    always, by_isa = flags
    program = compile_check(tmp_path, *always, *by_isa[isa], *SANITIZERS)
    done = run(program, 0, 1000)
    assert (done.returncode, done.stdout) == (0, "1000 cases\n"), done.stderr[-3000:]
    # The sanitizers do check the kernel: a buffer that is one element short, or a leak, terminates the program.
    for planted in BUFFERS:
        done = run(program, 0, 60, planted)
        assert done.returncode != 0, planted
        assert "ERROR: AddressSanitizer" in done.stderr, planted
    done = run(program, 0, 1, "leak")
    assert done.returncode != 0
    assert "detected memory leaks" in done.stderr


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="needs g++-aarch64-linux-gnu")
def test_compiles_for_arm_and_computes_there(flags, tmp_path):
    program = compile_check(tmp_path, *flags[0], "-static", compiler="aarch64-linux-gnu-g++")
    assert program.read_bytes()[18] == 183  # an ELF file for AArch64
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("compiled; to run it needs qemu-user")
    done = run(emulator, program, 0, 64)
    assert (done.returncode, done.stdout) == (0, "64 cases\n"), done.stderr[-3000:]

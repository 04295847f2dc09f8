"""Build the compiled attention kernel: one optional library for each instruction set.

Without a C++ compiler the installation still succeeds, and `nip doctor` prints how to build the kernel.
"""

import copy
import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Never -ffast-math, which sets flush-to-zero for the process, nor -march=native, which ties a wheel to one machine.
FLAGS = [
    "-std=c++17", "-O2", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp",
    "-fvisibility=hidden", "-Wno-psabi",
]  # fmt: skip
INSTRUCTION_SETS = {"portable": []}
if re.fullmatch("x86_64|amd64", platform.machine().lower()):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"]
    INSTRUCTION_SETS["avx512bf16"] = [*INSTRUCTION_SETS["avx512"], "-mavx512bf16"]


class BuildKernel(build_ext):
    """Build plain shared libraries for ctypes: they export no Python functions."""

    def build_extension(self, ext):
        """Compile each build in a separate folder: they share one source file and run in parallel."""
        own = copy.copy(self)
        own.build_temp = str(Path(self.build_temp) / ext.name)
        build_ext.build_extension(own, ext)

    def get_export_symbols(self, ext):
        """Return no symbols: the source declares which functions are visible."""
        return []


extensions = [
    Extension(
        f"nip.attention._native_{isa}",
        ["csrc/block_sparse.cpp"],
        depends=sorted(map(str, Path("csrc").glob("*.h"))),
        language="c++",
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=["-fopenmp"],
        optional=True,
    )
    for isa, flags in INSTRUCTION_SETS.items()
]

setup(
    ext_modules=extensions if sys.platform.startswith("linux") else [],
    cmdclass={"build_ext": BuildKernel},
    options={"build_ext": {"parallel": len(extensions)}},
)

"""The compiled attention kernel: one library for each instruction set, none of them needed to install or use nip.

Without a C++ compiler the installation succeeds all the same, and `nip doctor` says what to type for the kernel.
"""

import copy
import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Never -ffast-math, which changes the whole process, nor -march=native, which ties a wheel to one machine.
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
    """The builds are plain libraries that ctypes opens: no Python functions to export."""

    def build_extension(self, ext):
        """Compile into a folder of its own: all builds have one source, and are made at the same time."""
        own = copy.copy(self)
        own.build_temp = str(Path(self.build_temp) / ext.name)
        build_ext.build_extension(own, ext)

    def get_export_symbols(self, ext):
        """Leave the visible functions to the source."""
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

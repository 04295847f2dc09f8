import os
import platform

import pytest

from nip import processor

LINUX = "processor\t: 0\nmodel name\t: Abacus: mark 2\nflags\t\t: beads wire\n\nprocessor\t: 1\nmodel name\t: other\n"


@pytest.fixture
def description(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "_DESCRIPTION", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_the_first_processor_s_fields_are_read(description):
    description.write_text(LINUX)
    assert processor.processor_name() == "Abacus: mark 2"
    assert processor.processor_field("flags") == "beads wire"
    assert processor.processor_field("model") is None


@pytest.mark.parametrize("text", [None, "Features\t: asimd\n"])
def test_where_linux_names_no_model_python_does(description, text):
    if text is not None:
        description.write_text(text)
    assert processor.processor_name() == (platform.processor() or platform.machine())


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("flags\t: avx2 avx512f\n", False),
        ("flags\t: avx512f avx512_bf16\n", True),
        ("Features\t: asimd bf16\n", True),
        ("Features\t: asimd nobf16\n", False),
        (None, False),
    ],
)
def test_bfloat16_where_there_are_instructions_for_it(description, text, there):
    if text is not None:
        description.write_text(text)
    assert processor.computes_bf16() is there
    assert ("avx512f" in processor.processor_flags()) == ("avx512f" in (text or ""))


def test_cores_that_a_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert processor.usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processor.usable_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processor.usable_cores() == 1

"""The command line of the original's ``run_tasks.py``, translated to that of `nip lra`."""

from __future__ import annotations

from collections.abc import Sequence


def lra_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments of ``nip lra`` for those of ``run_tasks.py``.

    ``--skip_train`` takes 0 or 1, the protocol is the original's unless one is given, and its log is written.

    Raises
    ------
    ValueError
        If ``--skip_train`` has another value.

    Examples
    --------
    >>> lra_arguments(["--model", "hypercube", "--task=listops", "--skip_train", "1"])
    ['--protocol', 'original', '--original-log', '--model', 'hypercube', '--task=listops', '--skip-train']
    """
    translated: list[str] = []
    words = list(arguments)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name == "--skip-train":
            if not equals and words and not words[0].startswith("-"):
                value = words.pop(0)
            if value not in ("", "0", "1"):
                raise ValueError(f"--skip_train takes 0 or 1. Got {value!r} instead.")
            translated += [name] if value != "0" else []
        else:
            translated.append(f"{name}{equals}{value}")
    defaults = [] if any(word.split("=")[0] == "--protocol" for word in translated) else ["--protocol", "original"]
    return [*defaults, "--original-log", *translated]

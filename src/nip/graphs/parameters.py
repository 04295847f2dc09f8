"""Parameters of a pattern, or of generated data, as a command line spells them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def read_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; values are JSON, or else text.

    Raises
    ------
    ValueError
        If one is not name=value, or a name comes twice.

    Examples
    --------
    >>> read_parameters(["seed=3", "symmetric=true", "split=whole texts"])
    {'seed': 3, 'symmetric': True, 'split': 'whole texts'}
    """
    read: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--param takes name=value, such as --param seed=3. Got {pair!r} instead.")
        if name in read:
            raise ValueError(f"--param names {name!r} twice. Name it once.")
        try:
            read[name] = json.loads(text)
        except json.JSONDecodeError:
            read[name] = {"True": True, "False": False}.get(text, text)
    return read

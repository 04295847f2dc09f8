"""Sizes of BERT by their usual names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """How deep and how wide an encoder is; the fields' names are those of transformers."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int


SIZES: dict[str, Size] = {
    "tiny": Size(2, 128, 2, 512),
    "mini": Size(4, 256, 4, 1024),
    "small": Size(4, 512, 8, 2048),
    "medium": Size(8, 512, 8, 2048),
    "base": Size(12, 768, 12, 3072),
    "large": Size(24, 1024, 16, 4096),
}
"""Base and large as BERT has them [1]_, the smaller ones as in [2]_. Heads are 64 wide throughout.

References
----------
.. [1] J. Devlin and others, *BERT*, arXiv 1810.04805.
.. [2] I. Turc and others, *Well-Read Students Learn Better*, arXiv 1908.08962, table 1.
"""


def size_of(name: str) -> Size:
    """The size of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists them.

    Examples
    --------
    >>> size_of("large")
    Size(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
    """
    if name not in SIZES:
        raise ValueError(f"There is no size {name!r}. The sizes are {', '.join(SIZES)}.")
    return SIZES[name]

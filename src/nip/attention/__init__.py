"""Block-sparse attention over a pattern."""

from nip.attention.dispatch import BACKENDS, Backend, Choice, attend, backends, explain
from nip.attention.layout import BlockLayout, block_layout

__all__ = ["BACKENDS", "Backend", "BlockLayout", "Choice", "attend", "backends", "block_layout", "explain"]

"""Text corpora for pretraining: from raw text to shards of tokens, and from shards to masked samples."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nip.data.corpus.settings import Settings

if TYPE_CHECKING:
    from nip.data.corpus.batch import Batch
    from nip.data.corpus.build import build_corpus
    from nip.data.corpus.corpus import Corpus, open_corpus, read_manifest, verify
    from nip.data.masking import Masked, Masking, Vocabulary, mask

__all__ = [
    "Batch",
    "Corpus",
    "Masked",
    "Masking",
    "Settings",
    "Vocabulary",
    "build_corpus",
    "mask",
    "open_corpus",
    "read_manifest",
    "verify",
]

# Loaded on first use: they need numba, which the settings must not wait for.
_LAZY = {
    "Batch": "nip.data.corpus.batch",
    "build_corpus": "nip.data.corpus.build",
    **dict.fromkeys(("Corpus", "open_corpus", "read_manifest", "verify"), "nip.data.corpus.corpus"),
    **dict.fromkeys(("Masked", "Masking", "Vocabulary", "mask"), "nip.data.masking"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'nip.data.corpus' has no attribute {name!r}")

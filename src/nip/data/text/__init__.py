"""Text corpora for pretraining: from raw text to shards of tokens, and from shards to masked samples."""

from __future__ import annotations

from nip.data.text.batch import Batch
from nip.data.text.build import build_corpus
from nip.data.text.corpus import Corpus, open_corpus, read_manifest, verify
from nip.data.text.masking import Masked, Masking, Vocabulary, mask
from nip.data.text.settings import Settings

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

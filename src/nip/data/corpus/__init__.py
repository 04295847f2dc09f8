"""Text corpora for pretraining: from raw text to shards of tokens, and from shards to masked samples."""

from __future__ import annotations

from nip.data.corpus.batch import Batch
from nip.data.corpus.build import build_corpus
from nip.data.corpus.corpus import Corpus, open_corpus, read_manifest, verify
from nip.data.corpus.settings import Settings
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

"""Text corpora for pretraining: from raw text to shards of tokens, and from shards to masked samples."""

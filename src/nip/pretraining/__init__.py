"""Pretraining of BERT with attention over a pattern: model, objective, batches, budget, and the run itself."""

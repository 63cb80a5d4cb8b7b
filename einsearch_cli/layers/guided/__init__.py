"""Self-guided training: a dense matrix leads a structured layer through the first part of training."""

"""Data that networks are trained on: rows of tokens (`data.tokens`), images and batches."""

from einsearch_cli.data.batch import Batch as Batch

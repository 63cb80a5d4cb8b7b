"""The ground of everything that is trained: rows of tokens (`data.tokens`) and batches."""

from einsearch_cli.data.batch import Batch as Batch

"""The ground of everything that is trained: rows of tokens (`data.tokens`), batches, and what is kept on disk."""

from einsearch_cli.data.batch import Batch
from einsearch_cli.data.cache import default_cache_folder

__all__ = ["Batch", "default_cache_folder"]

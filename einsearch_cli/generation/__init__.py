"""Continuing text with a trained transformer: decoding with a key-value cache, sampling, text as it comes."""

from einsearch_cli.generation.decoding import Decoding, check_prompt
from einsearch_cli.generation.sampling import Sampling
from einsearch_cli.generation.text_stream import TextStream

__all__ = ["Decoding", "Sampling", "TextStream", "check_prompt"]

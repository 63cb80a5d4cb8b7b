"""Long rows of tokens to train on: token files, texts, and datasets of the Hugging Face hub."""

from einsearch_cli.data.tokens.block_sampler import BlockSampler, Sampler, check_length, held_out_batches
from einsearch_cli.data.tokens.opening import TokenData, check_source, open_tokens, write_tokens
from einsearch_cli.data.tokens.registry import open_tokenizer, tokenizer_from_json
from einsearch_cli.data.tokens.settings import DatasetSettings, DataSettings
from einsearch_cli.data.tokens.tokenizers import BytesTokenizer, CharacterTokenizer, Tokenizer

__all__ = [
    "BlockSampler",
    "BytesTokenizer",
    "CharacterTokenizer",
    "DataSettings",
    "DatasetSettings",
    "Sampler",
    "TokenData",
    "Tokenizer",
    "check_length",
    "check_source",
    "held_out_batches",
    "open_tokenizer",
    "open_tokens",
    "tokenizer_from_json",
    "write_tokens",
]

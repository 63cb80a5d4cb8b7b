"""Long rows of tokens to train on: token files, texts, and datasets of the Hugging Face hub.

A `DataError` refuses files, packages and names that cannot be used.
"""

from einsearch_cli.data.tokens.block_sampler import (
    BlockSampler as BlockSampler,
    Sampler as Sampler,
    check_length as check_length,
    held_out_batches as held_out_batches,
)
from einsearch_cli.data.tokens.opening import (
    TokenData as TokenData,
    check_source as check_source,
    open_tokens as open_tokens,
    write_tokens as write_tokens,
)
from einsearch_cli.data.tokens.registry import (
    open_tokenizer as open_tokenizer,
    tokenizer_from_json as tokenizer_from_json,
)
from einsearch_cli.data.tokens.settings import (
    MOST_HELD_OUT as MOST_HELD_OUT,
    DatasetSettings as DatasetSettings,
    DataSettings as DataSettings,
)
from einsearch_cli.data.tokens.tokenizers import (
    BytesTokenizer as BytesTokenizer,
    CharacterTokenizer as CharacterTokenizer,
    Tokenizer as Tokenizer,
)

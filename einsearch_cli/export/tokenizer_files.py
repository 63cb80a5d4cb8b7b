"""The tokenizer of a run as the files that `AutoTokenizer` of transformers reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from einsearch_cli.data.tokens import Tokenizer
from einsearch_cli.data.tokens.tokenizers import UNKNOWN

SAMPLE: Final = (
    "The 1,234 naïve cats' 'ｆ' don't\tcost\r\n  $56.7890 – über\n\n\n  cAFÉ 猫は🐈‍⬛ ¿x²? \u0000\u00a0\ufffd_ "
)
"""Sample text: words, numbers, white space of all kinds, and characters of one to four bytes."""


def tokenizer_files(tokenizer: Tokenizer, context: int) -> dict[str, str]:
    """The files of a tokenizer's folder: names and texts.

    Texts become the same tokens as in training; nothing is added at their ends.

    Args:
        tokenizer: the run's tokenizer.
        context: number of tokens that the model sees.
    """
    description = tokenizer.to_json()
    document = _DOCUMENTS[tokenizer.kind](description)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.end_of_text is not None:
        end = next(token for token, number in _vocabulary(document).items() if number == tokenizer.end_of_text)
        settings |= {"bos_token": end, "eos_token": end}
    return {
        "tokenizer.json": json.dumps(document, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
    }


def _vocabulary(document: Mapping[str, Any]) -> dict[str, int]:
    import tokenizers

    found: dict[str, int] = tokenizers.Tokenizer.from_str(json.dumps(document)).get_vocab(with_added_tokens=True)
    return found


def _from_huggingface(description: Mapping[str, Any]) -> Any:
    """The tokenizer's own file, without rules that add tokens at the ends of a text."""
    import tokenizers

    text = description["tokenizer_json"]
    document = json.loads(text)
    if tokenizers.Tokenizer.from_str(text).num_special_tokens_to_add(is_pair=False):
        document["post_processor"] = None
    return document


def _from_bytes(_: Mapping[str, Any]) -> Any:
    return _byte_level({bytes([number]): number for number in range(256)}, [], pattern=None, special={})


def _from_characters(description: Mapping[str, Any]) -> Any:
    """Byte-pair encoding without merges, which splits a text into its characters."""
    from tokenizers import Tokenizer as Backend, decoders, models

    characters = description["characters"]
    unknown = "<unk>" if UNKNOWN in characters else UNKNOWN
    vocabulary = {unknown: 0, **{character: number for number, character in enumerate(characters, start=1)}}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[], unk_token=unknown, fuse_unk=False))
    backend.decoder = decoders.Fuse()
    return json.loads(backend.to_str())


def _from_tiktoken(description: Mapping[str, Any]) -> Any:
    from einsearch_cli.data.tokens.subwords import TiktokenTokenizer

    encoding = TiktokenTokenizer.from_json(description)._encoding
    ranks = encoding._mergeable_ranks
    merges = [
        (word[:cut], word[cut:])
        for word in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(word))
        if word[:cut] in ranks and word[cut:] in ranks
    ]
    # Oniguruma, which is used there, reads {1,3}+ as a repetition of {1,3}; tiktoken reads it as a possessive
    # quantifier.
    pattern = re.sub(r"(\{\d*,?\d*\})\+", r"\1", encoding._pat_str)
    return _byte_level(ranks, merges, pattern, encoding._special_tokens)


def _byte_level(
    vocabulary: Mapping[bytes, int], merges: list[tuple[bytes, bytes]], pattern: str | None, special: Mapping[str, int]
) -> Any:
    """A tokenizer of bytes, each written as one printable character, within the words of a pattern.

    Special tokens keep their numbers in the vocabulary, and are not recognised in texts.
    """
    from tokenizers import Regex, Tokenizer as Backend, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    shown: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]

    def text(word: bytes) -> str:
        return "".join(shown[byte] for byte in word)

    words = {text(word): number for word, number in vocabulary.items()}
    pairs = [(text(left), text(right)) for left, right in merges]
    backend = Backend(models.BPE(vocab={**words, **special}, merges=pairs, ignore_merges=True))
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = (
        bytes_alone
        if pattern is None
        else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"), bytes_alone])
    )
    backend.decoder = decoders.ByteLevel()
    return json.loads(backend.to_str())


_DOCUMENTS: Final = {
    "bytes": _from_bytes,
    "characters": _from_characters,
    "tiktoken": _from_tiktoken,
    "huggingface": _from_huggingface,
}

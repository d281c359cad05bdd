"""Byte-level BPE tokenizers as the JSON of Hugging Face's `tokenizers`: read, checked, changed and built again.

Covers the tokenizers whose tokens are bytes written as printable characters (GPT-2's scheme: SmolLM2, Llama 3, Qwen 2).
SentencePiece and unigram tokenizers are refused with a `ModelError`; word pieces (BERT's) are only read and built again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from greenagent.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "added_tokens",
    "byte_tokens",
    "load_json",
    "load_word_pieces",
    "merge_pairs",
    "pre_name",
    "rebuild",
    "special_names",
    "with_digit_split",
]

_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_PRE_OF_PATTERN = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe"}


def load_json(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The tokenizer's JSON, checked to be a byte-level BPE that the functions here understand."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"tokenizer {type(tokenizer).__name__} has no `tokenizers` backend: a byte-level BPE is needed")
    data: dict[str, Any] = json.loads(backend.to_str())
    model = data["model"]
    if model["type"] != "BPE" or not any(step["type"] == "ByteLevel" for step in _pre_steps(data)):
        raise ModelError(f"tokenizer of type {model['type']} is not a byte-level BPE (GPT-2's scheme), the only one supported")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("byte_fallback"):
        raise ModelError("BPE with subword prefixes, word suffixes or byte fallback is not supported: a plain byte-level BPE is")
    return data


def load_word_pieces(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """The tokenizer's JSON when its model is WordPiece; ``None`` for any other."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    data: dict[str, Any] | None = json.loads(backend.to_str()) if backend is not None else None
    return data if data is not None and data["model"]["type"] == "WordPiece" else None


def _pre_steps(data: dict[str, Any]) -> list[dict[str, Any]]:
    pre = data.get("pre_tokenizer")
    if pre is None:
        return []
    return list(pre["pretokenizers"]) if pre["type"] == "Sequence" else [pre]


def byte_tokens() -> dict[int, str]:
    """GPT-2's printable character for each of the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + index) for index, byte in enumerate(others)}


def merge_pairs(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The merges in order of rank (older files write a pair as one string with a space)."""
    for merge in data["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def added_tokens(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tokens that are matched before BPE, by their text."""
    return {entry["content"]: entry for entry in data["added_tokens"]}


def special_names(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The tokens with a role, by the role's name (``bos_token`` and so on)."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if token and not isinstance(token, list)}


def with_digit_split(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer with every digit a word of its own, as SmolLM2 was trained and as GGUF's ``pre = smollm`` says.

    `transformers` loses this rule when it reads a GGUF file; engines keep it. A tokenizer that has the rule comes back as it is.
    """
    data = load_json(tokenizer)
    steps = _pre_steps(data)
    if any(step["type"] == "Digits" for step in steps):
        return tokenizer
    digits = {"type": "Digits", "individual_digits": True}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, *steps]}
    return rebuild(tokenizer, data)


def pre_name(data: dict[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer (``tokenizer.ggml.pre``).

    GPT-2's rule is called ``smollm`` when no token joins a digit to anything: the two then split alike (but for rare
    non-ASCII numerals), and the engine knows that name and not ``gpt-2``.
    """
    steps = {step["type"]: step for step in _pre_steps(data)}
    byte_level = steps.pop("ByteLevel")
    if byte_level.get("add_prefix_space"):
        raise ModelError("a tokenizer that adds a space before the text cannot be written to GGUF: set add_prefix_space to false")
    if byte_level.get("use_regex", True):
        if set(steps) == {"Digits"} and steps["Digits"]["individual_digits"]:
            return "smollm"
        if not steps:
            joined = any(len(token) > 1 and any("0" <= c <= "9" for c in token) for token in _plain_tokens(data))
            return "gpt-2" if joined else "smollm"
    elif set(steps) == {"Split"}:
        pattern = steps["Split"]["pattern"].get("Regex")
        if pattern in _PRE_OF_PATTERN:
            return _PRE_OF_PATTERN[pattern]
    raise ModelError(f"GGUF has no name for the pre-tokenizer {json.dumps(data['pre_tokenizer'])[:200]}")


def _plain_tokens(data: dict[str, Any]) -> Iterator[str]:
    added = added_tokens(data)
    return (token for token in data["model"]["vocab"] if token not in added)


def rebuild(tokenizer: PreTrainedTokenizerBase, data: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer made of ``data``, with the special tokens, chat template and limits of ``tokenizer``.

    It is a plain `TokenizersBackend`, which reloads from `tokenizer.json` exactly as it was saved.
    """
    from tokenizers import Tokenizer
    from transformers import TokenizersBackend

    known = added_tokens(data)
    extra = [str(token) for token in getattr(tokenizer, "extra_special_tokens", None) or [] if str(token) in known]
    built: PreTrainedTokenizerBase = TokenizersBackend(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)),
        **special_names(tokenizer),
        **({"extra_special_tokens": extra} if extra else {}),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_tokenization_spaces=False,
    )
    built.chat_template = tokenizer.chat_template
    return built

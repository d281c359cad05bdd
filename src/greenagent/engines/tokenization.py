"""Text to tokens and back, in the worker, exactly as ``transformers`` does it.

``tokenizers`` reads ``tokenizer.json`` (the same library and file ``transformers`` uses). A bare GGUF of a byte-level BPE has its
vocabulary and merges in its metadata. OpenVINO's own tokenizer is the last resort: it splits digits of other scripts differently
and was seen to take 20 times the CPU time (0.31 ms against 0.016 ms for a sentence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from greenagent.core.errors import MissingExtraError, ModelError

__all__ = ["FileCodec", "GgufFacts", "TextCodec", "codec_from_file", "read_gguf"]

_BYTE_LEVEL = {"smollm", "gpt-2", "default"}
_CONTROL, _USER_DEFINED = 3, 4


class TextCodec(Protocol):
    """Encodes and decodes; ``special`` adds what the tokenizer puts around a text by itself (a BOS token, for instance). Ids are
    smaller than ``size``."""

    @property
    def size(self) -> int: ...

    def encode(self, text: str, special: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class FileCodec:
    """A `tokenizers.Tokenizer`; special tokens are left out when decoding."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size()

    def encode(self, text: str, special: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "serve", "tokenising prompts") from error
    return tokenizers


def codec_from_file(path: Path) -> FileCodec:
    """Reads ``tokenizer.json``.

    Raises:
        ModelError: the file is not a tokenizer.
    """
    try:
        tokenizer = _tokenizers().Tokenizer.from_file(str(path))
        tokenizer.no_truncation()  # encoders' files may cut and pad, which transformers does only when asked
        tokenizer.no_padding()
        return FileCodec(tokenizer)
    except MissingExtraError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{path} is not a tokenizer: {error}") from error


@dataclass(frozen=True)
class GgufFacts:
    """What a GGUF's metadata says: ``codec`` is ``None`` for tokenizers other than byte-level BPE."""

    architecture: str
    context_length: int | None
    end_ids: frozenset[int]
    codec: FileCodec | None = field(compare=False)


def read_gguf(path: Path) -> GgufFacts:
    """Reads the metadata of a GGUF file (takes a second or two: prefer a model directory with ``tokenizer.json``).

    Raises:
        ModelError: the file is not a GGUF.
        MissingExtraError: the package ``gguf`` is not installed.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingExtraError("gguf", "serve", "reading a bare GGUF file") from error
    try:
        reader = GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise ModelError(f"{path} is not a readable GGUF file: {error}") from error

    def value(key: str) -> Any:
        found = reader.get_field(key)
        return None if found is None else found.contents()

    architecture = str(value("general.architecture"))
    ends = [value(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    codec = None
    if value("tokenizer.ggml.model") == "gpt2" and (value("tokenizer.ggml.pre") or "default") in _BYTE_LEVEL:
        tokens, merges = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges")
        kinds = value("tokenizer.ggml.token_type") or [1] * len(tokens)
        codec = _byte_level(tokens, merges, kinds)
        bos = value("tokenizer.ggml.bos_token_id")
        if value("tokenizer.ggml.add_bos_token") and bos is not None:
            codec = _with_bos(codec, tokens[bos], bos)
    return GgufFacts(architecture, value(f"{architecture}.context_length"), frozenset(e for e in ends if e is not None), codec)


def _byte_level(tokens: list[str], merges: list[str], kinds: list[int]) -> FileCodec:
    tk = _tokenizers()
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    tokenizer = tk.Tokenizer(tk.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=pairs, fuse_unk=False))
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tk.decoders.ByteLevel()
    special = [
        tk.AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL
    ]
    added = [tk.AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(added)
    return FileCodec(tokenizer)


def _with_bos(codec: FileCodec, bos: str, bos_id: int) -> FileCodec:
    template = _tokenizers().processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])
    codec._tokenizer.post_processor = template
    return codec

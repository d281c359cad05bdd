"""Vocabulary pruning: the tokens a task's texts need, and no others.

A specialised model uses a few thousand of its 50,000 tokens, while the embedding is a fifth of a small model's bytes and its
output projection much of the time per generated token. Kept are every byte, every token that encodes the texts, all that is
merged on the way to them, and the special tokens. So the texts encode as before, and any other text still encodes, in more
tokens. (A byte that the old vocabulary lacks stays lacking: SmolLM2 has no token for six control characters.)

Of word pieces (BERT's) every single character is kept in place of the bytes. The longest piece that fits is taken at each place,
so that it is still taken when others are gone.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenagent.compress.export.tokenizer_json import (
    added_tokens,
    byte_tokens,
    load_json,
    load_word_pieces,
    merge_pairs,
    rebuild,
    special_names,
)
from greenagent.core.errors import ModelError, nearest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Trimmed", "common_tokens", "trim_tokenizer", "trim_vocabulary"]

_BATCH = 2048


@dataclass(frozen=True)
class Trimmed:
    """A model and tokenizer of a smaller vocabulary; ``kept_ids[new_id]`` is the token's id in the old vocabulary.

    A teacher's logits over the old vocabulary become comparable with the new model's as ``teacher_logits[..., kept_ids]``.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kept_ids: list[int]


def trim_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, keep_tokens: Iterable[str] = ()
) -> Trimmed:
    """Cuts the vocabulary down to what ``texts`` need, plus ``keep_tokens``; the given model and tokenizer stay as they are.

    Give the texts as they will be encoded (prompts with their line end, answers with their end token). The new model's logits
    are the old one's at the kept ids. Raises `ModelError` for a tokenizer that is neither a byte-level BPE nor of word pieces,
    for an unknown name in ``keep_tokens``, and for a tokenizer with more tokens than the model has embeddings.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    special = {i for config in _configs(model) for ids in _token_ids(config).values() for i in ids}
    new_tokenizer, kept = trim_tokenizer(tokenizer, texts, keep_tokens=keep_tokens, keep_ids=(i for i in special if i < rows))
    if kept[-1] >= rows:
        raise ModelError(f"the tokenizer has a token of id {kept[-1]} but the model only {rows} embeddings: not a pair")
    return Trimmed(_slice_model(model, kept), new_tokenizer, kept)


def trim_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, keep_tokens: Iterable[str] = (), keep_ids: Iterable[int] = ()
) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The tokenizer's part of `trim_vocabulary`: the smaller tokenizer and, for each new id, the old one."""
    data = load_word_pieces(tokenizer) or load_json(tokenizer)
    added = added_tokens(data)
    ids: dict[str, int] = dict(data["model"]["vocab"]) | {content: entry["id"] for content, entry in added.items()}
    names = {i: token for token, i in ids.items()}
    wanted = _alphabet(data)
    wanted |= {names[i] for i in itertools.chain(_used_ids(data, texts), keep_ids) if i in names}
    wanted |= _special_tokens(tokenizer, data)
    for token in keep_tokens:
        if token not in ids:
            raise ModelError(f"keep_tokens: the vocabulary has no token {token!r}{nearest(token, added)}")
        wanted.add(token)
    kept_tokens = _close(wanted, data) if "merges" in data["model"] else wanted
    kept = sorted(ids[token] for token in kept_tokens)
    return rebuild(tokenizer, _renumber(data, {names[old]: new for new, old in enumerate(kept)})), kept


def common_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """The ``count`` commonest tokens: both BPE and word pieces are numbered by how common they are.

    Of word pieces the first are special ones and single characters, which are kept anyway: they do not count.
    """
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    data = load_word_pieces(tokenizer)
    if data is not None:
        alphabet = _alphabet(data)
        tokens = [token for token in tokens if token not in alphabet and not (token[0] == "[" and token[-1] == "]")]
    return list(tokens[:count])


def _alphabet(data: dict[str, Any]) -> set[str]:
    """The tokens that any word can be spelt with."""
    model = data["model"]
    if "merges" in model:
        return {token for token in byte_tokens().values() if token in model["vocab"]}
    prefix = model["continuing_subword_prefix"]
    return {token for token in model["vocab"] if len(token.removeprefix(prefix)) == 1}


def _configs(model: Any) -> list[Any]:
    """The configs that name tokens; an encoder generates nothing."""
    return [model.config, getattr(model, "generation_config", None)]


def _used_ids(data: dict[str, Any], texts: Iterable[str]) -> set[int]:
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(json.dumps(data))
    encoder.no_truncation()
    encoder.no_padding()
    used: set[int] = set()
    remaining = iter(texts)
    while batch := list(itertools.islice(remaining, _BATCH)):
        for encoding in encoder.encode_batch_fast(batch):
            used.update(encoding.ids)
    return used


def _special_tokens(tokenizer: PreTrainedTokenizerBase, data: dict[str, Any]) -> set[str]:
    """Tokens with a role (start, end, padding, unknown), those a post-processor inserts, those the chat template writes."""
    template = json.dumps(tokenizer.chat_template, ensure_ascii=False) if tokenizer.chat_template else ""
    found = set(special_names(tokenizer).values())
    found |= {content for content in added_tokens(data) if content in template}
    if unknown := data["model"].get("unk_token"):
        found.add(unknown)
    for processor in _processors(data.get("post_processor")):
        if processor["type"] == "TemplateProcessing":
            found |= {token for entry in processor["special_tokens"].values() for token in entry["tokens"]}
        else:
            found |= {processor[name][0] for name in ("sep", "cls") if name in processor}
    return found


def _close(wanted: set[str], data: dict[str, Any]) -> set[str]:
    """``wanted`` and every token merged on the way to one of them.

    A merge is never undone, so all merges in a word's encoding lie in the trees of its final tokens. Keeping those trees (all
    of them where a token can be merged in several ways), the merges left are fewer, in the same order, and hold every one the
    encoding took: at each step the best of all is still the best of those left. Hence the encoding is the same.
    """
    parts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for left, right in merge_pairs(data):
        parts[left + right].append((left, right))
    closed: set[str] = set()
    open_ = list(wanted)
    while open_:
        token = open_.pop()
        if token not in closed:
            closed.add(token)
            open_.extend(part for pair in parts[token] for part in pair)
    return closed


def _renumber(data: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """The tokenizer's JSON over the tokens of ``ids`` only, with those ids wherever it names one."""
    new = copy.deepcopy({key: value for key, value in data.items() if key != "model"})
    new["model"] = {**data["model"], "vocab": {token: i for token, i in ids.items() if token in data["model"]["vocab"]}}
    if "merges" in data["model"]:
        new["model"]["vocab"] = dict(ids)
        new["model"]["merges"] = [[a, b] for a, b in merge_pairs(data) if a in ids and b in ids and a + b in ids]
    new["added_tokens"] = [{**entry, "id": ids[entry["content"]]} for entry in data["added_tokens"] if entry["content"] in ids]
    for processor in _processors(new.get("post_processor")):
        if processor["type"] == "TemplateProcessing":
            for entry in processor["special_tokens"].values():
                entry["ids"] = [ids[token] for token in entry["tokens"]]
        else:
            for name in {"sep", "cls"} & set(processor):
                processor[name][1] = ids[processor[name][0]]
    if new.get("padding"):
        new["padding"]["pad_id"] = ids.get(new["padding"]["pad_token"], 0)
    return new


def _processors(processor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if processor is not None:
        if processor["type"] == "Sequence":
            for inner in processor["processors"]:
                yield from _processors(inner)
        else:
            yield processor


def _token_ids(config: Any) -> dict[str, list[int]]:
    """The attributes of a config that name tokens by id, such as ``eos_token_id``, each as a list."""
    found = {}
    for name, value in (config.to_dict() if config is not None else {}).items():
        if name.endswith("_token_id") and value is not None:
            found[name] = [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int) and i >= 0]
    return found


def _slice_model(model: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """A copy of the model with only the ``kept`` rows of embedding and output projection; tied weights stay tied."""
    import torch

    index = torch.tensor(kept)
    memo: dict[int, Any] = {}
    modules = [m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None]
    for parameter in (p for module in modules for p in module.parameters()):
        memo[id(parameter)] = _rows(parameter, index)
    new: PreTrainedModel = copy.deepcopy(model, memo)
    new_ids = {old: i for i, old in enumerate(kept)}
    for config in _configs(new):
        for name, ids in _token_ids(config).items():
            mapped = [new_ids[i] for i in ids if i in new_ids]
            setattr(config, name, mapped if len(mapped) > 1 else (mapped[0] if mapped else None))
    new.config.vocab_size = len(kept)
    embedding: Any = new.get_input_embeddings()
    embedding.num_embeddings = len(kept)
    if embedding.padding_idx is not None:
        embedding.padding_idx = new_ids.get(embedding.padding_idx)
    if (head := new.get_output_embeddings()) is not None:
        head.out_features = len(kept)
    for module in new.modules():
        if hasattr(module, "vocab_size"):
            module.vocab_size = len(kept)
        if getattr(module, "padding_idx", None) is not None and module is not embedding:
            module.padding_idx = embedding.padding_idx
    return new


def _rows(parameter: torch.nn.Parameter, index: torch.Tensor) -> torch.nn.Parameter:
    import torch

    sliced = parameter.detach()[index.to(parameter.device)].clone()
    return torch.nn.Parameter(sliced, requires_grad=parameter.requires_grad)

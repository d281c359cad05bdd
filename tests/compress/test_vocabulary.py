import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, TokenizersBackend

from greenagent.compress.export.tokenizer_json import load_json, merge_pairs, with_digit_split
from greenagent.compress.prune.vocabulary import trim_tokenizer, trim_vocabulary
from greenagent.core.errors import ModelError
from greenagent.engines.models import embedded_gguf

SENTENCES = [
    "how do i set a timer for ten minutes",
    "what's the weather in Zürich today? it's raining",
    "play some jazz at 20 percent volume",
    "transfer 1,250.50 dollars to savings — now",
    "日本語の天気を教えて 🙂",
    "  indented\n\n\ttext with  double  spaces ",
]
SPECIAL = ["<|unk|>", "<|start|>", "<|end|>", "<|tool|>", "<|never|>"]
TEMPLATE = "{% for m in messages %}<|start|>{{ m.content }}<|tool|>{% endfor %}"


def train_tokenizer() -> TokenizersBackend:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(SENTENCES * 3, trainer)
    core.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 2)])
    tokenizer = TokenizersBackend(
        tokenizer_object=core, unk_token="<|unk|>", bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_llama(vocab_size: int, *, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


TOKENIZER = train_tokenizer()
SMALL, KEPT = trim_tokenizer(TOKENIZER, SENTENCES[:3])
texts = st.text(max_size=60)


def test_trimming_drops_something_and_keeps_what_has_a_role() -> None:
    assert len(KEPT) < len(TOKENIZER)
    kept = set(SMALL.get_vocab())
    assert {"<|unk|>", "<|start|>", "<|end|>", "<|tool|>"} <= kept
    assert "<|never|>" not in kept
    assert sorted(KEPT) == KEPT
    names = TOKENIZER.convert_ids_to_tokens(KEPT)
    assert SMALL.convert_ids_to_tokens(list(range(len(KEPT)))) == names


def test_every_merge_left_has_its_parts_and_result() -> None:
    data = load_json(SMALL)
    vocabulary = data["model"]["vocab"]
    left = list(merge_pairs(data))
    assert left
    assert all(a in vocabulary and b in vocabulary and a + b in vocabulary for a, b in left)
    old = list(merge_pairs(load_json(TOKENIZER)))
    assert left == [pair for pair in old if pair in set(left)]


def test_texts_of_the_corpus_encode_as_before() -> None:
    for text in SENTENCES[:3]:
        new = SMALL(text).input_ids
        assert [KEPT[i] for i in new] == TOKENIZER(text).input_ids
        assert new[-1] == SMALL.eos_token_id


@given(texts)
def test_any_text_round_trips(text: str) -> None:
    ids = SMALL(text, add_special_tokens=False).input_ids
    assert SMALL.decode(ids) == text
    assert max(ids, default=0) < len(KEPT)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(texts, min_size=1, max_size=5))
def test_any_corpus_encodes_as_before(corpus: list[str]) -> None:
    small, kept = trim_tokenizer(TOKENIZER, corpus)
    for text in corpus:
        assert [kept[i] for i in small(text).input_ids] == TOKENIZER(text).input_ids


@pytest.mark.parametrize("tied", [True, False])
def test_logits_over_the_kept_tokens_are_the_same(tied: bool) -> None:
    model = tiny_llama(len(TOKENIZER), tied=tied)
    trimmed = trim_vocabulary(model, TOKENIZER, SENTENCES[:3])
    ids = trimmed.tokenizer(SENTENCES[0], return_tensors="pt").input_ids
    with torch.no_grad():
        old = model(torch.tensor(trimmed.kept_ids)[ids]).logits[..., trimmed.kept_ids]
        new = trimmed.model(ids).logits
    assert new.shape[-1] == len(trimmed.kept_ids)
    assert torch.equal(old, new)
    assert (trimmed.model.lm_head.weight is trimmed.model.model.embed_tokens.weight) == tied


def test_the_given_model_stays_as_it_is_and_the_new_one_learns_on_its_own() -> None:
    model = tiny_llama(len(TOKENIZER), tied=True)
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    trimmed = trim_vocabulary(model, TOKENIZER, SENTENCES[:1])
    with torch.no_grad():
        for parameter in trimmed.model.parameters():
            parameter.zero_()
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, before)
    assert model.config.vocab_size == len(TOKENIZER)
    assert model.model.embed_tokens.weight.abs().sum() > 0


def test_ids_in_the_configs_follow() -> None:
    tokenizer = train_tokenizer()
    model = tiny_llama(len(tokenizer), tied=True)
    model.config.eos_token_id = [2, 3]
    model.generation_config.eos_token_id = [2, 3]
    tokenizer.chat_template = None
    trimmed = trim_vocabulary(model, tokenizer, ["a"])
    names = trimmed.tokenizer.convert_ids_to_tokens(trimmed.model.config.eos_token_id)
    assert names == ["<|end|>", "<|tool|>"]
    assert trimmed.model.generation_config.eos_token_id == trimmed.model.config.eos_token_id
    assert trimmed.model.config.bos_token_id == trimmed.tokenizer.bos_token_id
    assert trimmed.model.config.vocab_size == len(trimmed.tokenizer) == trimmed.model.model.embed_tokens.num_embeddings


def test_saved_and_reloaded_it_is_the_same(tmp_path: Path) -> None:
    trimmed = trim_vocabulary(tiny_llama(len(TOKENIZER), tied=True), TOKENIZER, SENTENCES)
    trimmed.model.save_pretrained(tmp_path)
    trimmed.tokenizer.save_pretrained(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokenizer(SENTENCES[4], return_tensors="pt").input_ids
    assert ids.tolist()[0] == trimmed.tokenizer(SENTENCES[4]).input_ids
    assert tokenizer.chat_template == TEMPLATE
    with torch.no_grad():
        assert torch.equal(model(ids).logits, trimmed.model(ids).logits)


def test_keep_tokens_are_kept_and_an_unknown_one_is_named() -> None:
    small, _ = trim_tokenizer(TOKENIZER, ["a"], keep_tokens=["<|never|>"])
    assert "<|never|>" in small.get_vocab()
    with pytest.raises(ModelError, match=r"<\|nevr\|>.*did you mean '<\|never\|>'"):
        trim_tokenizer(TOKENIZER, ["a"], keep_tokens=["<|nevr|>"])


def test_a_tokenizer_that_is_not_a_byte_level_bpe_is_refused() -> None:
    words = TokenizersBackend(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<u>": 1}, unk_token="<u>")))
    with pytest.raises(ModelError, match="WordLevel"):
        trim_tokenizer(words, ["a"])


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    with pytest.raises(ModelError, match="not a pair"):
        trim_vocabulary(tiny_llama(100, tied=True), TOKENIZER, SENTENCES)


def test_the_digit_rule_is_added_once() -> None:
    data = load_json(TOKENIZER)
    plain_core = Tokenizer.from_str(json.dumps({**data, "pre_tokenizer": data["pre_tokenizer"]["pretokenizers"][1]}))
    plain = TokenizersBackend(tokenizer_object=plain_core, eos_token="<|end|>")
    split = with_digit_split(plain)
    assert load_json(split)["pre_tokenizer"] == data["pre_tokenizer"]
    assert with_digit_split(split) is split
    assert split.eos_token == "<|end|>"


@pytest.mark.model
def test_the_embedded_models_tokenizer_is_trimmed_alike() -> None:
    file = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    corpus = [f"{text}\n" for text in SENTENCES] + ["set timer|minutes=10<|im_end|>"]
    small, kept = trim_tokenizer(tokenizer, corpus)
    assert 235 < len(kept) < 500
    for text in corpus:
        assert [kept[i] for i in small(text).input_ids] == tokenizer(text).input_ids
    for text in ["Unseen wörds, 価格は1,234円 ½ 🚀", "<|im_start|>user\n<repo_name>"]:
        assert small.decode(small(text).input_ids) == text
    assert small.eos_token_id == small.get_vocab()["<|im_end|>"]
    assert small.chat_template == tokenizer.chat_template

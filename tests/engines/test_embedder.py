"""Sentence encoders: a tiny random BERT, and (marked) MiniLM, against ``transformers`` pooled by hand."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greenagent.core.engine import EngineRequest
from greenagent.core.errors import ModelError, RequestError
from greenagent.engines.base import EngineSettings, PromptTooLongError
from greenagent.engines.embedder import EmbedderEngine
from greenagent.engines.encoder.sentence import Pooling, open_embedder, read_pooling
from greenagent.engines.models import MINILM, encoder_directory, resolve_model
from greenagent.engines.registry import engine_for

TEXTS = ["The weather is fine.", "jazz", "A man is eating a piece of bread in the kitchen."]


def request(name: str, **fields: Any) -> EngineRequest:
    return EngineRequest.model_validate({"request_id": name, "stream": False, **fields})


def vectors(engine: EmbedderEngine, *requests: EngineRequest) -> np.ndarray:
    for one in requests:
        engine.submit(one)
    found: dict[str, np.ndarray] = {}
    while engine.has_work():
        for event in engine.step():
            assert event.finish_reason == "stop"
            assert event.prompt_tokens == engine.prefill[event.request_id]
            found[event.request_id] = np.frombuffer(base64.b64decode(event.text), "<f4")
    return np.stack([found[one.request_id] for one in requests])


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT without a head, with MiniLM's tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *letters, *(f"##{letter}" for letter in letters), "."]
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def by_hand(folder: Path, texts: list[str], *, first: bool = False) -> np.ndarray:
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
        vector = hidden[0] if first else hidden.mean(0)
        found.append((vector / vector.norm()).numpy())
    return np.stack(found)


def test_a_bare_bert_is_pooled_by_its_mean(tiny_bert: Path) -> None:
    assert engine_for("auto", tiny_bert) == "embedder"
    assert resolve_model(tiny_bert).interface.kind == "embedding"
    engine = open_embedder(str(tiny_bert), EngineSettings(max_batch=2, options={"precision": "f32"}))
    found = vectors(engine, *(request(str(i), prompt=text) for i, text in enumerate(TEXTS)))
    assert found == pytest.approx(by_hand(tiny_bert, TEXTS), abs=1e-4)
    assert engine.facts["dimensions"] == 16
    ids = engine._network.encode(TEXTS[1])
    assert vectors(engine, request("ids", prompt_ids=ids)) == pytest.approx(found[1:2], abs=1e-5)
    with pytest.raises(PromptTooLongError, match="at most 64 fit"):
        engine.submit(request("long", prompt="a " * 100))
    with pytest.raises(RequestError, match="token 99 is none"):
        engine.submit(request("odd", prompt_ids=[99]))
    with pytest.raises(RequestError, match="the text is empty"):
        engine.submit(request("none", prompt=""))


def test_a_text_that_waits_can_be_dropped(tiny_bert: Path) -> None:
    engine = open_embedder(str(tiny_bert), EngineSettings(options={"precision": "f32"}))
    engine.submit(request("a", prompt="a"))
    engine.submit(request("b", prompt="b"))
    engine.cancel("a")
    engine.cancel("unknown")
    assert {e.request_id: e.finish_reason for e in engine.step()} == {"a": "cancelled", "b": "stop"}
    assert not engine.has_work()


class Lengths:
    """A network whose vectors are the batch's longest length: what padding costs."""

    most_tokens, vocabulary = 100, 1000

    def encode(self, text: str) -> list[int]:
        return [1] * len(text)

    def vectors(self, texts: Any) -> np.ndarray:
        return np.full((len(texts), 1), max(map(len, texts)), np.float32)


def test_texts_of_about_one_length_go_together() -> None:
    engine = EmbedderEngine("lengths", Lengths(), EngineSettings(max_batch=2), {})
    found = vectors(engine, *(request(str(i), prompt="x" * length) for i, length in enumerate([3, 90, 4, 91, 5])))
    assert found[:, 0].tolist() == [4, 91, 4, 91, 5]


def test_what_a_configuration_asks_for(tmp_path: Path) -> None:
    def write(name: str, data: Any) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(data))

    write("config.json", {"max_position_embeddings": 128})
    assert read_pooling(tmp_path) == Pooling(first=False, normalise=True, most_tokens=128)
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1", "type": "x.Pooling"}]
    write("modules.json", modules)
    write("sentence_bert_config.json", {"max_seq_length": 64})
    write("1/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    assert read_pooling(tmp_path) == Pooling(first=True, normalise=False, most_tokens=64)
    write("1/config.json", {"pooling_mode_max_tokens": True})
    with pytest.raises(ModelError, match="pooling by max_tokens is not supported"):
        read_pooling(tmp_path)
    write("modules.json", [*modules[:1], {"path": "2", "type": "sentence_transformers.models.Dense"}])
    with pytest.raises(ModelError, match="layers of type Dense"):
        read_pooling(tmp_path)


@pytest.mark.model
def test_minilm_is_what_its_makers_publish() -> None:
    assert engine_for("auto", MINILM) == "embedder"
    engine = open_embedder(MINILM, EngineSettings(options={"precision": "f32"}))
    assert (engine.facts["dimensions"], engine.facts["context_length"]) == (384, 256)
    found = vectors(engine, *(request(str(i), prompt=text) for i, text in enumerate(TEXTS)))
    assert found == pytest.approx(by_hand(encoder_directory(MINILM), TEXTS), abs=1e-4)
    near, far = vectors(engine, request("n", prompt="Someone eats bread."), request("f", prompt="The stock market fell."))
    assert near @ found[2] > far @ found[2] + 0.3

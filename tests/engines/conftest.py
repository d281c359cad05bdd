"""A tiny random Llama with its tokenizer, and clients of a stub worker."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.engines.worker import WorkerClient

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "what is the weather in paris",
    "play some jazz, please",
    "naïve café 日本 👍",
]


async def collect(client: Any, **fields: Any) -> list[TokenEvent]:
    """All events of one request."""
    return [event async for event in client.generate(EngineRequest(**{"request_id": "r", **fields}))]


def text_of(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Starts stub workers that are ended with the test."""
    clients: list[WorkerClient] = []

    async def _start(**options: Any) -> WorkerClient:
        settings = {key: options.pop(key) for key in ("max_batch", "on_step", "on_progress") if key in options}
        client = await WorkerClient.start("words", engine="stub", options=options, **settings)
        clients.append(client)
        return client

    yield _start
    for client in clients:
        await client.aclose()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a two-layer Llama of random weights and a byte-level tokenizer, as ``transformers`` saves them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>", "<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
        pad_token_id=fast.pad_token_id,
        initializer_range=0.4,
    )
    path = tmp_path_factory.mktemp("tiny-llama")
    LlamaForCausalLM(config).save_pretrained(path)
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a model directory: a GGUF in half precision beside the safetensors."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from greenagent.compress.export.gguf import export_gguf

    path = tmp_path_factory.mktemp("tiny") / "model"
    shutil.copytree(tiny_llama, path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    export_gguf(model, tokenizer, path / "model-F16.gguf", "F16", "tiny")
    return path

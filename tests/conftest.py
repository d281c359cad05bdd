"""What holds for every test: no network but loopback, no hub, and a replayable search for counterexamples."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported, so it is set before any test module is
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small are quickest on one thread, on a busy machine ten times
for _name in ("GREENAGENT_ZONE", "GREENAGENT_LEDGER"):  # a developer's own settings must not reach the tests
    os.environ.pop(_name, None)

import pytest
from hypothesis import HealthCheck, settings

for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:  # in a shell's background, or under nohup: what is tested would inherit it
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("house")

_LOOPBACK_NAMES = {"localhost", "::1", "0.0.0.0", "::", ""}


class NetworkBlockedError(RuntimeError):
    """A test tried to reach something other than this machine."""


def _allowed(host: Any) -> bool:
    if host is None:
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    return name in _LOOPBACK_NAMES or name.startswith("127.")


def _check(host: Any) -> None:
    if not _allowed(host):
        raise NetworkBlockedError(f"tests may reach loopback only, not {host!r}")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real_connect, real_connect_ex, real_getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        real_connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return real_connect_ex(self, address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _check(host)
        return real_getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# A teacher small enough to train in a test: a freshly drawn Llama over a byte-level vocabulary, and a task it can learn.

COLOURS = ("red", "green", "blue", "black")


def task_rows(count: int) -> list[dict[str, str]]:
    """``paint 3 red`` -> ``paint_red``: learnable from the words alone."""
    return [{"text": f"please paint room {i} in {COLOURS[i % 4]}", "intent": f"paint_{COLOURS[i % 4]}"} for i in range(count)]


@pytest.fixture(scope="session")
def task_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("task")
    for split, rows in (("train", task_rows(160)), ("val", task_rows(40))):
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return directory


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: 4 layers, hidden 64, 96 neurons, 2 heads, about 400 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, TokenizersBackend

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([f"{r['text']}\n{r['intent'].replace('_', ' ')} other words too" for r in task_rows(60)], trainer)
    tokenizer = TokenizersBackend(
        tokenizer_object=core, unk_token="<|endoftext|>", bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    directory = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without a head: 4 layers, hidden 64, 96 neurons, 4 heads, about 200 word pieces."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizer

    core = BertWordPieceTokenizer()
    core.train_from_iterator(
        [f"{r['text']} 0123456789 {r['intent']}" for r in task_rows(160)], vocab_size=200, show_progress=False
    )
    tokenizer = BertTokenizer(vocab=core.get_vocab())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    directory = tmp_path_factory.mktemp("bert")
    BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory

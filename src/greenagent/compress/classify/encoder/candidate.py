"""Encoders as candidates: loading, checking and saving them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import transformers

from greenagent.compress.candidate import Shape, count_parameters
from greenagent.compress.classify.candidate import Classifier, require_choice
from greenagent.compress.classify.encoder.export import Precision, export_ir, export_parts
from greenagent.compress.classify.encoder.heads import Exits, early, features
from greenagent.compress.quiet import quiet
from greenagent.compress.training.precision import bf16_is_quicker
from greenagent.core.errors import ModelError
from greenagent.core.interface import Interface
from greenagent.engines.base import EngineSettings, default_threads
from greenagent.engines.encoder.network import TEMPERATURE
from greenagent.engines.encoder.openvino import openvino_network
from greenagent.engines.encoder.torch import torch_network
from greenagent.engines.models import encoder_directory, resolve_model
from greenagent.engines.registry import AUTO, engine_for

__all__ = ["ENCODERS", "Encoder", "encoder_reader", "encoder_shape", "load_encoder"]

_BATCH = 64

ENCODERS = ("bert",)
"""The architectures, as ``config.json`` calls them."""

_AROUND = 8  # tokens that a tokenizer may put around a text


class Encoder(Classifier):
    """A ``transformers`` model for sequence classification and its tokenizer; its labels are `Interface.choices`.

    ``exits``: heads between its layers; new weights have none.
    """

    exits: Exits | None = None

    @property
    def parameters(self) -> int:
        heads = self.exits.heads if self.exits is not None else []
        return super().parameters + sum(count_parameters(head) for head in heads)

    @property
    def architecture(self) -> str:
        return str(self.model.config.model_type)

    @property
    def shape(self) -> Shape:
        return Shape.of(self.model.config, "encoder")

    def inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask`` (texts, longest). Raises `ModelError` for a text over the model's length."""
        cut = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        if cut.input_ids.shape[1] > self.most_tokens:
            raise ModelError(
                f"a text has {cut.input_ids.shape[1]} tokens: the model {self.base!r} reads {self.most_tokens} at most"
            )
        return {"input_ids": cut.input_ids, "attention_mask": cut.attention_mask}

    def logits(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        scores: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return scores

    def score(self, texts: Sequence[str]) -> torch.Tensor:
        """Logits (texts, choices), in float32; with exits those of the head that answers, as if it had the last one's
        temperature."""
        if self.exits is None:
            return super().score(texts)
        batches = [self.inputs(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        read, final = features(self.model, batches, self.exits.layers, lambda done, total: None)
        return early(read, final, self.exits.heads, self.exits.exits, self.temperature)[0]

    def exported(self, form: str, path: Path) -> Self:
        found = super().exported(form, path)
        found.exits = self.exits
        return found

    def taught(self, texts: Sequence[str]) -> torch.Tensor:
        """As of all classifiers, in bfloat16 where that is quicker (up to three times); a probability changes by some
        thousandths."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_quicker()):
            return super().taught(texts)

    def length(self, text: str) -> int:
        return _length(self.tokenizer, text)

    @property
    def most_tokens(self) -> int:
        return int(self.model.config.max_position_embeddings)

    def reads(self, text: str) -> bool:
        return _surely_reads(self.most_tokens, text) or super().reads(text)

    @property
    def temperature(self) -> float:
        return float(getattr(self.model.config, TEMPERATURE, 1.0))

    @temperature.setter
    def temperature(self, value: float) -> None:
        setattr(self.model.config, TEMPERATURE, value)

    def drop(self, share: float) -> None:
        self.model.config.hidden_dropout_prob = self.model.config.attention_probs_dropout_prob = share
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = share

    def favour(self, choice: int, amount: float) -> None:
        with torch.no_grad():
            self.model.classifier.bias[choice] += amount

    def save(self, directory: Path) -> None:
        """Writes what plain ``AutoModelForSequenceClassification`` loads: config with labels, safetensors, tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        if self.exits is not None:
            self.exits.save(directory)

    def check_exportable(self) -> None:
        """Every encoder is."""

    def export(self, directory: Path, name: str) -> tuple[str, Path]:
        path = directory / "model.xml"
        self.export_graph(path, "fp16")
        return "fp16", path

    def export_graph(self, path: Path, precision: Precision) -> None:
        """Writes the OpenVINO graph, or one for each part."""
        if self.exits is None:
            export_ir(self.model, path, precision)
        else:
            export_parts(self.model, self.exits.heads, self.exits.layers, path, precision)

    def served_log_probs(self, directory: Path, prompts: Sequence[str]) -> Any:
        ref = resolve_model(directory)
        load = torch_network if engine_for(AUTO, directory) == "encoder_torch" else openvino_network
        network = load(ref, EngineSettings(threads=default_threads()))
        return network.log_probs([network.encode(prompt) for prompt in prompts])


def load_encoder(name: str, interface: Interface | None = None, seed: int = 0) -> Encoder:
    """Loads ``minilm`` or a Hugging Face directory, in float32.

    A model that does not choose among the ``interface``'s choices yet gets a fresh head, drawn from ``seed``; without an
    interface it must have a head of its own. Errors: `ModelError` for what is missing, broken or of another architecture,
    `RecipeError` for an interface whose answers are no choice.
    """
    from safetensors import SafetensorError

    directory = encoder_directory(name)
    config = _config(name)
    choices = [config.id2label[number] for number in range(config.num_labels)]
    has_head = "ForSequenceClassification" in "".join(config.architectures or [])
    if interface is not None:
        require_choice(interface)
        has_head, choices = has_head and choices == interface.choices, interface.choices
    elif not has_head:
        raise ModelError(f"model {name!r} has no head that chooses: train it first")
    labels: dict[str, Any] = {"id2label": dict(enumerate(choices)), "label2id": {c: i for i, c in enumerate(choices)}}
    if not has_head:
        labels["ignore_mismatched_sizes"] = True
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
            model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32, **labels)
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loaded(name, error) from error
    if not has_head:
        _draw(model.classifier, config.initializer_range, seed)
    found = Encoder(model.eval(), tokenizer, base=name)
    found.exits = Exits.load(directory) if has_head else None
    return found


def encoder_reader(name: str) -> Callable[[str], bool]:
    """Whether a text is short enough for the encoder in the directory ``name``, which need not be loaded for that."""
    most = int(_config(name).max_position_embeddings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_directory(name))
    return lambda text: _surely_reads(most, text) or _length(tokenizer, text) <= most


def _surely_reads(most: int, text: str) -> bool:
    """Without cutting it into tokens: each has a byte at least, and few are put around."""
    return len(text.encode()) + _AROUND <= most


def _length(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, verbose=False).input_ids)


def encoder_shape(name: str) -> Shape:
    """The shape of what `load_encoder` loads. Raises `ModelError` when it is no encoder."""
    return Shape.of(_config(name), "encoder")


def _config(name: str) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(encoder_directory(name))
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error
    if config.model_type not in ENCODERS:
        raise ModelError(f"model {name!r} is of architecture {config.model_type!r}; encoders are {', '.join(ENCODERS)}")
    return config


def _draw(head: torch.nn.Linear, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(head.weight, std=spread, generator=generator)
    torch.nn.init.zeros_(head.bias)


def _not_loaded(name: str, error: Exception) -> ModelError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(f"model {name!r} cannot be loaded: {reason}")

"""Language models as candidates: loading, checking and saving them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greenagent.compress.candidate import Candidate, Shape
from greenagent.compress.export.agreement import check_agreement
from greenagent.compress.export.gguf import check_exportable, export_gguf
from greenagent.compress.export.tokenizer_json import with_digit_split
from greenagent.compress.training.examples import NO_LIMIT, encode, exact_answers
from greenagent.core.errors import MissingExtraError, ModelError, nearest
from greenagent.core.interface import Interface
from greenagent.engines.models import embedded_gguf
from greenagent.tasks import Example

__all__ = ["SUPPORTED_ARCHITECTURES", "LanguageModel", "load_language_model", "load_tokenizer"]

SUPPORTED_ARCHITECTURES = ("llama", "qwen2", "qwen3")


class LanguageModel(Candidate):
    """A ``transformers`` causal language model and its tokenizer."""

    @property
    def architecture(self) -> str:
        return str(self.model.config.model_type)

    @property
    def shape(self) -> Shape:
        return Shape.of(self.model.config)

    def save(self, directory: Path) -> None:
        """Writes what plain ``transformers`` loads: config, safetensors, tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def check_exportable(self) -> None:
        check_exportable(self.model, self.tokenizer)

    def export(self, directory: Path, name: str) -> tuple[str, Path]:
        path = directory / "model-F16.gguf"
        export_gguf(self.model, self.tokenizer, path, "F16", name=name)
        return "F16", path

    def answer_tokens(self, answer: str) -> int:
        return len(self.tokenizer(answer, add_special_tokens=False).input_ids) + 1

    def answers_exactly(self, examples: Sequence[Example], interface: Interface) -> list[bool]:
        rows = encode(examples, interface, self.tokenizer, max_tokens=NO_LIMIT)
        return exact_answers(self.model, rows, self.tokenizer.pad_token_id)

    def agreement(self, directory: Path, prompts: list[str], interface: Interface) -> dict[str, Any]:
        return check_agreement(directory, prompts, max_tokens=interface.max_answer_tokens)


def load_language_model(name: str) -> LanguageModel:
    """Loads ``embedded``, a Hugging Face directory, a ``.gguf`` file or a hub id, in bfloat16.

    Errors: `ModelError` for what is missing, broken or of an unsupported architecture, `MissingExtraError` without torch.
    """
    _import_or_say("torch")
    import torch
    import transformers
    from safetensors import SafetensorError

    from greenagent.compress.quiet import no_bars, quiet

    transformers.utils.logging.disable_progress_bar()  # ours is the one progress line
    source, options = _source(name)
    try:
        _require_supported(transformers.AutoConfig.from_pretrained(source, **options), name)
        tokenizer = load_tokenizer(name)
        with quiet(), no_bars():
            model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loaded(name, error) from error
    if options:
        _forget_gguf(model)
    return LanguageModel(model, tokenizer, base=name if name != "embedded" else options["gguf_file"])


def load_tokenizer(name: str) -> Any:
    """The tokenizer of what `load_language_model` takes; one without a padding token pads with its end token.

    Raises `ModelError` when it cannot be read or has no end token.
    """
    _import_or_say("transformers")
    import transformers

    source, options = _source(name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error
    if name == "embedded":
        tokenizer = with_digit_split(tokenizer)  # SmolLM2's rule, which transformers drops when it reads a GGUF
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model {name!r}: its tokenizer has no end token (eos_token), so its answers would never end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _import_or_say(package: str) -> None:
    """Raises `MissingExtraError` when ``package`` is not installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, "compress", "compressing a model")


def _source(name: str) -> tuple[str | Path, dict[str, Any]]:
    """Where `transformers` finds the model, and how it is told so."""
    path = embedded_gguf() if name == "embedded" else Path(name)
    if path.suffix != ".gguf":
        return name, {}
    if not path.is_file():
        raise ModelError(f"model {name!r}: no such file")
    return path.parent, {"gguf_file": path.name}


def _not_loaded(name: str, error: Exception) -> ModelError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(f"model {name!r} cannot be loaded: {reason}{nearest(name, ['embedded'])}")


def _require_supported(config: Any, name: str) -> None:
    if config.model_type not in SUPPORTED_ARCHITECTURES:
        raise ModelError(
            f"model {name!r} is of architecture {config.model_type!r}; compression supports {', '.join(SUPPORTED_ARCHITECTURES)}"
        )


def _forget_gguf(model: Any) -> None:
    """Dequantized weights are plain weights: without this, ``save_pretrained`` refuses them as still quantized."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config

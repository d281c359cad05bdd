"""A candidate: a model on its way through a recipe. Loading, counting and saving it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenagent.compress.export.tokenizer_json import with_digit_split
from greenagent.core.errors import MissingExtraError, ModelError, nearest
from greenagent.engines.models import embedded_gguf

__all__ = ["SUPPORTED_ARCHITECTURES", "Candidate", "Shape", "count_parameters", "load_candidate", "load_tokenizer"]

SUPPORTED_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_BYTES_FP32 = 4


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that pruning changes: ``ffn`` neurons and attention ``groups`` are per layer."""

    depth: int
    ffn: int
    groups: int
    hidden: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read from a `transformers` config."""
        return cls(config.num_hidden_layers, config.intermediate_size, config.num_key_value_heads, config.hidden_size)


@dataclass
class Candidate:
    """A ``transformers`` causal language model and its tokenizer, with the facts steps leave for the card.

    ``served`` names files exported from exactly these weights; a step that changes the weights must drop them (`changed`).
    """

    model: Any
    tokenizer: Any
    base: str
    served: dict[str, Path] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return count_parameters(self.model)

    @property
    def bytes_fp32(self) -> int:
        """The bytes of these parameters in single precision."""
        return self.parameters * _BYTES_FP32

    def changed(self, model: Any = None, tokenizer: Any = None) -> Candidate:
        """A candidate with new weights (and tokenizer), without files exported from the old ones."""
        return Candidate(model or self.model, tokenizer or self.tokenizer, self.base)

    def save(self, directory: Path) -> None:
        """Writes what plain ``transformers`` loads: config, safetensors, tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def count_parameters(model: Any) -> int:
    """Number of distinct parameters of a torch module."""
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


def load_candidate(name: str) -> Candidate:
    """Loads ``embedded``, a Hugging Face directory, a ``.gguf`` file or a hub id, in bfloat16.

    Errors: `ModelError` for what is missing, broken or of an unsupported architecture, `MissingExtraError` without torch.
    """
    _import_or_say("torch")
    import torch
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()  # ours is the one progress line
    source, options = _source(name)
    try:
        _require_supported(transformers.AutoConfig.from_pretrained(source, **options), name)
        tokenizer = load_tokenizer(name)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loaded(name, error) from error
    if options:
        _forget_gguf(model)
    return Candidate(model, tokenizer, base=name if name != "embedded" else options["gguf_file"])


def load_tokenizer(name: str) -> Any:
    """The tokenizer of what `load_candidate` takes; one without a padding token pads with its end token.

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

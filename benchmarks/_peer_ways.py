"""Ways to run one and the same student on a CPU: ours, and those of the libraries that are used for it otherwise.

Every way is made once, into a directory that holds what it needs and nothing else (beside it ``card.json``, which says how to
talk to the student whatever runs it), and is then opened in a process of its own, with as many threads as are asked for.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _alone import Generate, card_of, engine_generate
from _by_setting import Setting
from transformers_baseline import generate_with

from greenagent.compress.classify.encoder.export import converted
from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.core.atomic import new_directory, write_text
from greenagent.core.errors import InputError
from greenagent.engines.base import EngineSettings
from greenagent.engines.encoder.network import EncoderNetwork
from greenagent.engines.encoder.openvino import openvino_network
from greenagent.engines.encoder.torch import dynamic_int8
from greenagent.engines.models import ModelRef, resolve_model
from greenagent.engines.telemetry import without_telemetry
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample

LANGUAGE, ENCODER = "language", "encoder"
OURS = "greenagent"
TORCHAO = "0.18.0"
CALIBRATION_EXAMPLES = 128  # as many as our own recipe's step measures ranges on
GROUP = 64  # weights that share a scale: the most that divides a student's widths, of those that NNCF's users take

CONFIGS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
IR, ENCODER_IR = "openvino_model.xml", "model-nncf.xml"
WEIGHTS = "model.pt"


Make = Callable[[Path, Path, str], None]
"""Source directory, target directory (there, and empty), task."""

Open = Callable[[Path, Setting], Generate]


@dataclass(frozen=True, slots=True)
class Way:
    """How a directory is made of a student, and opened."""

    make: Make
    open: Open


def family_of(directory: Path) -> str:
    """``language`` or ``encoder``, by the architecture in its ``config.json``."""
    architectures = ModelRef(directory.name, directory=directory).config().get("architectures")
    return ENCODER if "SequenceClassification" in str(architectures) else LANGUAGE


def make(way: Way, source: Path, target: Path, task: str) -> None:
    """Makes the directory, whole or not at all."""
    with new_directory(target) as directory:
        way.make(source, directory, task)


def needed_bytes(directory: Path) -> int:
    """Of all files that a way needs: weights, graph, tokenizer, configuration."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and file.name != "card.json")


# Ours: what `greenagent compress` writes, on the engine that `greenagent serve` takes.


def _make_ours(source: Path, target: Path, task: str, form: str) -> None:
    train_on = (card_of(source).recipe or {}).get("train_on", ["train"])
    steps = [{"quantize": {"format": form}}]
    recipe = Recipe.model_validate(
        {"name": "peers", "model": str(source), "task": task, "train_on": train_on, "select_share": 0.1, "steps": steps}
    )
    made = target / "made"
    card = compress(recipe, made, progress=lambda *_: None, say=lambda _: None, gains=False, evaluate_limit=1)
    served = made / (card.served_file or "")
    for file in (served, served.with_suffix(".bin"), made / "card.json", *(made / name for name in CONFIGS)):
        if file.is_file():
            file.rename(target / file.name)
    shutil.rmtree(made)


def _open_engine(directory: Path, setting: Setting) -> Generate:
    return engine_generate(directory, "openvino", setting.threads, setting.batch)


def _open_graph(directory: Path, setting: Setting) -> Generate:
    return _choosing(directory, openvino_network(resolve_model(directory), EngineSettings(threads=setting.threads)))


def _choosing(directory: Path, network: EncoderNetwork) -> Generate:
    choices = card_of(directory).interface.choices

    def choose(prompts: Sequence[str]) -> list[tuple[str, int, int]]:
        encoded = [network.encode(prompt) for prompt in prompts]
        best = network.log_probs(encoded).argmax(-1)
        return [(choices[number], len(ids), 1) for number, ids in zip(best, encoded, strict=True)]

    return choose


# NNCF alone: OpenVINO's own conversion of the safetensors, and what NNCF does with it unless told otherwise.


def _make_compressed(source: Path, target: Path, task: str, bits: int) -> None:
    openvino, nncf = _openvino_and_nncf()
    from _stateful import stateful_graph
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    graph = stateful_graph(source)
    options = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": GROUP} if bits == 4 else {}
    openvino.save_model(nncf.compress_weights(graph, **options), target / IR)
    both = convert_tokenizer(AutoTokenizer.from_pretrained(source), with_detokenizer=True)
    for tokenizer, name in zip(both, ("openvino_tokenizer", "openvino_detokenizer"), strict=True):
        openvino.save_model(tokenizer, target / f"{name}.xml")
    _copy_configs(source, target, IR)


def _make_quantized(source: Path, target: Path, task: str) -> None:
    """Int8 of weights and activations, of the graph that ours begins with: ranges from examples, accuracy not looked at."""
    openvino, nncf = _openvino_and_nncf()
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    examples = sample(load_task(task).splits["train"], CALIBRATION_EXAMPLES)
    cuts = [_cut(tokenizer, [example.prompt(card_of(source).interface)]) for example in examples]
    data = nncf.Dataset([{name: values.numpy() for name, values in cut.items()} for cut in cuts])
    quantized = nncf.quantize(converted(model), data, subset_size=len(cuts), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantized, target / ENCODER_IR)
    _copy_configs(source, target, ENCODER_IR)


def _copy_configs(source: Path, target: Path, served: str | None) -> None:
    """What says how the model is built and talked to; ``served`` is the file that our engines load, if they do."""
    for name in CONFIGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    card = card_of(source).model_copy(update={"served_file": served, "served_bytes": None})
    write_text(target / "card.json", card.model_dump_json(indent=2))


def _cut(tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    cut = tokenizer(list(texts), padding=True, return_tensors="pt")
    return {"input_ids": cut.input_ids, "attention_mask": cut.attention_mask}


def _openvino_and_nncf() -> tuple[Any, Any]:
    without_telemetry()
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    return openvino, nncf


# PyTorch: the safetensors in a precision, or quantized by a function, on plain transformers.


def _make_torch(source: Path, target: Path, task: str, dtype: str, quantize: Callable[[Any], Any] | None) -> None:
    import torch

    model = _class_of(source).from_pretrained(source, dtype=getattr(torch, dtype)).eval()
    model = quantize(model) if quantize else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own way of writing quantized tensors is deprecated
        torch.save(model.state_dict(), target / WEIGHTS)
    _copy_configs(source, target, None)


def _open_torch(directory: Path, setting: Setting, dtype: str, quantize: Callable[[Any], Any] | None) -> Generate:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(setting.threads)
    config = transformers.AutoConfig.from_pretrained(directory)
    model = _class_of(directory).from_config(config, dtype=getattr(torch, dtype)).eval()
    model = quantize(model) if quantize else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own way of reading quantized tensors is deprecated too
        model.load_state_dict(torch.load(directory / WEIGHTS, weights_only=True), assign=True)
    if family_of(directory) == ENCODER:
        return _choosing(directory, EncoderNetwork(ModelRef(directory.name, directory=directory), _scores_of(model)))
    model.generation_config = transformers.GenerationConfig.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, padding_side="left")
    return generate_with(model, tokenizer, card_of(directory).interface.max_answer_tokens)


def _class_of(directory: Path) -> Any:
    import transformers

    language = family_of(directory) == LANGUAGE
    return transformers.AutoModelForCausalLM if language else transformers.AutoModelForSequenceClassification


def _scores_of(model: Any) -> Callable[[Any, Any], Any]:
    import torch

    def scores(ids: Any, mask: Any) -> Any:
        with torch.inference_mode():
            found = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        return found.float().numpy()

    return scores


def _torchao(model: Any, config: str) -> Any:
    """:raises InputError: torchao is not installed."""
    quantization = _import_torchao()
    quantization.quantize_(model, getattr(quantization, config)())
    return model


def _open_torchao(directory: Path, setting: Setting, dtype: str) -> Generate:
    _import_torchao()  # it registers the tensors that the file holds
    return _open_torch(directory, setting, dtype, None)


def _import_torchao() -> Any:
    logging.getLogger("torchao").setLevel(logging.ERROR)  # its kernels for graphics cards are missing on a CPU
    try:
        import torchao.quantization
    except ImportError as error:
        text = f"torchao is not installed: pip install --no-deps torchao=={TORCHAO}, or leave it out with --ways"
        raise InputError(text) from error
    return torchao.quantization


def _torch_way(dtype: str, quantize: Callable[[Any], Any] | None = None) -> Way:
    return Way(partial(_make_torch, dtype=dtype, quantize=quantize), partial(_open_torch, dtype=dtype, quantize=quantize))


def _torchao_way(config: str) -> Way:
    """In bf16, the precision that torchao's own examples take beside int8."""
    make_it = partial(_make_torch, dtype="bfloat16", quantize=partial(_torchao, config=config))
    return Way(make_it, partial(_open_torchao, dtype="bfloat16"))


_ON_TORCH = {
    "transformers fp32": _torch_way("float32"),
    "transformers bf16": _torch_way("bfloat16"),
    "torch dynamic int8": _torch_way("float32", dynamic_int8),
    "torchao int8 weights": _torchao_way("Int8WeightOnlyConfig"),
    "torchao int8 weights and activations": _torchao_way("Int8DynamicActivationInt8WeightConfig"),
}
WAYS: dict[str, dict[str, Way]] = {
    LANGUAGE: {
        f"{OURS} Q8_0": Way(partial(_make_ours, form="Q8_0"), _open_engine),
        f"{OURS} Q4_0": Way(partial(_make_ours, form="Q4_0"), _open_engine),
        "NNCF int8": Way(partial(_make_compressed, bits=8), _open_engine),
        "NNCF int4": Way(partial(_make_compressed, bits=4), _open_engine),
        **_ON_TORCH,
    },
    ENCODER: {
        f"{OURS} int8": Way(partial(_make_ours, form="int8"), _open_graph),
        "NNCF int8": Way(_make_quantized, _open_graph),
        **_ON_TORCH,
    },
}
"""By family and name; those that begin with `OURS` are what the others are compared with."""

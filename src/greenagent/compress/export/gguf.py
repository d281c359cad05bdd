"""Models written as GGUF, which OpenVINO GenAI, llama.cpp, Ollama and LM Studio read.

Covers Llama, Qwen2 and Qwen3 with a byte-level BPE. Norms and biases are F32; matrices take the asked format (`stored_as` says
which). K-quants, other architectures and rope scaling are not covered.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenagent.compress.export.gguf_blocks import gguf_blocks
from greenagent.compress.export.tokenizer_json import added_tokens, load_json, merge_pairs, pre_name
from greenagent.compress.quantize.blocks import BLOCK
from greenagent.compress.quantize.codes import Codes
from greenagent.compress.quantize.formats import Quant, stored_as
from greenagent.core.atomic import disk_errors
from greenagent.core.errors import EnvironmentalError, MissingExtraError, ModelError
from greenagent.core.units import format_bytes

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ARCHITECTURES", "check_exportable", "export_gguf"]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""What can be written; their names are the same in ``transformers`` and in GGUF."""

_INTERLEAVED = ("llama",)  # architectures whose rows of Q and K llama.cpp keeps in its own order
_EMBEDDINGS = ("token_embd.weight", "output.weight")
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def export_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    quant: Quant,
    name: str,
    compensated: Mapping[str, Codes] | None = None,
) -> None:
    """Writes model and tokenizer to the file ``path``, whole or not at all; ``name`` becomes ``general.name``.

    Matrices are rounded to the nearest, but for those that ``compensated`` has codes of (by their name in the model): these are
    written as they are, since to round their values again would choose other scales.

    Raises `ModelError`, before anything is written, for what GGUF or its readers would not take: another architecture, a bias,
    rope scaling, a width that is not a multiple of 32; `EnvironmentalError` for a full disk.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "compress", "writing GGUF") from error
    formats = {
        "F16": gguf.LlamaFileType.MOSTLY_F16,
        "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
        "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
    }
    if quant not in formats:
        raise ModelError(f"quantization {quant!r} is not supported: use one of {', '.join(formats)}")
    _check_architecture(model)
    tensors = _plan(model, quant)
    path = Path(path)
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(path, sum(nbytes for _, _, _, nbytes in tensors)) as temporary:
            writer = gguf.GGUFWriter(temporary, model.config.model_type)
            try:
                _add_metadata(writer, model, name, formats[quant])
                _add_tokenizer(writer, model, tokenizer)
                _write(writer, model, tensors, compensated or {})
            finally:
                writer.close()


def check_exportable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `ModelError` for a model or tokenizer that `export_gguf` could not write, whatever the format."""
    _check_architecture(model)
    _plan(model, "F16")
    pre_name(load_json(tokenizer))


def _check_architecture(model: PreTrainedModel) -> None:
    config = model.config
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"architecture {config.model_type!r} cannot be exported to GGUF: supported are {known}")
    if getattr(config, "use_sliding_window", False):
        raise ModelError("sliding-window attention cannot be exported to GGUF: engines would attend to everything")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope != "default":
        raise ModelError(f"rope scaling {rope!r} cannot be exported to GGUF: engines read only the base frequency ('default')")
    if config.hidden_act != "silu":
        raise ModelError(f"activation {config.hidden_act!r} cannot be exported to GGUF: engines compute 'silu'")


def _plan(model: PreTrainedModel, quant: Quant) -> list[tuple[str, str, Any, int]]:
    """For each tensor to write: its GGUF name, its name in the model, its GGML type and its bytes."""
    import gguf

    family = gguf.MODEL_ARCH[model.config.model_type.upper()]
    names = gguf.get_tensor_name_map(family, model.config.num_hidden_layers)
    embedding = model.get_input_embeddings().weight
    plan = []
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and model.get_output_embeddings().weight is embedding:
            continue
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None or (key.endswith(".bias") and family == gguf.MODEL_ARCH.LLAMA):
            raise ModelError(f"weight {key!r} has no place in a GGUF of this architecture: engines would leave it out")
        form = "F32" if tensor.ndim == 1 else stored_as(quant, embedding=target in _EMBEDDINGS)
        kind = gguf.GGMLQuantizationType[form]
        if tensor.ndim > 1 and tensor.shape[-1] % BLOCK:
            raise ModelError(f"weight {key!r} has rows of {tensor.shape[-1]} numbers: quantized rows need a multiple of {BLOCK}")
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        plan.append((target, key, kind, tensor.numel() // block * nbytes))
    return plan


def _add_metadata(writer: Any, model: PreTrainedModel, name: str, file_type: int) -> None:
    import gguf

    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(int(file_type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    data = load_json(tokenizer)
    added = added_tokens(data)
    ids = {**data["model"]["vocab"], **{content: entry["id"] for content, entry in added.items()}}
    rows = model.get_input_embeddings().weight.shape[0]
    if max(ids.values()) >= rows:
        raise ModelError(f"the tokenizer has {max(ids.values()) + 1} tokens but the model only {rows} embeddings: not a pair")
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [_UNUSED] * rows
    for token, i in ids.items():
        tokens[i] = token
        types[i] = _NORMAL if token not in added else _CONTROL if added[token]["special"] else _USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_name(data))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in merge_pairs(data)])
    for value, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if value is not None:
            add(value)
    first = tokenizer("a").input_ids[:1]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id])
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _write(
    writer: Any, model: PreTrainedModel, tensors: list[tuple[str, str, Any, int]], compensated: Mapping[str, Codes]
) -> None:
    """Writes head and tensors, one converted tensor in memory at a time."""
    import gguf
    import numpy as np

    state = model.state_dict()
    for target, key, kind, nbytes in tensors:
        dtype = {"F32": np.float32, "F16": np.float16}.get(kind.name, np.int8)
        writer.add_tensor_info(target, list(state[key].shape), np.dtype(dtype), nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    heads = heads if config.model_type in _INTERLEAVED else {}
    for _, key, kind, _ in tensors:
        if key in compensated:
            values = gguf_blocks(compensated[key], kind.name)
        else:
            values = gguf.quants.quantize(state[key].detach().float().cpu().numpy(), kind)
        for projection, count in heads.items():
            if key.endswith(f"{projection}.weight"):
                values = _interleave(values, count)
        writer.write_tensor_data(values)
    writer.flush()
    for file in writer.fout:
        os.fsync(file.fileno())


def _interleave(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp's order of the rows of Q and K, numbers or blocks: rotary pairs side by side; `transformers` has them half a head
    apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns).copy()


@contextmanager
def _new_file(path: Path, nbytes: int) -> Iterator[Path]:
    """A temporary sibling that becomes ``path`` when the block ends well; a disk too small for it is refused at once."""
    free = shutil.disk_usage(path.parent).free
    if free < nbytes:
        raise EnvironmentalError(
            f"{path} takes {format_bytes(nbytes)} but only {format_bytes(free)} are free: free some and run again"
        )
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is None:  # numpy's short write carries no errno
            raise EnvironmentalError(f"could not write all of {path}, most likely for want of disk space ({error})") from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

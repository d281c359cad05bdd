import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    TokenizersBackend,
)

from greenagent.compress.export.gguf import Quant, export_gguf
from greenagent.compress.export.tokenizer_json import load_json, pre_name, rebuild
from greenagent.core.errors import EnvironmentalError, ModelError

TEXTS = ["set a timer for 10 minutes", "what's the weather like in Zürich today?", "play jazz — loud", "日本語 🙂"]


def small_tokenizer() -> TokenizersBackend:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    special = ["<|unk|>", "<|start|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(TEXTS * 3, trainer)
    tokenizer = TokenizersBackend(
        tokenizer_object=core, unk_token="<|unk|>", bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.chat_template = "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"
    return tokenizer


TOKENIZER = small_tokenizer()


def small_llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "vocab_size": len(TOKENIZER),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 54321.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "initializer_range": 0.2,
        "rms_norm_eps": 3e-6,
        "max_position_embeddings": 512,
    }
    return LlamaForCausalLM(LlamaConfig(**(options | changes))).eval()


def reload(path: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("quant", "step"), [("F16", 0.001), ("Q8_0", 0.005), ("Q4_0", 0.13)])
def test_transformers_reads_back_the_same_weights(tmp_path: Path, quant: Quant, step: float, tied: bool) -> None:
    model = small_llama(tie_word_embeddings=tied)
    export_gguf(model, TOKENIZER, tmp_path / "m.gguf", quant, "small")
    again = reload(tmp_path / "m.gguf")
    state = again.state_dict()
    for name, weight in model.state_dict().items():
        assert (state[name] - weight).abs().max() <= step * weight.abs().max(), name
    assert again.config.rope_parameters["rope_theta"] == 54321.0
    assert again.config.tie_word_embeddings == tied
    names = {t.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert ("output.weight" in names) != tied


def test_the_tokenizer_is_read_back_alike(tmp_path: Path) -> None:
    export_gguf(small_llama(), TOKENIZER, tmp_path / "m.gguf", "Q8_0", "small")
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in [*TEXTS, "<|start|>hello<|end|>"]:
        assert again(text).input_ids == TOKENIZER(text).input_ids
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<|start|>", "<|end|>", "<|end|>")
    assert again.chat_template == TOKENIZER.chat_template


def test_the_metadata_tell_what_is_inside(tmp_path: Path) -> None:
    export_gguf(small_llama(), TOKENIZER, tmp_path / "m.gguf", "Q4_0", "my model")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    expected = {
        "general.architecture": "llama",
        "general.name": "my model",
        "general.file_type": 2,
        "general.quantization_version": 2,
        "llama.block_count": 3,
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.rope.freq_base": 54321.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {key: fields[key] for key in expected} == expected
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(3e-6)
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert len(fields["tokenizer.ggml.tokens"]) == len(TOKENIZER)
    types = {t.name: t.tensor_type.name for t in reader.tensors}
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.ffn_up.weight"] == "Q4_0"
    assert types["output_norm.weight"] == "F32"


def test_query_and_key_rows_are_in_llama_cpp_order(tmp_path: Path) -> None:
    model = small_llama()
    export_gguf(model, TOKENIZER, tmp_path / "m.gguf", "F16", "small")
    written = {t.name: np.array(t.data) for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    query = model.model.layers[1].self_attn.q_proj.weight.detach().half().numpy()
    assert (written["blk.1.attn_q.weight"][:4] == query[[0, 8, 1, 9]]).all()
    value = model.model.layers[1].self_attn.v_proj.weight.detach().half().numpy()
    assert (written["blk.1.attn_v.weight"] == value).all()


def test_embedding_rows_without_a_token_are_marked_unused(tmp_path: Path) -> None:
    export_gguf(small_llama(vocab_size=len(TOKENIZER) + 5), TOKENIZER, tmp_path / "m.gguf", "Q8_0", "small")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.token_type"].contents()[-5:] == [5] * 5


def small_qwen(generation: int, **changes: Any) -> Any:
    """Qwen2 has biases on Q, K and V; Qwen3 norms on Q and K, and heads wider than hidden_size / heads."""
    torch.manual_seed(1)
    config, family = (Qwen2Config, Qwen2ForCausalLM) if generation == 2 else (Qwen3Config, Qwen3ForCausalLM)
    options = small_llama().config.to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    shared = {key: options[key] for key in (*keys, "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id")}
    wide = {"head_dim": 32} if generation == 3 else {}
    model = family(config(**(shared | wide | {"tie_word_embeddings": True, "initializer_range": 0.05} | changes)))
    with torch.no_grad():  # biases begin at zero and norms at one: then nobody would notice a lost one
        for name, weight in model.named_parameters():
            if name.endswith(".bias") or "norm" in name:
                weight += 0.3 * torch.randn_like(weight)
    return model.eval()


@pytest.mark.parametrize("model", [small_qwen(2), small_qwen(3, head_dim=128)])  # transformers reads no other head_dim from GGUF
def test_qwen_is_read_back_with_biases_and_norms(tmp_path: Path, model: Any) -> None:
    export_gguf(model, TOKENIZER, tmp_path / "m.gguf", "F16", "small")
    state = reload(tmp_path / "m.gguf").state_dict()
    for name, weight in model.state_dict().items():
        assert (state[name] - weight).abs().max() <= 0.001 * weight.abs().max(), name


def bert() -> BertLMHeadModel:
    return BertLMHeadModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, is_decoder=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bert, "'bert'.*llama, qwen2, qwen3"),
        (lambda: small_llama(attention_bias=True), r"q_proj\.bias.*no place"),
        (lambda: small_qwen(2, use_sliding_window=True), "sliding-window"),
        (lambda: small_llama(intermediate_size=100), "rows of 100 numbers.*multiple of 32"),
        (lambda: small_llama(hidden_act="gelu"), "activation 'gelu'"),
        (lambda: small_llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), "rope scaling 'linear'"),
        (lambda: small_llama(vocab_size=100), "only 100 embeddings"),
    ],
)
def test_what_cannot_be_written_is_refused_before_writing(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        export_gguf(make(), TOKENIZER, tmp_path / "m.gguf", "Q8_0", "small")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'Q4_K'.*F16, Q8_0, Q4_0"):
        export_gguf(small_llama(), TOKENIZER, tmp_path / "m.gguf", "Q4_K", "small")  # type: ignore[arg-type]


@pytest.fixture
def files_of_100_kb() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("files_of_100_kb")
def test_a_file_cut_short_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    with pytest.raises(EnvironmentalError, match=r"m\.gguf"):
        export_gguf(small_llama(), TOKENIZER, path, "F16", "small")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_too_small_is_named_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(EnvironmentalError, match=r"takes .* kB but only 1 kB are free"):
        export_gguf(small_llama(), TOKENIZER, tmp_path / "m.gguf", "F16", "small")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}, "smollm"),
        (None, "smollm"),
    ],
)
def test_pre_tokenizers_have_llama_cpp_names(pre_tokenizer: dict[str, Any] | None, name: str) -> None:
    data = load_json(TOKENIZER)
    assert pre_name(data | ({"pre_tokenizer": pre_tokenizer} if pre_tokenizer else {})) == name


def test_a_pre_tokenizer_that_joins_digits_is_gpt2s() -> None:
    data = load_json(TOKENIZER)
    data["pre_tokenizer"] = data["pre_tokenizer"]["pretokenizers"][1]
    data["model"]["vocab"]["10"] = len(TOKENIZER)
    assert pre_name(data) == "gpt-2"


def test_an_unknown_pre_tokenizer_is_refused() -> None:
    data = load_json(TOKENIZER)
    data["pre_tokenizer"]["pretokenizers"].append({"type": "Punctuation", "behavior": "Isolated"})
    with pytest.raises(ModelError, match="no name for the pre-tokenizer"):
        pre_name(load_json(rebuild(TOKENIZER, data)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: small_llama(initializer_range=0.05),
        lambda: small_llama(initializer_range=0.05, num_attention_heads=2, num_key_value_heads=1, head_dim=16),
        lambda: small_qwen(2),
        lambda: small_qwen(3),
    ],
    ids=["llama", "llama with fewer heads", "qwen2", "qwen3"],
)
def test_openvino_generates_the_same_tokens(tmp_path: Path, make: Any) -> None:
    import openvino
    import openvino_genai

    model = make()
    export_gguf(model, TOKENIZER, tmp_path / "m.gguf", "F16", "small")
    model = model.half().float()
    pipeline = openvino_genai.LLMPipeline(tmp_path / "m.gguf", "CPU", INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32")
    options = openvino_genai.GenerationConfig(max_new_tokens=8, do_sample=False, ignore_eos=True)
    for text in TEXTS:
        ids = TOKENIZER(text, return_tensors="pt").input_ids
        expected = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)[0, ids.shape[1] :].tolist()
        encoded = pipeline.get_tokenizer().encode(text)
        assert encoded.input_ids.data.tolist() == ids.tolist()
        tensors = openvino_genai.TokenizedInputs(openvino.Tensor(ids.numpy()), openvino.Tensor(np.ones_like(ids.numpy())))
        assert list(pipeline.generate(tensors, options).tokens[0]) == expected

from pathlib import Path

import pytest
from transformers import GPT2Config

from greenagent.compress.load import load_candidate
from greenagent.core.errors import ModelError


def test_an_unsupported_architecture_is_named_with_what_is_supported(tmp_path: Path) -> None:
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="architecture 'gpt2'; compression supports llama"):
        load_candidate(str(tmp_path))


@pytest.mark.parametrize("name", ["no-such-directory", "no-such-file.gguf"])
def test_a_model_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match=name) as caught:
        load_candidate(name)
    assert "\n" not in str(caught.value)


def test_a_misspelt_name_suggests_the_embedded_model() -> None:
    with pytest.raises(ModelError, match="did you mean 'embedded'"):
        load_candidate("embeded")


def test_new_weights_drop_files_exported_from_the_old(tiny_dir: Path, tmp_path: Path) -> None:
    candidate = load_candidate(str(tiny_dir))
    candidate.served["Q8_0"] = tmp_path / "model-Q8_0.gguf"
    assert candidate.changed().served == {}
    assert candidate.bytes_fp32 == 4 * candidate.parameters

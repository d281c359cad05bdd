"""A model on plain ``transformers``: accuracy and joules of greedy generation at one setting of threads, batch and precision.

    python benchmarks/transformers_baseline.py MODEL --task TASK --split val --threads 2 --batch 32 --dtype bf16

MODEL is a directory with a card (its interface makes the prompts and reads the answers), config, safetensors and tokenizer. One
JSON document is printed. Joules are those of this process from the first prompt to the last answer (tokenising, generating,
reading); loading and warm-up are left out. The platform's idle floor of that time is in them, as it is in a served endpoint's.
Prompts of like length share a batch, padded at the left: the cheapest order for this engine.

Waiting threads must sleep, which only the environment of a new process can say: the script starts itself again with it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from _alone import Generate, card_of, measure_alone, run_for_figures
from _common import PASSIVE, split_of
from _report import exit_code

from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample

DTYPES = ("fp32", "bf16")


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run the baseline."""

    threads: int
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}, batch {self.batch}"


SETTINGS = [Setting(*values) for values in product((1, 2), (1, 32), DTYPES)]


def run_setting(model: Path, task: str, split: str, examples: int | None, setting: Setting) -> dict[str, Any]:
    """Measures one setting in a process of its own. Errors: those of `run_script`."""
    words = [str(model), "--task", task, "--split", split]
    words += ["--threads", str(setting.threads), "--batch", str(setting.batch), "--dtype", setting.dtype]
    if examples is not None:
        words += ["--examples", str(examples)]
    return run_for_figures("transformers_baseline.py", words, setting.threads)


def load_generate(model_dir: Path, setting: Setting, max_tokens: int) -> Generate:
    """Loads the model; the function it returns answers one batch greedily."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(setting.threads)
    torch.set_num_interop_threads(1)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[setting.dtype]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()
    return generate_with(model, tokenizer, max_tokens)


def generate_with(model: Any, tokenizer: Any, max_tokens: int) -> Generate:
    """Greedy generation by a loaded model; ``tokenizer`` pads on the left. Any end token of either ends an answer."""
    import torch

    known = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokenizer.pad_token_id = pad

    def generate(prompts: Sequence[str]) -> list[tuple[str, int, int]]:
        encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            options = {"max_new_tokens": max_tokens, "do_sample": False, "eos_token_id": sorted(ends), "pad_token_id": pad}
            output = model.generate(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask, **options)
        new = [_up_to(ids, ends) for ids in output[:, encoded.input_ids.shape[1] :].tolist()]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        lengths = encoded.attention_mask.sum(dim=1).tolist()
        return [(text, length, len(ids)) for text, length, ids in zip(texts, lengths, new, strict=True)]

    return generate


def _up_to(ids: list[int], ends: Collection[int]) -> list[int]:
    """The generated tokens with the end token, without the padding behind it."""
    return ids[: next((i for i, token in enumerate(ids, 1) if token in ends), len(ids))]


def measure(model_dir: Path, task: str, split: str, limit: int | None, setting: Setting) -> dict[str, Any]:
    """Loads, warms up, and measures the answers to the split's examples."""
    interface = card_of(model_dir).interface
    examples = sample(split_of(load_task(task), split), limit)
    generate = load_generate(model_dir, setting, interface.max_answer_tokens)
    figures = measure_alone(generate, interface, examples, setting.batch, f"transformers {setting}")
    return {**asdict(setting), **figures, "environment": {key: os.environ.get(key) for key in (*PASSIVE, "OMP_NUM_THREADS")}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures a model on plain transformers at one setting; prints JSON.")
    parser.add_argument("model", type=Path, help="model directory with card.json and safetensors")
    parser.add_argument("--task", required=True, help="task directory or name")
    parser.add_argument("--split", default="val")
    parser.add_argument("--examples", type=int, help="at most this many, evenly spaced over the split")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    return parser.parse_args()


def main() -> int:
    """Prints the figures; the exit code."""
    given = _arguments()
    setting = Setting(given.threads, given.batch, given.dtype)
    asleep = all(os.environ.get(key) == value for key, value in PASSIVE.items())
    run = measure if asleep else run_setting
    return exit_code(lambda: print(json.dumps(run(given.model, given.task, given.split, given.examples, setting))))


if __name__ == "__main__":
    sys.exit(main())

"""Teachers that are model directories: whether they can teach this task, asked before anything is trained, and how they are known."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greenagent.compress.distill.step import Distill
from greenagent.compress.distill.teacher import vocabulary_map
from greenagent.compress.language import load_tokenizer
from greenagent.compress.prune.step import Prune
from greenagent.compress.run import Run, StepOptions
from greenagent.core.errors import ModelError

__all__ = ["check_teachers"]


def check_teachers(run: Run, steps: Sequence[tuple[str, StepOptions]]) -> None:
    """Raises `ModelError` when a step is to learn from a directory whose choices, or whose vocabulary, are not the student's.

    The vocabulary is compared as long as it is the recipe's model's: what a step before leaves of it is compared by ``distill``.
    """
    earlier: list[StepOptions] = []
    for number, (kind, step) in enumerate(steps, 1):
        saved = {one.save_as for one in earlier}
        for name in step.teachers:
            if name not in saved:
                try:
                    _same_choices(run, name)
                    if isinstance(step, Distill) and not any(_changes_tokens(one) for one in earlier):
                        vocabulary_map(load_tokenizer(run.base), load_tokenizer(name), [])
                except ModelError as error:
                    raise ModelError(f"step {number} ({kind}): {error}") from error
        earlier.append(step)

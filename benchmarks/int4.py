"""What four bits cost: a student in bf16, rounded to Q4_0, with GPTQ, and distilled through the rounding.

    python benchmarks/int4.py --data PATH/TO/clinc150 --student out/clinc150 --teacher out/clinc150/teacher

STUDENT is a model directory whose safetensors are not quantized (those of every recipe are not: only its served file is). From
there each seed makes four models with the steps of `greenagent compress`: Q4_0 by GPTQ; bf16 distilled for ``--epochs`` more, and
its Q4_0 by rounding; Q4_0 distilled as long from the same teacher, every pass computed with the weights as they are written.
Exact answers on ``--split``: bf16 on ``transformers``, Q4_0 on the engine that serves it. All models are asked the same examples,
so that the points lost have the interval of paired differences.

Quality and bytes only: nothing here depends on how busy the machine is. The same command continues after a stop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _alone import card_of, weights_of
from _common import ROOT, commit, machine_facts, say, split_of, spread, target
from _paired import Verdicts, points_lost, verdicts
from _report import print_table, reported, table_of, write_json

from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.compress.work import work_directory
from greenagent.core.clock import SystemClock
from greenagent.core.errors import InputError, ModelError
from greenagent.core.records import ModelCard
from greenagent.core.units import format_bytes
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample
from greenagent.tasks.score import wilson_interval

PLAIN, LONGER = "bf16", "bf16, distilled on"
ROUNDED, GPTQ = "Q4_0, rounded", "Q4_0, GPTQ"
LONGER_ROUNDED, AWARE = "Q4_0, distilled on, then rounded", "Q4_0, distilled through the rounding"
ORDER = (PLAIN, ROUNDED, GPTQ, LONGER, LONGER_ROUNDED, AWARE)
AS_LONG = (LONGER_ROUNDED, AWARE)
"""What is compared not only with the student before, but also with bf16 trained as long."""

KEPT = "bf16"
BF16_ENGINE = ("torch", {"precision": "bf16"})
Q4_ENGINE: tuple[str, dict[str, Any]] = ("openvino", {})


@dataclass(frozen=True, slots=True)
class Made:
    """How one way is made: the recipe's steps, where the model lies in what they write, and the engine that answers for it."""

    steps: list[dict[str, dict[str, Any]]]
    folder: str
    engine: tuple[str, dict[str, Any]]


def ways(given: argparse.Namespace) -> dict[str, Made]:
    """Every way that is made; those with the same steps are made together."""
    training = {
        "teacher": str(given.teacher),
        "epochs": given.epochs,
        "learning_rate": given.learning_rate,
        "weight_decay": 0.05,
        "subword_dropout": 0.1,
        "max_examples": given.examples,
    }
    longer = [{"distill": {**training, "save_as": KEPT}}, {"quantize": {"format": "Q4_0"}}]
    aware = [{"distill": {**training, "quantize_aware": "Q4_0"}}, {"quantize": {"format": "Q4_0"}}]
    return {
        ROUNDED: Made([{"quantize": {"format": "Q4_0"}}], ".", Q4_ENGINE),
        GPTQ: Made([{"quantize": {"format": "Q4_0", "method": "gptq"}}], ".", Q4_ENGINE),
        LONGER: Made(longer, KEPT, BF16_ENGINE),
        LONGER_ROUNDED: Made(longer, ".", Q4_ENGINE),
        AWARE: Made(aware, ".", Q4_ENGINE),
    }


class Bench:
    """Makes and asks models under ``--work``, where what is done stays done."""

    def __init__(self, given: argparse.Namespace, card: ModelCard) -> None:
        self._given = given
        self._card = card
        self._task = load_task(given.data)
        self._weights = weights_of(given.student)
        self._from = f"{self._weights}-{weights_of(given.teacher)}"
        self.examples = sample(split_of(self._task, given.split), given.limit)

    def student(self) -> dict[str, Any]:
        """The student as it was."""
        return self._asked(self._given.student, BF16_ENGINE, f"{self._weights}-{self._task.sha256[:16]}-student")

    def _asked(self, directory: Path, engine: tuple[str, dict[str, Any]], key: str) -> dict[str, Any]:
        """The verdicts on a model and its bytes, from an earlier start or found now."""
        done = self._given.work / f"{key}-{self._given.split}-{len(self.examples)}.json"
        if done.is_file():
            found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
            return found
        found = {"right": verdicts(directory, self._task, self.examples, *engine), "bytes": bytes_of(directory, engine)}
        write_json(done, found)
        return found

    def way(self, made: Made, seed: int) -> dict[str, Any]:
        """One way with one seed: made if it is not there, then asked."""
        recipe = self._recipe(made, seed)
        name = f"{self._from}-{recipe.sha256[:16]}-{self._task.sha256[:16]}"
        out = self._given.work / name
        if not out.is_dir():
            self._make(recipe, out)
        return self._asked(out / made.folder, made.engine, f"{name}-{KEPT if made.folder == KEPT else 'last'}")

    def _recipe(self, made: Made, seed: int) -> Recipe:
        one_token: list[dict[str, dict[str, Any]]] = [{"one_token": {}}] if self._card.interface.codes else []
        return Recipe.model_validate(
            {
                "name": "int4",
                "model": str(self._given.student),
                "task": self._given.data,
                "train_on": (self._card.recipe or {}).get("train_on", ["train"]),
                "seed": seed,
                "select_share": 0.02,
                "steps": [*one_token, *made.steps],
            }
        )

    def _make(self, recipe: Recipe, out: Path) -> None:
        card = compress(
            recipe,
            out,
            resume=work_directory(out.absolute()).exists(),
            progress=lambda *_: None,
            say=lambda text: say(f"  {text}"),
            gains=False,
            evaluate_limit=1,  # the examples are asked below, and what each of them was answered is kept
        )
        if card.interface.codes != self._card.interface.codes:
            raise ModelError(f"{out}: its answers are other tokens than the student's, whose vocabulary has changed")


def bytes_of(directory: Path, engine: tuple[str, dict[str, Any]]) -> int:
    """Of the weights that ``engine`` reads."""
    card = card_of(directory)
    return card.parameters * 2 if engine == BF16_ENGINE else card.served_bytes or 0


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The results file's content."""
    card = card_of(given.student)
    card_of(given.teacher)
    bench = Bench(given, card)
    found = {PLAIN: [bench.student()]}
    for seed in given.seeds:
        for name, made in ways(given).items():
            if name != ROUNDED or seed == given.seeds[0]:  # rounding draws nothing
                say(f"seed {seed}: {name}")
                found.setdefault(name, []).append(bench.way(made, seed))
    rows, size = rows_of(found), f"{card.parameters / 1e6:.1f} M parameters"
    return {
        "title": f"Four bits: {card.name} ({size}) on `{given.split}`, n={len(bench.examples):,}",
        **commit(),
        "ended_at": SystemClock().now().isoformat(),
        "machine": machine_facts(),
        "student": {"name": card.name, "parameters": card.parameters, "recipe_sha256": card.recipe_sha256},
        "setting": {key: getattr(given, key) for key in ("epochs", "learning_rate", "examples", "seeds", "split", "limit")},
        "rows": rows,
        "table": table(rows),
        "targets": targets(rows),
        "notes": notes(given, len(bench.examples)),
    }


def rows_of(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row a way: accuracy over its seeds, bytes, and the points lost against bf16, before and trained as long."""
    right: dict[str, list[Verdicts]] = {name: [one["right"] for one in found[name]] for name in found}
    rows = []
    for name in ORDER:
        accuracies = [statistics.fmean(one) for one in right[name]]
        examples = len(right[name][0])
        low, high = wilson_interval(statistics.median(accuracies) * examples, examples)
        row = {"name": name, "accuracy": spread(accuracies), "low": low, "high": high, "bytes": found[name][0]["bytes"]}
        if name != PLAIN:
            row["lost"] = points_lost(right[PLAIN], right[name])
        if name in AS_LONG:
            row["lost_as_long"] = points_lost(right[LONGER], right[name])
        rows.append(row)
    return rows


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Half a point for quantization-aware distillation, against the same student in bf16: as it was, and distilled as long."""
    aware = next(row for row in rows if row["name"] == AWARE)
    against = {"the student before": "lost", "distilled as long": "lost_as_long"}
    return [
        target(f"{AWARE}: points lost, bf16, {text}", 0.5, spread(aware[key]["seeds"]), at_most=True)
        for text, key in against.items()
    ]


def notes(given: argparse.Namespace, examples: int) -> list[str]:
    """How the figures came about."""
    seeds, rest = len(given.seeds), "" if given.examples is None else f", on {given.examples:,} examples"
    return [
        f"Accuracies are medians of {seeds} seeds (in brackets: least and most), which draw the order of training, the cuts of "
        "words and the examples that calibrate; points lost are means over the seeds with the 95% interval of paired "
        f"differences on the same {examples:,} examples.",
        f"Distilled on: from the same teacher, at a learning rate of {given.learning_rate:g}; epochs: {given.epochs:g}{rest}.",
        "In Q4_0 files the embedding and the output layer are Q8_0. bf16 answers on transformers, Q4_0 on OpenVINO GenAI.",
    ]


def table(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows as cells."""
    headings = ("Weights", "Size", "Accuracy", "Points lost, bf16 before", "Points lost, bf16 trained as long")
    return table_of(headings, map(_cells, rows), left=headings[:1])


def _cells(row: dict[str, Any]) -> list[str]:
    found = row["accuracy"]
    span = f" ({found['min']:.2%}-{found['max']:.2%})" if len(found["rounds"]) > 1 else ""
    lost = [shown(row.get(key)) for key in ("lost", "lost_as_long")]
    return [row["name"], format_bytes(row["bytes"]), f"{found['median']:.2%}{span}", *lost]


def shown(lost: dict[str, Any] | None) -> str:
    """``+0.27 (-0.10 to +0.63)``."""
    return "" if lost is None else f"{lost['points']:+.2f} ({lost['low']:+.2f} to {lost['high']:+.2f})"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """:raises InputError: a number that cannot be."""
    parser = argparse.ArgumentParser(description="What four bits cost a student, and what wins it back; a table and JSON.")
    parser.add_argument("--data", required=True, help="the task's directory or name")
    parser.add_argument("--student", type=Path, default=Path("out/clinc150"), help="a language model's directory")
    parser.add_argument("--teacher", type=Path, default=Path("out/clinc150/teacher"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=4, help="of distillation, from the student on")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--examples", type=int, help="distil on this many examples at most")
    parser.add_argument("--limit", type=int, help="ask at most this many examples, evenly spaced")
    parser.add_argument("--work", type=Path, default=Path("out") / "int4", help="where the models are made and kept")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "int4.json")
    given = parser.parse_args(words)
    if any(value is not None and value < 1 for value in (given.examples, given.limit)):
        raise InputError("--examples and --limit must be at least 1")
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Exit code; one line of error."""
    return reported(lambda: arguments(words), measure, print_table)


if __name__ == "__main__":
    sys.exit(main())

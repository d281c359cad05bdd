"""Teacher against student, served; and the teacher on plain ``transformers``: rounds, rows, ratios, targets, one results file.

Joules of a served model are those its answers carry: ``engine`` is what the engine's process used for them, ``total`` adds the
gateway's work. The platform's idle floor while requests are in flight is in both, and in the baseline's. The program that asks is
in neither; it shares the machine, so it lengthens the served times (and their floor), not the baseline's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _common import (
    ROOT,
    Others,
    commit,
    machine_facts,
    power_model,
    ratio,
    require_idle,
    say,
    split_of,
    spread,
    target,
)
from _report import IN_README, print_results, reported
from _served import CONCURRENCY, WARM_UP, ServeOptions, measure_served
from transformers_baseline import DTYPES, SETTINGS, Setting, run_setting

from greenagent.core.clock import SystemClock
from greenagent.core.errors import EngineError, InputError, ModelError
from greenagent.core.records import ModelCard
from greenagent.engines.models import load_card
from greenagent.tasks import Example, Task, load_task
from greenagent.tasks.evaluate import sample

TEACHER, STUDENT = "teacher", "student"
_BYTES = dict(zip(DTYPES, (4, 2), strict=True))

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What one benchmark script is about. ``targets`` forms the target rows from rows, ratios and shares (see `compare`)."""

    title: str
    recipe: str
    task: str
    split: str
    models: Path
    output: Path
    targets: Callable[[dict[str, Any]], list[dict[str, Any]]]
    rounds: int = 3
    limit: int | None = None
    baseline_examples: int | None = 320
    serve: ServeOptions = field(default_factory=ServeOptions)
    anyway: bool = False


@dataclass(frozen=True, slots=True)
class Models:
    """The two model directories and their cards."""

    directories: dict[str, Path]
    cards: dict[str, ModelCard]


def add_arguments(parser: argparse.ArgumentParser, name: str, split: str, baseline_examples: int) -> None:
    """The options that all benchmarks share; ``name`` is that of the results file and of the models' directory."""
    parser.add_argument("--models", type=Path, default=Path("out") / name, help="the student's model directory, made when absent")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / f"{name}.json")
    parser.add_argument("--split", default=split)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="at most this many examples, evenly spaced")
    text = "examples per setting of the transformers baseline; 0 leaves it out"
    parser.add_argument("--baseline-examples", type=int, default=baseline_examples, help=text)
    parser.add_argument("--engine", default="openvino", help="the engine that serves both models")
    parser.add_argument("--threads", type=int, help="threads of that engine (default: what greenagent serve takes)")
    parser.add_argument("--anyway", action="store_true", help="measure although the machine is not idle; the results say so")


def options_of(given: argparse.Namespace) -> dict[str, Any]:
    """The shared options as fields of `Benchmark`.

    :raises InputError: a number that cannot be.
    """
    if given.rounds < 1 or given.baseline_examples < 0 or (given.limit is not None and given.limit < 1):
        raise InputError("--rounds and --limit must be at least 1, --baseline-examples at least 0")
    return {
        "split": given.split,
        "models": given.models,
        "output": given.output,
        "rounds": given.rounds,
        "limit": given.limit,
        "baseline_examples": given.baseline_examples or None,
        "serve": ServeOptions(engine=given.engine, threads=given.threads),
        "anyway": given.anyway,
    }


def run(make: Callable[[], Benchmark]) -> int:
    """Runs a benchmark from its command line; the exit code."""
    return reported(make, compare, print_results, IN_README)


def compare(benchmark: Benchmark) -> dict[str, Any]:
    """Everything in one run; the results file's content."""
    task = load_task(benchmark.task)
    examples = sample(split_of(task, benchmark.split), benchmark.limit)
    models = open_models(benchmark)
    idle = require_idle(benchmark.anyway)
    started = SystemClock().now()
    warm_up = sample(task.splits.get("train", examples), WARM_UP)
    rounds = [_round(number, benchmark, models, task, examples, warm_up) for number in range(1, benchmark.rounds + 1)]
    results = summarise(rounds, models)
    results["targets"] = benchmark.targets(results)
    head = {
        "title": f"{benchmark.title}, `{benchmark.split}`, n={len(examples):,}",
        **commit(),
        "started_at": started.isoformat(),
        "ended_at": SystemClock().now().isoformat(),
        "machine": machine_facts(),
        "power": power_model(),
        "idle_check": idle,
        "task": {
            "name": task.name,
            "sha256": task.sha256,
            "split": benchmark.split,
            "examples": len(examples),
            "tools": len(task.tools),
        },
        "serve": {**asdict(benchmark.serve), "concurrency": CONCURRENCY, "durability": "process"},
        "models": {role: model_facts(card) for role, card in models.cards.items()},
    }
    return {**head, **results, "notes": notes(head, rounds), "rounds": rounds}


def open_models(benchmark: Benchmark) -> Models:
    """Finds teacher and student; makes them with the recipe when their directory is absent.

    :raises ModelError: the directory holds no card, or no teacher.
    """
    if not benchmark.models.exists():
        _make_models(benchmark)
    directories = {TEACHER: benchmark.models / TEACHER, STUDENT: benchmark.models}
    cards = {}
    for role, directory in directories.items():
        card = load_card(directory)
        if card is None:
            raise ModelError(f"{directory} has no card.json: --models takes what `greenagent compress {benchmark.recipe}` writes")
        cards[role] = card
    return Models(directories, cards)


def _make_models(benchmark: Benchmark) -> None:
    out = benchmark.models.absolute()
    command = ["compress", str(ROOT / benchmark.recipe), "--task", benchmark.task, "-o", str(out)]
    if (out.parent / f".{out.name}.work" / "run.json").is_file():
        command.append("--resume")
    say(f"{benchmark.models} is absent: greenagent {' '.join(command)} (hours; run the same again to continue after a stop)")
    ran = subprocess.run([sys.executable, "-m", "greenagent", *command], stdout=sys.stderr, check=False)
    if ran.returncode:
        raise EngineError(f"greenagent compress ended with exit code {ran.returncode}; its error is above")


def _round(
    number: int, benchmark: Benchmark, models: Models, task: Task, examples: Sequence[Example], warm_up: Sequence[Example]
) -> dict[str, Any]:
    """Teacher and student in turn (the other way round in every second round, so that drift cancels), then the baseline."""
    found: dict[str, Any] = {"round": number}
    for role in (TEACHER, STUDENT) if number % 2 else (STUDENT, TEACHER):
        say(f"round {number}/{benchmark.rounds}: {role}")
        found[role] = measure_served(models.directories[role], task.tools, examples, warm_up, benchmark.split, benchmark.serve)
    found["transformers"] = []
    for setting in SETTINGS if benchmark.baseline_examples else []:
        say(f"round {number}/{benchmark.rounds}: {TEACHER} on transformers, {setting}")
        others = Others()
        directory, wanted = models.directories[TEACHER], len(sample(examples, benchmark.baseline_examples))
        figures = run_setting(directory, benchmark.task, benchmark.split, wanted, setting)
        found["transformers"].append({**figures, "others_cores": others.cores()})
    return found


def summarise(rounds: Sequence[dict[str, Any]], models: Models) -> dict[str, Any]:
    """Rows for the tables, and ratios with their spread.

    A row's joules and token rates are medians over the rounds, with all rounds beside them under ``spread``; its accuracy is the
    median round's. The baseline's row is its cheapest setting, by the median.
    """
    rows = []
    for role in (TEACHER, STUDENT):
        card = models.cards[role]
        engine = engine_name(rounds[0][role]["server"], card)
        rows.append(row_of(role, engine, card.parameters, card.served_bytes or 0, [r[role] for r in rounds]))
    result: dict[str, Any] = {"rows": rows, "ratios": _served_ratios(rounds, models), "baseline": []}
    count = len(rounds[0]["transformers"])
    if count:
        parameters = models.cards[TEACHER].parameters
        settings = []
        for i in range(count):
            figures = [r["transformers"][i] for r in rounds]
            setting = Setting(*(figures[0][key] for key in ("threads", "batch", "dtype")))
            engine = f"transformers {setting}"
            settings.append(row_of(TEACHER, engine, parameters, parameters * _BYTES[setting.dtype], figures))
        cheapest = min(settings, key=lambda row: row["j_per_correct_total"])
        rows.append(cheapest)
        result["baseline"] = settings
        student = values(rounds, STUDENT, "j_per_correct_total")
        result["ratios"]["j_per_correct_transformers"] = ratio(cheapest["spread"]["j_per_correct_total"]["rounds"], student)
    return result


def _served_ratios(rounds: Sequence[dict[str, Any]], models: Models) -> dict[str, Any]:
    """Teacher over student for parameters and joules, student over teacher for accuracy."""
    cards = models.cards
    return {
        "parameters": spread([cards[TEACHER].parameters / cards[STUDENT].parameters]),
        "accuracy": ratio(values(rounds, STUDENT, "accuracy"), values(rounds, TEACHER, "accuracy")),
        "j_per_correct_engine": ratio(
            values(rounds, TEACHER, "j_per_correct_engine"), values(rounds, STUDENT, "j_per_correct_engine")
        ),
        "j_per_correct_total": ratio(
            values(rounds, TEACHER, "j_per_correct_total"), values(rounds, STUDENT, "j_per_correct_total")
        ),
        "cpu_s": ratio(values(rounds, TEACHER, "cpu_s"), values(rounds, STUDENT, "cpu_s")),
    }


def values(rounds: Sequence[dict[str, Any]], role: str, key: str) -> list[float]:
    return [_known(r[role][key], role) for r in rounds]


def _known(value: float | None, role: str) -> float:
    """:raises EngineError: the figure is unknown (nothing was answered rightly, so no joules per correct answer exist)."""
    if value is None:
        raise EngineError(f"the {role} answered nothing rightly: there are no joules per correct answer to compare")
    return value


def row_of(name: str, engine: str, parameters: int, size: int, figures: Sequence[Figures]) -> dict[str, Any]:
    middle = statistics.median_low([f["accuracy"] for f in figures])
    typical = next(f for f in figures if f["accuracy"] == middle)
    keys = ("j_per_correct_engine", "j_per_correct_total", "tokens_per_s")
    spreads = {key: spread([_known(f[key], f"{name} ({engine})") for f in figures]) for key in keys}
    return {
        "name": name,
        "engine": engine,
        **{key: typical[key] for key in ("accuracy", "low", "high", "examples")},
        "parameters": parameters,
        "served_bytes": size,
        **{key: found["median"] for key, found in spreads.items()},
        "spread": {**spreads, "accuracy": spread([f["accuracy"] for f in figures])},
    }


def engine_name(server: dict[str, Any], card: ModelCard) -> str:
    """``openvino Q8_0``: the engine and the form of the served file."""
    form = Path(card.served_file or "").stem.removeprefix("model").removeprefix("-")
    return f"{server.get('engine', 'engine')} {form}".strip()


def model_facts(card: ModelCard) -> dict[str, Any]:
    keys = {"name", "base", "parameters", "bytes_fp32", "served_file", "served_bytes", "recipe_sha256", "task_sha256"}
    return {**card.model_dump(include=keys), "training": card.energy.model_dump()}


def notes(head: dict[str, Any], rounds: Sequence[dict[str, Any]]) -> list[str]:
    """How the figures came about, in sentences that stand beside the table."""
    machine, power, count = head["machine"], head["power"], len(rounds)
    provenance = power["provenance"]
    sure = provenance["relative_uncertainty"]
    about = "" if sure is None else f", uncertain by about {sure:.0%}"
    spoken = f"Medians of {count} rounds" if count > 1 else "One round"
    found = [
        f"{spoken} in one run on {machine['threads']} threads of {machine['cpu']} ({machine['memory_gb']:.1f} GB), asked over "
        f"HTTP with the tools in every request, {CONCURRENCY} at a time.",
        f"Joules are {provenance['kind']}{about} ({provenance['source']}); engine: its process, total: with the gateway.",
    ]
    if "floor_w" in power:
        found.append(
            f"The idle platform's {power['floor_w']:.2g} W while busy are in every figure, the baseline's too; the scale of the "
            "watts cancels in ratios, which come from CPU time and, through that floor, from duration."
        )
    if rounds[0]["transformers"]:
        settings, used = len(rounds[0]["transformers"]), rounds[0]["transformers"][0]["examples"]
        found.append(
            f"transformers: the cheapest of {settings} settings on {used} of the examples, batches of like length, waiting "
            "threads asleep, no gateway."
        )
    served = (figures for r in rounds for figures in r.values() if isinstance(figures, dict))
    busiest = max(f["others_cores"] for f in (*served, *(f for r in rounds for f in r["transformers"])))
    found.append(f"Other processes used at most {busiest:.0%} of a core meanwhile.")
    if not head["idle_check"]["idle"]:
        found.append("The machine was NOT idle: these figures are not for comparison.")
    if head.get("differs"):
        found.append("The sources differed from the commit named here.")
    return found


def quality_targets(results: dict[str, Any], teacher: float, kept: float) -> list[dict[str, Any]]:
    """The teacher's accuracy, and the share of it that the student keeps."""
    accuracy = results["rows"][0]["spread"]["accuracy"]
    return [
        target("teacher's accuracy", teacher, accuracy, "%"),
        target("student's accuracy over the teacher's", kept, results["ratios"]["accuracy"], "%"),
    ]

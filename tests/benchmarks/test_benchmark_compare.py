"""From the rounds' raw figures to rows, ratios, targets and notes."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _compare as compare
import assistant
import clinc150
import clinc150_small
import pytest
from transformers_baseline import SETTINGS

from greenagent.core.errors import EngineError, InputError, ModelError
from greenagent.core.records import ModelCard

ROOT = Path(__file__).parents[2]


def card(name: str, parameters: int) -> ModelCard:
    return ModelCard(
        name=name,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        greenagent_version="0",
        base="b",
        architecture="llama",
        parameters=parameters,
        bytes_fp32=4 * parameters,
        served_file="model-Q8_0.gguf",
        served_bytes=parameters,
    )


def served(accuracy: float, engine_j: float, total_j: float) -> dict[str, Any]:
    return {
        "server": {"engine": "openvino"},
        "accuracy": accuracy,
        "low": accuracy - 0.01,
        "high": accuracy + 0.01,
        "examples": 1000,
        "tokens_per_s": 100.0,
        "cpu_s": engine_j,
        "others_cores": 0.02,
        "j_per_correct_engine": engine_j,
        "j_per_correct_total": total_j,
    }


def plain(setting: Any, joules: float) -> dict[str, Any]:
    own = {"threads": setting.threads, "batch": setting.batch, "dtype": setting.dtype}
    return served(0.95, joules, joules) | own | {"examples": 320}


def rounds() -> list[dict[str, Any]]:
    made = []
    for number, drift in enumerate((1.0, 1.5, 2.0), 1):
        baseline = [plain(s, drift * (90 - 10 * i)) for i, s in enumerate(SETTINGS)]
        teacher, student = served(0.97, 10 * drift, 12 * drift), served(0.95, 1 * drift, 2 * drift)
        made.append({"round": number, "teacher": teacher, "student": student, "transformers": baseline})
    return made


@pytest.fixture
def models(tmp_path: Path) -> compare.Models:
    cards = {"teacher": card("t", 134_000_000), "student": card("s", 16_000_000)}
    return compare.Models({"teacher": tmp_path / "teacher", "student": tmp_path}, cards)


def test_rows_have_what_the_readme_table_reads(models: compare.Models) -> None:
    rows = compare.summarise(rounds(), models)["rows"]
    assert [(r["name"], r["engine"]) for r in rows] == [
        ("teacher", "openvino Q8_0"),
        ("student", "openvino Q8_0"),
        ("teacher", f"transformers {SETTINGS[-1]}"),
    ]
    keys = {"accuracy", "low", "high", "examples", "parameters", "served_bytes", "tokens_per_s"}
    assert all(keys | {"j_per_correct_engine", "j_per_correct_total"} <= r.keys() for r in rows)
    assert rows[0]["j_per_correct_total"] == 18.0
    assert rows[0]["spread"]["j_per_correct_total"] == {"median": 18.0, "min": 12.0, "max": 24.0, "rounds": [12.0, 18.0, 24.0]}


def test_drift_from_round_to_round_cancels_in_the_ratios(models: compare.Models) -> None:
    ratios = compare.summarise(rounds(), models)["ratios"]
    assert ratios["j_per_correct_total"]["rounds"] == [6.0, 6.0, 6.0]
    assert ratios["j_per_correct_engine"]["median"] == 10.0
    assert ratios["accuracy"]["median"] == pytest.approx(0.95 / 0.97)


def test_the_baseline_is_its_cheapest_setting_and_all_are_kept(models: compare.Models) -> None:
    results = compare.summarise(rounds(), models)
    assert results["ratios"]["j_per_correct_transformers"]["rounds"] == [10.0, 10.0, 10.0]
    assert len(results["baseline"]) == len(SETTINGS) == 8
    sizes = {r["engine"].split()[1].rstrip(","): r["served_bytes"] for r in results["baseline"]}
    assert sizes == {"fp32": 536_000_000, "bf16": 268_000_000}


def test_clinc150_targets(models: compare.Models) -> None:
    rows = clinc150.targets(compare.summarise(rounds(), models))
    assert [r["asked"] for r in rows] == [0.96, 0.97, 6, 5, 8]
    assert [r["met"] for r in rows] == [True] * 5
    made = rounds()
    for one in made:
        one["student"]["j_per_correct_total"] *= 1.3
    assert [r["met"] for r in clinc150.targets(compare.summarise(made, models))] == [True, True, True, False, False]


def test_targets_of_a_tenth(models: compare.Models) -> None:
    rows = clinc150_small.targets(compare.summarise(rounds(), models))
    assert [r["asked"] for r in rows] == [0.96, 0.98, 10, 10, 10]
    assert [r["achieved"] for r in rows] == pytest.approx([0.97, 0.95 / 0.97, 134 / 16, 10, 6])
    assert [r["met"] for r in rows] == [True, False, False, True, False]


def test_without_a_baseline_there_is_no_target_about_it(models: compare.Models) -> None:
    made = [{**one, "transformers": []} for one in rounds()]
    results = compare.summarise(made, models)
    assert len(results["rows"]) == 2
    assert len(clinc150.targets(results)) == 4
    assert [r["asked"] for r in assistant.targets(results)] == [0.85, 0.95]


def test_a_model_that_is_never_right_has_no_joules_per_correct_answer(models: compare.Models) -> None:
    made = rounds()
    made[1]["student"]["j_per_correct_total"] = None
    with pytest.raises(EngineError, match="student"):
        compare.summarise(made, models)


def head() -> dict[str, Any]:
    provenance = {"kind": "estimated", "source": "CPU time x watts", "relative_uncertainty": 0.26}
    return {
        "machine": {"threads": 2, "cpu": "A CPU", "memory_gb": 8.0},
        "power": {"provenance": provenance, "floor_w": 1.25},
        "idle_check": {"idle": True},
        "differs": False,
    }


def test_notes_say_how_the_figures_came_about() -> None:
    text = " ".join(compare.notes(head(), rounds()))
    known = ("3 rounds", "A CPU", "estimated, uncertain by about 26%", "1.2 W")
    for part in (*known, "cheapest of 8 settings on 320", "at most 2% of a core"):
        assert part in text
    assert "NOT idle" not in text
    assert "differed" not in text


def test_notes_confess_a_busy_machine_and_changed_sources() -> None:
    text = " ".join(compare.notes({**head(), "idle_check": {"idle": False}, "differs": True}, rounds()))
    assert "NOT idle" in text
    assert "differed" in text


def test_the_order_of_the_served_models_alternates(models: compare.Models, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def measured(model: Path, *others: Any) -> dict[str, Any]:
        order.append(next(role for role, directory in models.directories.items() if directory == model))
        return served(0.9, 1.0, 1.0)

    monkeypatch.setattr(compare, "measure_served", measured)
    benchmark = benchmark_of(Path("out"), baseline_examples=None)
    task = compare.load_task("assistant")
    for number in (1, 2):
        compare._round(number, benchmark, models, task, task.splits["test"][:3], [])
    assert order == ["teacher", "student", "student", "teacher"]


def benchmark_of(models: Path, **changes: Any) -> compare.Benchmark:
    return compare.Benchmark("T", "recipes/assistant.yaml", "assistant", "test", models, Path("x.json"), lambda r: [], **changes)


def test_a_directory_without_a_teacher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(card("s", 1).model_dump_json())
    with pytest.raises(ModelError, match=r"teacher has no card.json"):
        compare.open_models(benchmark_of(tmp_path))


@pytest.mark.parametrize("unfinished", [False, True])
def test_absent_models_are_made_and_an_unfinished_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfinished: bool
) -> None:
    seen: list[list[str]] = []

    def compress(command: list[str], **options: Any) -> Any:
        seen.append(command)
        for directory in (tmp_path / "m", tmp_path / "m" / "teacher"):
            directory.mkdir()
            (directory / "card.json").write_text(card(directory.name, 5).model_dump_json())
        return compare.subprocess.CompletedProcess(command, 0)

    if unfinished:
        (tmp_path / ".m.work").mkdir()
        (tmp_path / ".m.work" / "run.json").write_text("{}")
    monkeypatch.setattr(compare.subprocess, "run", compress)
    found = compare.open_models(benchmark_of(tmp_path / "m"))
    assert found.cards["teacher"].name == "teacher"
    assert seen[0][3] == "compress"
    assert ("--resume" in seen[0]) is unfinished


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--limit", "0"], ["--baseline-examples", "-1"]])
def test_numbers_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["clinc150.py", "--data", "d", *arguments])
    with pytest.raises(InputError, match="--rounds"):
        clinc150.benchmark()


def test_an_error_is_one_line_and_its_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["clinc150.py", "--data", "no/such/task"])
    assert compare.run(clinc150.benchmark) == 2
    assert capsys.readouterr().err.startswith("error: no task at 'no/such/task'")


def test_committed_results_can_be_read_back() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        if "rows" in data:
            assert data["commit"], path
        if "power" in data:  # Joules and times: the qualities that others hold need no quiet machine.
            assert data["idle_check"]["idle"], f"{path} was measured on a busy machine"

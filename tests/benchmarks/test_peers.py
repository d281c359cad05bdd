"""Peers: which settings and rows follow from the figures of the rounds, and that ways hold exactly what they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import pytest
from _by_setting import SETTINGS, Setting, cheapest, row_of, targets
from _peer_ways import ENCODER, LANGUAGE, OURS, WAYS, family_of, make, needed_bytes
from peer_run import measure

from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.core.errors import InputError, ModelError


def figures(setting: Setting, energy_j: float, p50_s: float) -> dict[str, Any]:
    return {
        "threads": setting.threads,
        "batch": setting.batch,
        "energy_j": energy_j,
        "examples": 10,
        "batch_p50_s": p50_s,
        "others_cores": 0.0,
        "provenance": {"kind": "estimated", "source": "a model"},
    }


def rounds_of(joules: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Two rounds; a way's joules and seconds at each setting, the second round's a tenth more."""
    return [
        {way: [figures(s, j * more, j * more) for s, j in zip(SETTINGS, found, strict=True)] for way, found in joules.items()}
        for more in (1.0, 1.1)
    ]


def whole(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "low": 0.0, "high": 1.0, "correct": 1, "examples": 20}


def test_every_family_has_ours_and_the_same_ways_on_torch() -> None:
    for ways in WAYS.values():
        assert sum(name.startswith(OURS) for name in ways) >= 1
        assert {"transformers fp32", "transformers bf16", "torch dynamic int8", "torchao int8 weights"} <= set(ways)
    assert {(s.threads, s.batch) for s in SETTINGS} == {(1, 1), (1, 32), (2, 1), (2, 32)}


def test_a_row_takes_the_cheapest_setting_and_the_quickest_alone() -> None:
    rounds = rounds_of({"a": [4.0, 1.0, 2.0, 3.0]})
    best = cheapest(rounds, "a")
    assert best == Setting(1, 32)
    row = row_of("a", whole(0.5), 7, rounds, best)
    assert row["j_per_correct_engine"]["rounds"] == pytest.approx([0.2, 0.22])
    assert row["latency_threads"] == 2
    assert row["latency_p50_s"]["rounds"] == pytest.approx([2.0, 2.2])
    nothing_right = row_of("a", whole(0.0), 7, rounds, best)
    assert nothing_right["j_per_correct_engine"] is None


def test_our_best_way_is_compared_with_the_best_of_the_others() -> None:
    joules = {f"{OURS} x": [1.0] * 4, f"{OURS} y": [2.0] * 4, "p": [3.0] * 4, "q": [9.0] * 4}
    rounds = rounds_of(joules)
    rows = [row_of(way, whole(1.0), 100 + i, rounds, SETTINGS[0]) for i, way in enumerate(joules)]
    found = {target["name"]: target["achieved"] for target in targets(*peers.sides(rows))}
    assert found[f"J per correct answer: p over {OURS} x"] == pytest.approx(3)
    assert found[f"bytes: p over {OURS} x"] == pytest.approx(1.02)
    assert targets(*peers.sides(rows[:2])) == []


def test_an_unknown_way_names_those_there_are() -> None:
    assert peers.chosen(None, ["a", "b"]) == ["a", "b"]
    assert peers.chosen(["b"], ["a", "b"]) == ["b"]
    with pytest.raises(InputError, match="'a', 'b'"):
        peers.chosen(["c"], ["a", "b"])


@pytest.fixture(scope="module")
def student(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = [{"fine_tune": {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3}}]
    recipe = Recipe.model_validate({"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "steps": steps})
    out = tmp_path_factory.mktemp("models") / "student"
    compress(recipe, out, progress=lambda *_: None, say=lambda _: None, gains=False, evaluate_limit=1)
    return out


@pytest.mark.parametrize("way", ["NNCF int8", "torch dynamic int8", "transformers bf16", f"{OURS} Q8_0"])
def test_ways_answer_alike(way: str, student: Path, task_dir: Path, tmp_path: Path) -> None:
    assert family_of(student) == LANGUAGE
    directory = tmp_path / "way"
    make(WAYS[LANGUAGE][way], student, directory, str(task_dir))
    assert not list(directory.glob("*.safetensors"))
    found = measure(way, directory, str(task_dir), "val", 16, Setting(1, 8))
    assert found["accuracy"] >= 0.9
    assert found["needed_bytes"] == needed_bytes(directory) > 0
    assert 0 < found["batch_p50_s"] <= found["wall_s"]


def test_a_directory_without_a_card_is_refused(tiny_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(f"--data assistant --model {tiny_dir}".split()) == ModelError.exit_code
    assert "card.json" in capsys.readouterr().err


def test_an_encoder_is_told_by_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForSequenceClassification"]}))
    assert family_of(tmp_path) == ENCODER

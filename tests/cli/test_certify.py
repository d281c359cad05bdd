"""``greenagent certify`` on the two committed models: what it writes is what `serve` uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from greenagent.cli.app import app
from greenagent.core.cascade import Cascade
from greenagent.core.errors import InputError
from greenagent.serve.config import load_config
from greenagent.serve.start import tiers_to_serve

MODELS = Path(__file__).parents[2] / "models"
ASKED = {
    "balance": ["what is the balance of my {} account", "how much money do i have in {}"],
    "weather": ["what is the weather in {}", "will it rain in {} today"],
    "timer": ["set a timer for {} minutes", "start a {} minute timer"],
}
FILLERS = [f"{word} {n}" for word in ("savings", "north", "blue", "paris", "ten", "home") for n in range(20)]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "task"
    folder.mkdir()
    tools = json.loads((MODELS / "clinc150-tiny" / "card.json").read_text())["interface"]["tools"]
    intents = [tool["name"] for tool in tools]
    rows = [
        {"text": text.format(filler), "intent": name} for name, texts in ASKED.items() for text in texts for filler in FILLERS
    ]
    named = [{"text": f"one of {intent}", "intent": intent} for intent in intents]  # the task must have all the models' tools
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, named)))
    (folder / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def config(tmp_path: Path, **changes: Any) -> Path:
    tiers = [{"model": str(MODELS / "clinc150-micro"), "name": "micro"}, {"model": str(MODELS / "clinc150-tiny"), "name": "tiny"}]
    path = tmp_path / "greenagent.yaml"
    path.write_text(yaml.safe_dump({"tiers": tiers, "cascade": "cascade.json"} | changes))
    return path


def certify(config: Path, task: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["certify", str(config), "--task", str(task), *words])


def test_what_is_certified_is_served(tmp_path: Path, task: Path) -> None:
    path = config(tmp_path)
    with pytest.raises(InputError, match="greenagent certify writes it"):
        tiers_to_serve(load_config(path))
    result = certify(path, task, "--alpha", "0.05")
    assert result.exit_code == 0, result.output
    cascade = Cascade.model_validate_json((tmp_path / "cascade.json").read_text())
    assert [tier.name for tier in cascade.tiers] == ["micro", "tiny"]
    assert cascade.tiers[1].threshold is None
    report = cascade.report
    assert report is not None
    assert cascade.path_examples + cascade.certify_examples + report.examples == 720
    assert cascade.certify_examples > cascade.path_examples
    assert sum(report.answered.values()) == pytest.approx(1)
    assert ("certified: with probability 95%" in result.stdout) == cascade.certified
    assert f"on {report.examples} other examples" in result.stdout
    served = tiers_to_serve(load_config(path))
    assert [tier.threshold for tier in served[:-1]] == [t.threshold for t in cascade.tiers[:-1] if t.threshold is not None]


def test_a_cascade_of_other_weights_is_not_served(tmp_path: Path, task: Path) -> None:
    path = config(tmp_path)
    assert certify(path, task, "--alpha", "0.05").exit_code == 0
    written = json.loads((tmp_path / "cascade.json").read_text())
    written["tiers"][0]["weights_sha256"] = "0" * 64
    (tmp_path / "cascade.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match="certified for other weights of micro: run greenagent certify again"):
        tiers_to_serve(load_config(path))
    written["tiers"][0]["name"] = "other"
    (tmp_path / "cascade.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match="certified for the tiers other, tiny"):
        tiers_to_serve(load_config(path))
    (tmp_path / "cascade.json").write_text("{}")
    with pytest.raises(InputError, match="is no cascade"):
        tiers_to_serve(load_config(path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "100", "--alpha", "0.01"], "needs 299 even without a single loss"),
        (["--split", "train"], "was trained on 'train'"),
        (["--split", "vla"], "has no split 'vla'; did you mean 'val'"),
        (["--alpha", "0"], "--alpha and --delta lie between 0 and 1"),
    ],
)
def test_what_cannot_be_certified_is_said_before_anything_is_asked(
    tmp_path: Path, task: Path, words: list[str], said: str
) -> None:
    result = certify(config(tmp_path), task, *words)
    assert said in str(result.exception)
    assert not (tmp_path / "cascade.json").exists()


def test_one_tier_needs_no_certificate(tmp_path: Path, task: Path) -> None:
    tiers = [{"model": str(MODELS / "clinc150-tiny")}]
    assert "one tier needs no thresholds" in str(certify(config(tmp_path, tiers=tiers), task).exception)

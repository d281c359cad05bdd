"""Several processes on one run: the same result as one, one clear line when something fails, and resumable."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from greenagent.compress.training.spread import Spread
from greenagent.core.errors import EnvironmentalError

pytestmark = pytest.mark.timeout(1200)

CHILD = Path(__file__).with_name("spread_child.py")
STEPS = [
    {"fine_tune": {"epochs": 4, "batch_size": 10, "learning_rate": 3e-3, "save_as": "teacher"}},
    {"prune": {"depth": 3}},
    {"distill": {"teacher": "teacher", "epochs": 2, "batch_size": 7, "learning_rate": 1e-3}},
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


def launched(count: int, *command: str) -> list[str]:
    """``command`` for this Python, in ``count`` processes."""
    if count == 1:
        return [sys.executable, *command]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(free_port())]
    return [sys.executable, *launcher, *command]


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(**more))


def errors_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def alone(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("alone")
    made = run(launched(1, str(CHILD), str(tiny_dir), str(task_dir), str(folder), "plain"))
    assert made.returncode == 0, made.stderr
    weights: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)
    return weights


@pytest.mark.parametrize("mode", ["plain", "sharded"])
def test_two_processes_train_the_weights_that_one_trains(
    alone: dict[str, torch.Tensor], tiny_dir: Path, task_dir: Path, tmp_path: Path, mode: str
) -> None:
    made = run(launched(2, str(CHILD), str(tiny_dir), str(task_dir), str(tmp_path), mode))
    assert made.returncode == 0, made.stderr
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert set(weights) == set(alone)
    untrained = load_file(tiny_dir / "model.safetensors")
    moved = max(float((alone[name] - untrained[name].float()).abs().max()) for name in untrained)
    apart = max(float((alone[name] - weights[name]).abs().max()) for name in alone)
    assert moved > 3e-3
    assert apart < 1e-4


def recipe_file(tiny_dir: Path, task_dir: Path, folder: Path, steps: list[dict[str, dict[str, object]]] | None = None) -> str:
    recipe = {"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "steps": steps or STEPS}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def test_a_recipe_run_by_two_killed_and_resumed_gives_what_one_gives(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_file(tiny_dir, task_dir, tmp_path)
    options = ["--evaluate-limit", "20", "--json"]
    by_one = run(launched(1, "-m", "greenagent", "compress", recipe, "-o", str(tmp_path / "one"), "--ledger", "none", *options))
    assert by_one.returncode == 0, by_one.stderr
    out, ledger = tmp_path / "two", tmp_path / "ledger.db"
    command = ["-m", "greenagent", "compress", recipe, "-o", str(out), "--ledger", str(ledger), *options]
    child = subprocess.Popen(launched(2, *command), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment())
    waits_for = tmp_path / ".two.work" / "02-prune" / "fact.json"
    deadline = time.monotonic() + 600
    while not waits_for.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)  # the launcher ends its processes
    child.wait()
    assert waits_for.exists()
    resumed = run(launched(2, *command, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    one, two = json.loads(by_one.stdout), json.loads(resumed.stdout)  # one document: only the main process speaks
    assert resumed.stderr.count("step 2/3: prune (done before)") == 1
    assert two["quality"][0]["accuracy"] >= one["quality"][0]["accuracy"] - 0.05
    listed = run(launched(1, "-m", "greenagent", "ledger", "verify", "--ledger", str(ledger), "--json"))
    assert listed.returncode == 0, listed.stderr
    weights, others = load_file(tmp_path / "one" / "model.safetensors"), load_file(out / "model.safetensors")
    apart = sum(float((weights[n].float() - others[n].float()).norm() ** 2) for n in weights) ** 0.5
    size = sum(float(weights[n].float().norm() ** 2) for n in weights) ** 0.5
    assert apart < 0.05 * size  # bfloat16 rounds otherwise in another order
    assert not (tmp_path / ".two.work").exists()


def test_what_is_wrong_is_said_once(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    steps: list[dict[str, dict[str, object]]] = [{"fine_tune": {"max_tokens": 8}}]
    command = ["-m", "greenagent", "compress", recipe_file(tiny_dir, task_dir, tmp_path, steps), "-o", str(tmp_path / "out")]
    failed = run(launched(2, *command, "--ledger", "none"))
    assert failed.returncode != 0
    (line,) = errors_in(failed.stderr)
    assert "raise max_tokens" in line


def test_weights_are_not_said_to_be_sharded_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(EnvironmentalError, match="shards nothing on processors"):
        Spread.joined()


def test_alone_everything_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    spread = Spread.joined()
    assert spread.main
    assert spread.meters
    assert spread.first(lambda: 3) == spread.each(lambda: 3) == 3
    assert spread.collect(4) == [4]
    assert spread.remark is None
    assert Spread(rank=1, count=3).share(range(8)) == [1, 4, 7]


def test_who_asked_for_processes_that_the_launcher_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "one process only" in (Spread.joined().remark or "")

"""The Grafana dashboard asks for metrics and labels that a gateway exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from greenagent.core.interface import Interface
from greenagent.serve.cascade.shadow import Shadows

from .conftest import Below, ScriptedWorker
from .test_replica_pool import House
from .test_shadow import cascade

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "greenagent.json"


def queries() -> dict[str, str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return {target["expr"]: target["legendFormat"] for panel in panels for target in panel["targets"]}


async def test_every_metric_and_label_of_the_dashboard_exists(serve: Any, tmp_path: Path) -> None:
    house = House({"one": 1.0, "two": 2.0})
    await house.wake()
    shadows = Shadows(cascade(), tmp_path / "w.json", 1.0)
    below = {"small": Below(ScriptedWorker(lambda request: "a few words here"), Interface(), 0.01)}
    served = await serve("a few words here", below=below, shadows=shadows)
    pooled = await serve(pool=house.pool)
    for gateway in (served, pooled):
        for words in range(8):
            messages = [{"role": "user", "content": "hello " * (words + 1)}]
            await gateway.openai().chat.completions.create(model="tiny", messages=messages, extra_headers=_quality(words))
    await shadows.idle()
    text = served.gateway.metrics().decode() + pooled.gateway.metrics().decode()
    await house.pool.aclose()
    exported = {
        line.split("{")[0]: set(re.findall(r"(\w+)=", line)) for line in text.splitlines() if line.startswith("greenagent:")
    }
    for query, legend in queries().items():
        found = re.findall(r"(?:by \((\w+)\) \()?(?:rate\()?(greenagent:\w+)\{([^}]*)\}", query)
        assert len(found) == query.count("greenagent:"), query
        for by, name, labels in found:
            assert name in exported, query
            asked = set(re.findall(r"(\w+)=", labels.replace("=~", "="))) | {by} - {"", "le"}
            assert asked <= exported[name], (name, asked, exported[name])
        assert set(re.findall(r"{{(\w+)}}", legend)) <= set(re.findall(r"by \((\w+)\)", query))


def _quality(number: int) -> dict[str, str]:
    return {"greenagent-quality": "top"} if number % 2 else {}

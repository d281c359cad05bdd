"""``greenagent doctor``: what this machine can measure, run and accelerate, and what to install for more."""

from __future__ import annotations

from typing import Any

import typer

from greenagent.cli.output import JsonFlag, emit_json

__all__ = ["register"]

_ENGINES = {
    "openvino-genai": "serve on CPU, Intel GPU and NPU",
    "vllm": "serve on NVIDIA GPUs",
    "torch": "train and compress",
    "transformers": "train and compress",
}
_EXTRAS = {
    "compress": "make models smaller",
    "serve": "serve models",
    "agent": "run agents",
    "postgres": "a ledger in PostgreSQL",
    "scale": "more than one machine",
    "gpu": "NVIDIA GPUs",
    "counters": "read AMD, Apple and Jetson counters",
    "report": "charts in reports",
}


def register(app: typer.Typer) -> None:
    """Adds the command ``doctor``."""
    app.command(name="doctor")(doctor)


def doctor(json_output: JsonFlag = False) -> None:
    """Say what this machine can measure, run and accelerate, and what to install for more."""
    facts = _facts()
    if json_output:
        emit_json(facts)
    else:
        typer.echo(_text(facts))


def _facts() -> dict[str, Any]:
    import platform

    from greenagent import __version__
    from greenagent.ledger import default_url
    from greenagent.measure.machine import machine_facts

    return {
        "greenagent": __version__,
        "python": platform.python_version(),
        **machine_facts(),
        **_zone(),
        "engines": {name: _version(name) for name in _ENGINES},
        "embedded_model": _embedded(),
        "ledger": _without_password(default_url()),
        "extras": _extras(),
    }


def _zone() -> dict[str, Any]:
    """The zone of the environment and what it stands for, or why it stands for nothing."""
    from greenagent.core.errors import InputError
    from greenagent.measure.signals.intensity import lookup

    try:
        found = lookup(None)
    except InputError as error:
        return {"zone": None, "zone_name": None, "zone_error": str(error)}
    return {"zone": found and found.zone, "zone_name": found and found.name, "zone_error": None}


def _version(distribution: str) -> str | None:
    """The installed version, without importing the package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _embedded() -> dict[str, Any]:
    from greenagent.core.errors import ModelError
    from greenagent.engines.models import embedded_gguf

    try:
        path = embedded_gguf()
    except ModelError as error:
        return {"path": None, "reason": str(error)}
    return {"path": str(path), "bytes": path.stat().st_size}


def _without_password(url: str) -> str:
    import re

    return re.sub(r"(://[^:/@]+):[^@]*@", r"\1:***@", url)


def _extras() -> dict[str, dict[str, Any]]:
    """Each extra of greenagent with the packages it lacks here and the command that installs them."""
    import re
    from importlib.metadata import requires

    lacking: dict[str, list[str]] = {extra: [] for extra in _EXTRAS}
    for line in requires("greenagent") or []:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name and extra[1] in lacking and _version(name[0]) is None:
            lacking[extra[1]].append(name[0])
    return {
        extra: {
            "purpose": _EXTRAS[extra],
            "missing": missing,
            "install": f'pip install "greenagent[{extra}]"' if missing else None,
        }
        for extra, missing in lacking.items()
    }


def _text(facts: dict[str, Any]) -> str:
    """The facts as a table of three columns: what, whether, and details or the fix."""
    rows: list[tuple[str, str, str]] = [("greenagent", "", f"{facts['greenagent']}, Python {facts['python']}, {facts['system']}")]
    cpu, row = facts["cpu"], facts["power_row"]
    kind = "virtual, " if cpu["virtual"] else ""
    rows.append(("CPU", "", f"{cpu['name']} ({kind}{cpu['cpuid']}), {cpu['threads']} threads, {facts['memory_gb']} GB"))
    watts = f"{row['idle_w_per_thread']:.3g} W idle, {row['full_w_per_thread']:.3g} W busy per thread"
    spread = f"±{row['relative_uncertainty']:.0%} over {row['servers']} servers"
    rows.append(("power row", row["level"], f"{row['name']}: {watts}, {spread}"))
    rows.append(("accelerate", "", " ".join(cpu["instructions"]) or "no vector instructions known"))
    rows += [("", "yes", device) for device in facts["accelerators"]] or [("", "no", "no GPU or NPU found")]
    for i, sensor in enumerate(facts["sensors"]):
        rows.append(
            ("" if i else "measure", *_answer(sensor["readable"], f"{sensor['name']}: {sensor['known'] or sensor['reason']}"))
        )
    named = facts["zone"] and f"{facts['zone']} ({facts['zone_name']})"
    zone = named or facts["zone_error"] or "no zone, so no gCO2e: give --zone or set GREENAGENT_ZONE"
    rows.append(("", *_answer(facts["zone"] is not None, zone)))
    for i, (name, version) in enumerate(facts["engines"].items()):
        detail = f"{name} {version or ''}".rstrip() + f" ({_ENGINES[name]})"
        rows.append(("" if i else "run", *_answer(version is not None, detail)))
    model = facts["embedded_model"]
    rows.append(("", *_answer(model["path"] is not None, model["path"] or model["reason"])))
    rows.append(("ledger", "", facts["ledger"]))
    missing = [(e["install"], e["purpose"], e["missing"]) for e in facts["extras"].values() if e["missing"]]
    for i, (install, purpose, packages) in enumerate(missing):
        rows.append(("" if i else "install", "", f"{install}  ({purpose}; lacks {', '.join(packages)})"))
    return "\n".join(f"{what:<11} {whether:<6} {detail}".rstrip() for what, whether, detail in rows)


def _answer(good: bool | None, detail: str) -> tuple[str, str]:
    if good is None:
        return "", detail
    return ("yes" if good else "no", detail)

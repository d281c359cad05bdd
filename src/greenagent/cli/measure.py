"""``greenagent measure -- CMD``: joules, watts, seconds and gCO2e of any command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenagent.cli.output import fail, say
from greenagent.core.errors import GreenagentError

if TYPE_CHECKING:
    from greenagent.ledger import Ledger
    from greenagent.measure.command import CommandResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command ``measure``."""
    app.command(name="measure", context_settings={"allow_interspersed_args": False})(measure)


def measure(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARGUMENTS]...", help="The command to run and measure.")],
    zone: Annotated[
        str | None,
        typer.Option(help="Country of the electricity (DE, FRA, United States, WORLD): gives gCO2e. Else $GREENAGENT_ZONE."),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on stderr, which the command may write to as well: see -o.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the result as JSON into this file, with nothing of the command's in it."),
    ] = None,
    sensor: Annotated[
        list[str] | None,
        typer.Option(help="Read this sensor and no others (rapl, nvml, amd, ...); may be repeated. Else $GREENAGENT_SENSORS."),
    ] = None,
    ledger: Annotated[str | None, typer.Option(help="Record the command in this ledger (a path or database URL).")] = None,
) -> None:
    """Run a command and say what it took: joules, watts, seconds, gCO2e, and how each is known.

    The command's own output is untouched: the figures go to stderr. Its exit code is passed on (128 + n when signal n ended it),
    and so are signals sent to greenagent.
    """
    import json
    from contextlib import nullcontext

    from greenagent.core.atomic import check_writable
    from greenagent.ledger import open_ledger
    from greenagent.measure.command import run_command

    check_writable(output)
    with nullcontext() if ledger is None else open_ledger(ledger) as opened:
        result = run_command(command, zone=zone, sensors=sensor)
        document = json.dumps(_document(result), indent=2)
        say(document if json_output else _text(result))
        _save(result, document, output, opened)
    raise typer.Exit(result.exit_code)


def _save(result: CommandResult, document: str, output: Path | None, ledger: Ledger | None) -> None:
    """Keeps the result where it was asked for; what goes wrong now is said and does not change the command's exit code."""
    from greenagent.core.atomic import write_text

    try:
        if output is not None:
            write_text(output, document + "\n")
    except (GreenagentError, OSError) as error:
        fail(str(error), result.exit_code)
    try:
        if ledger is not None:
            _record(result, ledger)
    except (GreenagentError, OSError) as error:
        fail(str(error), result.exit_code)


def _document(result: CommandResult) -> dict[str, Any]:
    m = result.measurement
    known = m.failure is None
    started, ended = m.started_at, m.ended_at
    return {
        "command": list(result.command),
        "exit_code": result.exit_code,
        "signal": result.signal,
        "started_at": started.isoformat() if started else None,
        "ended_at": ended.isoformat() if ended else None,
        "duration_s": m.duration_s,
        "cpu_s": m.cpu_s,
        "power_w": m.power_w if known else None,
        "floor_j": m.floor_j if known else None,
        "active_j": m.active_j if known else None,
        "by_sensor_j": m.by_sensor_j if known else None,
        "failure": m.failure,
        "refused_sensors": m.refused,
        **m.energy.model_dump(mode="json", exclude={"engine_j", "overhead_j"}),
    }


def _text(result: CommandResult) -> str:
    """The figures, one a line, each with its provenance."""
    from greenagent.core.units import format_si

    m = result.measurement
    energy = m.energy
    times = f"time      {m.duration_s:.3f} s, {m.cpu_s:.3f} s of CPU"
    notes = [f"note: {name} is not counted: {reason}" for name, reason in m.refused.items()]
    if m.failure is not None:
        return "\n".join([f"energy    unknown: {' '.join(m.failure.split())}", times, *notes])
    parts = "" if m.floor_j is None else f"  ({format_si(m.active_j, 'J')} of work, {format_si(m.floor_j, 'J')} of idle platform)"
    lines = [
        f"energy    {format_si(energy.energy_j, 'J')}{parts}",
        f"power     {format_si(m.power_w, 'W')} on average",
        times,
        f"carbon    {_carbon(result)}",
        f"known     energy: {energy.provenance}",
    ]
    if energy.carbon_provenance is not None and m.intensity is not None:
        lines.append(f"          carbon: {m.intensity.value_g_per_kwh:.4g} g/kWh, {m.intensity.provenance}")
    return "\n".join(lines + notes)


def _carbon(result: CommandResult) -> str:
    from greenagent.core.units import format_si

    energy = result.measurement.energy
    if energy.carbon_g is None:
        return "unknown: give the country of the electricity with --zone, for example --zone DE"
    return f"{format_si(energy.carbon_g, 'g')}CO2e in {energy.zone}"


def _record(result: CommandResult, ledger: Ledger) -> None:
    """Writes the command into a ledger; returns when it is committed. What of its name is no text is kept as escapes."""
    import platform
    import uuid

    from greenagent.core.records import Activity

    m = result.measurement
    if m.started_at is None or m.ended_at is None:
        return
    activity = Activity(
        id=str(uuid.uuid4()),
        kind="command",
        name=" ".join(result.command).encode("utf-8", "backslashreplace").decode(),
        started_at=m.started_at,
        ended_at=m.ended_at,
        host=platform.node() or None,
        zone=m.intensity.zone if m.intensity else None,
        energy=m.energy,
        cpu_s=m.cpu_s,
        ghg_scope=2,
        factor_version=m.intensity.factor_version if m.intensity else None,
        outcome="ok" if result.exit_code == 0 else "cancelled" if result.signal else "error",
        attributes={"exit_code": result.exit_code},
    )
    ledger.record(activity)

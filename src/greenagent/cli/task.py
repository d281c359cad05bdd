"""``greenagent task``: generate the embedded task as files, and look at any task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenagent.cli.output import JsonFlag, emit_json, say

if TYPE_CHECKING:
    from greenagent.tasks import Example, Task

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands ``task generate`` and ``task show``."""
    group = typer.Typer(help="Generate the embedded task, or look at a task.", no_args_is_help=True, rich_markup_mode=None)
    group.command(name="generate")(generate)
    group.command(name="show")(show)
    app.add_typer(group, name="task")


def generate(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The directory to write: one JSONL file per split, and tools.json.")
    ],
    seed: Annotated[int, typer.Option(help="The same seed always gives the same task.")] = 0,
    train: Annotated[int, typer.Option(min=0, help="Examples to train on.")] = 6000,
    val: Annotated[int, typer.Option(min=0, help="Examples from the training templates, in new combinations.")] = 600,
    test: Annotated[int, typer.Option(min=0, help="Examples from templates and values that training never saw.")] = 600,
    multi_turn: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also write this many conversations of two to five calls to train on and as many to test, with other values, "
            "one line per turn (multi_turn_train.jsonl, multi_turn_test.jsonl).",
        ),
    ] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write the embedded task (an assistant's requests) in OpenAI's fine-tuning format."""
    from greenagent.core.errors import InputError
    from greenagent.tasks import Task, write_task
    from greenagent.tasks.embedded import generate as make
    from greenagent.tasks.embedded import multi_turn as converse

    if output.is_file():
        raise InputError(f"{output} is a file: give the name of a directory to write")
    if output.is_dir() and any(output.iterdir()) and not (output / "tools.json").is_file():
        raise InputError(f"{output} is not empty and holds no task: give a new directory, or that of a task to replace")
    task = make(seed, train=train, val=val, test=test)
    splits = {name: examples for name, examples in task.splits.items() if examples}
    for side in ("train", "test") if multi_turn else ():
        conversations = converse(seed, multi_turn, side=side)
        splits[f"multi_turn_{side}"] = [turn for conversation in conversations for turn in conversation.turns()]
    if not splits:
        raise InputError("nothing to write: every size is 0")
    task = Task.build(task.name, task.tools, task.interface_kind, splits)
    write_task(task, output)
    if as_json:
        emit_json(
            {
                "directory": str(output),
                "splits": {k: len(v) for k, v in splits.items()},
                "tools": len(task.tools),
                "sha256": task.sha256,
            }
        )
    else:
        say(f"{output}: " + ", ".join(f"{len(v)} {k}" for k, v in splits.items()) + f"; {len(task.tools)} tools")


def show(
    task: Annotated[str, typer.Argument(metavar="NAME|PATH", help="'assistant', a task directory or a .jsonl file.")],
    examples: Annotated[int, typer.Option(min=0, help="How many examples of each split to show.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """Print a task's sizes, tools, mean lengths and a few examples."""
    from greenagent.tasks import load_task

    loaded = load_task(task)
    facts = _facts(loaded, examples)
    if as_json:
        emit_json(facts)
    else:
        _print(loaded, facts)


def _facts(task: Task, count: int) -> dict[str, Any]:
    from greenagent.tasks.evaluate import sample

    interface = task.interface()
    splits = {}
    for name, rows in task.splits.items():
        shown = sample(rows, count) if count else []
        splits[name] = {
            "examples": len(rows),
            "no_tool": sum(not e.expected for e in rows),
            "mean_request_words": _mean([len(_request(e).split()) for e in rows]),
            "mean_answer_characters": _mean([len(e.answer(interface)) for e in rows]),
            "shown": [{"request": _request(e), "answer": e.answer(interface)} for e in shown],
        }
    return {
        "name": task.name,
        "sha256": task.sha256,
        "interface": task.interface_kind,
        "tools": [
            {"name": t.name, "arguments": {k: _type(s) for k, s in t.properties.items()}, "required": t.required}
            for t in task.tools
        ],
        "splits": splits,
    }


def _request(example: Example) -> str:
    return " / ".join(m.content for m in example.messages if m.role == "user" and m.content)


def _mean(values: list[int]) -> float | None:
    return round(sum(values) / len(values), 2) if values else None


def _type(schema: dict[str, Any]) -> str:
    return "|".join(map(str, schema["enum"])) if "enum" in schema else str(schema.get("type", "any"))


def _print(task: Task, facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    kinds = {
        "label": f"{len(task.tools)} intents",
        "calls": f"{len(task.tools)} tools",
        "declared": "tools of each request's own",
    }
    console.print(f"{task.name}: {kinds[task.interface_kind]}, sha256 {task.sha256[:12]}", markup=False)
    table = Table("split", "examples", "no tool fits", "words per request", "characters per answer")
    for name, split in facts["splits"].items():
        row = (split["examples"], split["no_tool"], split["mean_request_words"], split["mean_answer_characters"])
        table.add_row(name, *map(str, row))
    console.print(table)
    if task.interface_kind == "label":
        names = [t.name for t in task.tools]
        console.print(", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else ""), markup=False)
    else:
        for tool in facts["tools"]:
            arguments = ", ".join(f"{k}{'' if k in tool['required'] else '?'}: {t}" for k, t in tool["arguments"].items())
            console.print(f"{tool['name']}({arguments})", markup=False)
    for name, split in facts["splits"].items():
        for row in split["shown"]:
            answer = row["answer"].replace("\n", " ; ")
            console.print(f"[{name}] {row['request']}  ->  {answer}", markup=False)

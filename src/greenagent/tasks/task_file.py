"""``task.json``: what a task directory says of the whole task, beside its splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from greenagent.core.errors import TaskError

__all__ = ["declares_tools", "write_declared"]

_NAME = "task.json"


class _TaskFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    interface: Literal["declared"]


def declares_tools(directory: Path) -> bool:
    """Whether each line of the directory's splits has tools of its own. Errors: `TaskError` for a file of another form."""
    path = directory / _NAME
    try:
        _TaskFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"])) or "the file"
        raise TaskError(f'{path}: {where}: {detail["msg"]}; it holds {{"interface": "declared"}}, or is not there') from error
    return True


def write_declared(directory: Path) -> None:
    """Says that each line has tools of its own."""
    (directory / _NAME).write_text(json.dumps({"interface": "declared"}) + "\n", encoding="utf-8")

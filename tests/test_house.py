"""The house: a light front door, honest `__all__`, pinned packages, true pages, and nothing of anybody's machine."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import greenagent
from greenagent.core.errors import RecipeError

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "greenagent"
MODULES = sorted(SOURCE.rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.y*ml"))
HEAVY = (
    "torch", "transformers", "openvino", "openvino_genai", "fastapi", "uvicorn", "sqlalchemy", "alembic", "numpy", "pandas",
    "altair", "rich", "httpx", "openai", "zeus",
)  # fmt: skip
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- the front door -------------------------------------------------------------------------------------------------------------

HELP = """
import sys
sys.argv = ["greenagent", "--help"]
from greenagent.cli.app import main
try:
    main()
except SystemExit:
    pass
"""
LOADED = "import sys; print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))\n"


@pytest.mark.parametrize("program", ["import greenagent\n", HELP], ids=["import", "help"])
def test_the_front_door_loads_nothing_heavy(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", program + LOADED], capture_output=True, text=True, check=True)
    loaded = ended.stdout.rpartition("loaded:")[2].split()
    assert "greenagent" in loaded
    assert set(loaded) & set(HEAVY) == set()


@pytest.mark.parametrize("arguments", [["-c", "import greenagent"], ["-m", "greenagent", "--help"]], ids=["import", "help"])
def test_the_front_door_opens_within_half_a_second(arguments: list[str]) -> None:
    def cpu_s() -> float:
        """CPU seconds and not wall seconds: these are the command's own, whatever else the machine is doing."""
        child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        return usage.ru_utime + usage.ru_stime

    assert min(cpu_s() for _ in range(3)) < 0.5


def test_the_version_is_one() -> None:
    assert greenagent.__version__ == PROJECT["project"]["version"]


# --- the source -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").strip()


def _names(tree: ast.Module) -> set[str]:
    """Names bound at a module's top level, under `if TYPE_CHECKING` too."""
    found: set[str] = set()
    body = [*tree.body, *(inner for node in tree.body if isinstance(node, (ast.If, ast.Try)) for inner in node.body)]
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.TypeAlias if sys.version_info >= (3, 12) else ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None) or node.name]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


@pytest.mark.parametrize("path", [p for p in MODULES if "migrations" not in p.parts and p.stem != "__main__"], ids=relative)
def test_all_is_explicit_and_true(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    defined = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    if not listed:
        public = sorted(name for name in defined if not name.startswith("_"))
        assert public == [], "a file with public names lists them in __all__"
        return
    assert len(listed[0]) == len(set(listed[0]))
    submodules = {p.stem for p in path.parent.iterdir()} if path.name == "__init__.py" else set()
    assert set(listed[0]) - _names(tree) - submodules == set()


# --- what is generated or pinned ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["command_docs.py", "readme_table.py", "recipe_docs.py"])
def test_generated_pages_are_true(script: str) -> None:
    ended = subprocess.run([sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_readme_table_shows_unknown_figures_as_unknown_and_missed_targets_as_missed(tmp_path: Path) -> None:
    names = runpy.run_path(str(ROOT / "scripts" / "readme_table.py"))
    line = names["line"]
    row = {"name": "student", "accuracy": 0.9, "low": 0.88, "high": 0.92, "examples": 1000, "j_per_correct_total": 0.25}
    assert line(row) == "| student | unknown | unknown | 90.0% (88.0–92.0, n=1,000) | unknown | unknown | 250 mJ |"
    missed = {"name": "J", "unit": "x", "relation": ">=", "asked": 5, "achieved": 4.5, "min": 4.4, "max": 4.6, "met": False}
    results = tmp_path / "trial.json"
    results.write_text(json.dumps({"title": "Trial", "rows": [row], "targets": [missed], "commit": "abc", "notes": ["Once."]}))
    [text] = names["tables"](results)
    assert text.startswith("**Trial**")
    assert "| J | ≥ 5.00x | 4.50x (4.40x–4.60x) | **not met** |" in text
    assert text.endswith("Once. From `benchmarks/results/trial.json`, commit `abc`.")
    results.write_text("{}")
    assert names["tables"](results) == []


def _pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    versions = {}
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.operator == "==", f"{pin} is not exact"
        versions[pin.name.lower().replace("_", "-")] = Version(exact.version)
    return versions


def test_every_package_we_ask_for_is_pinned_to_a_version_that_fits() -> None:
    pins = _pins()
    extras = PROJECT["project"]["optional-dependencies"]
    own_environment = {"gpu", "scale", "counters"}
    asked = PROJECT["project"]["dependencies"] + [
        line for extra, lines in extras.items() if extra not in own_environment for line in lines
    ]
    for line in asked:
        requirement = Requirement(line)
        if requirement.name == "greenagent":
            continue
        pinned = pins.get(requirement.name.lower().replace("_", "-"))
        assert pinned is not None, f"constraints.txt does not pin {requirement.name}"
        assert pinned in requirement.specifier, (
            f"constraints.txt pins {requirement.name}=={pinned}, pyproject wants {requirement}"
        )


COMES_WITH = {"pydantic_core": "pydantic", "starlette": "fastapi", "openvino_tokenizers": "openvino-genai"}


def test_every_package_the_source_imports_is_asked_for() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    lines = PROJECT["project"]["dependencies"] + [line for extra in extras.values() for line in extra]
    asked = {Requirement(line).name.lower() for line in lines}
    owners = packages_distributions()
    missing = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"greenagent"}:
                known = {top, COMES_WITH.get(top, top), *owners.get(top, [])}
                if not {name.lower().replace("_", "-") for name in known} & asked:
                    missing.add(f"{relative(path)}: {top}")
    assert missing == set()


def test_pins_are_plain_releases() -> None:
    assert [name for name, version in _pins().items() if version.local] == []


def test_all_leaves_out_what_needs_an_environment_of_its_own() -> None:
    (own,) = [Requirement(line) for line in PROJECT["project"]["optional-dependencies"]["all"] if line.startswith("greenagent")]
    assert own.extras.isdisjoint({"gpu", "scale", "counters"})


@pytest.mark.parametrize("name", [".github/workflows/ci.yml", ".pre-commit-config.yaml", "mkdocs.yml"])
def test_configuration_is_yaml(name: str) -> None:
    assert isinstance(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")), dict)


# --- recipes --------------------------------------------------------------------------------------------------------------------


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_every_recipe_is_valid(path: Path) -> None:
    from greenagent.compress.recipe import load_recipe

    assert load_recipe(path).steps


def test_a_broken_recipe_is_refused(tmp_path: Path) -> None:
    from greenagent.compress.recipe import load_recipe

    broken = tmp_path / "broken.yaml"
    broken.write_text(RECIPES[0].read_text(encoding="utf-8") + "\ncolour: green\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="colour"):
        load_recipe(broken)


# --- nothing of anybody's machine -----------------------------------------------------------------------------------------------

SKIPPED = {".git", ".venv", "site", "runs", "out", "build", "dist", "__pycache__", "node_modules"}
FOREIGN = re.compile(
    "|".join(["/wor" + "k/", r"\.\./shar" + "ed", "shar" + "ed/data", "/roo" + r"t/\w", "/hom" + r"e/\w", "pypi" + r"\.org"])
)


def _texts() -> list[Path]:
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in SKIPPED and not f.endswith(("_cache", ".egg-info")) and f != ".hypothesis"]
        found += [Path(folder, f) for f in files]
    suffixes = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".jsonl", ".csv", ".svg", ".css", ".ini", ".mako", ""}
    return [p for p in found if p.suffix in suffixes and p.stat().st_size < 5_000_000]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    hits = []
    for path in _texts():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        hits += [f"{relative(path)}: {match[0]}" for match in [FOREIGN.search(text)] if match]
    assert hits == []

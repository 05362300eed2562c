# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeps the layers apart: which part of the collection may import what."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
OWN = "ansible_collections.aivailable.sdai.plugins"

PURE = [
    "module_utils/_footprint.py",
    "module_utils/_speed.py",
    "module_utils/_gguf.py",
    "plugin_utils/_placement",
]
IMPURE_STDLIB = {
    "os",
    "io",
    "pathlib",
    "socket",
    "subprocess",
    "time",
    "datetime",
    "random",
    "urllib",
    "http",
    "shutil",
    "tempfile",
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def python_files(*parts: str) -> list[Path]:
    files: list[Path] = []
    for part in parts:
        path = PLUGINS / part
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files, f"no files below {parts}: the layout changed, so must this test"
    return files


def package_of(path: Path) -> list[str]:
    return [*OWN.split("."), *path.relative_to(PLUGINS).parent.parts]


def type_checking_lines(tree: ast.Module) -> set[int]:
    """Lines that only a type checker reads."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("t.TYPE_CHECKING", "TYPE_CHECKING"):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def imports_of(path: Path) -> set[str]:
    """Absolute dotted names of everything that a file imports at run time."""
    tree = ast.parse(path.read_text())
    ignored = type_checking_lines(tree)
    names: set[str] = set()
    for node in ast.walk(tree):
        if getattr(node, "lineno", 0) in ignored:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = package_of(path)
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def top(name: str) -> str:
    return name.partition(".")[0]


def relative(path: Path) -> str:
    return str(path.relative_to(PLUGINS))


@pytest.mark.parametrize("path", python_files(*PURE), ids=relative)
def test_core_is_pure(path: Path) -> None:
    """The core imports the standard library and itself, and does no input or output."""
    allowed_foreign = {"ortools", "numpy"} if "solve" in path.parts else set()
    for name in imports_of(path):
        if name.startswith(OWN):
            assert name.startswith((f"{OWN}.plugin_utils._placement", f"{OWN}.module_utils._")), (
                f"{path} imports {name}"
            )
            continue
        assert top(name) in sys.stdlib_module_names | allowed_foreign | {"__future__"}, f"{path} imports {name}"
        assert top(name) not in IMPURE_STDLIB or "solve" in path.parts, f"{path} imports {name}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_CALLS, f"{path}:{node.lineno} calls {node.func.id}"


@pytest.mark.parametrize("path", python_files("."), ids=relative)
def test_ortools_lives_in_solve_alone(path: Path) -> None:
    if "solve" not in path.parts:
        assert "ortools" not in {top(name) for name in imports_of(path)}


@pytest.mark.parametrize("path", python_files("module_utils"), ids=relative)
def test_module_utils_need_nothing_but_the_standard_library(path: Path) -> None:
    """Modules and the node tool run where only Python is there; GPU bindings are optional."""
    for name in imports_of(path):
        if name.startswith(OWN):
            assert name.startswith(f"{OWN}.module_utils"), f"{path} imports {name}"
        elif top(name) == "ansible":
            assert name.startswith("ansible.module_utils.basic"), f"{path} imports {name}"
        else:
            assert top(name) in sys.stdlib_module_names | {"__future__", "pynvml"}, f"{path} imports {name}"


@pytest.mark.parametrize("path", python_files("plugin_utils"), ids=relative)
def test_plugin_utils_know_no_modules_and_no_actions(path: Path) -> None:
    for name in imports_of(path):
        assert not name.startswith((f"{OWN}.modules", f"{OWN}.action")), f"{path} imports {name}"


@pytest.mark.parametrize("path", python_files("action"), ids=relative)
def test_actions_run_no_subprocess(path: Path) -> None:
    assert "subprocess" not in {top(name) for name in imports_of(path)}


def role_files() -> list[Path]:
    return sorted(
        path
        for path in (ROOT / "roles").rglob("*")
        if path.is_file() and path.suffix in (".yml", ".j2") and path.parent.name not in ("meta", "molecule")
    )


@pytest.mark.parametrize("path", role_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_roles_know_their_own_variables_only(path: Path) -> None:
    """No hostvars, no group names, no other role's variables, not the plan."""
    text = path.read_text()
    role = path.relative_to(ROOT / "roles").parts[0]
    others = {entry.name for entry in (ROOT / "roles").iterdir() if entry.is_dir()} - {role}
    for word in ("hostvars", "groups[", "groups.", "sdai_models", "sdai_plan"):
        assert word not in text, f"{path} speaks of {word}"
    for other in others:
        found = re.search(rf"\b{other}_\w+", text)
        assert not found, f"{path} uses {found and found[0]} of the role {other}"

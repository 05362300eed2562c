# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each role promises: argument_specs, defaults and README say the same."""

from __future__ import annotations

import itertools
import re
import typing as t
from pathlib import Path

import pytest
import yaml

ROLES = sorted(path.parent for path in (Path(__file__).resolve().parents[3] / "roles").glob("*/tasks"))


def specs(role: Path) -> dict[str, t.Any]:
    """The options of each entry point."""
    read = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return {entry: spec["options"] for entry, spec in read.items()}


def defaults(role: Path) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", yaml.safe_load((role / "defaults/main.yml").read_text()))


def test_there_are_roles() -> None:
    assert {role.name for role in ROLES} >= {"gpu_node", "haproxy", "ollama"}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_each_variable_has_a_default_and_a_description(role: Path) -> None:
    """Equal in keys and values; what the user has to give has no default in either."""
    entries, given = specs(role), defaults(role)
    assert set(given) == {
        name for options in entries.values() for name, option in options.items() if not option.get("required")
    }
    for entry, options in entries.items():
        for name, option in options.items():
            assert name.startswith(f"{role.name}_"), f"{entry}: {name}"
            assert option["description"], f"{entry}: {name}"
            assert option.get("default") == given.get(name), f"{entry}: {name}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_each_default_is_explained(role: Path) -> None:
    lines = (role / "defaults/main.yml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith(f"{role.name}_"):
            assert before.startswith("# "), f"no comment above {line}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_each_entry_point_exists_and_is_in_the_readme(role: Path) -> None:
    readme = (role / "README.md").read_text()
    assert role.name in readme.partition("\n")[0]
    for entry in specs(role):
        assert (role / f"tasks/{entry}.yml").is_file()
        assert entry == "main" or f"`{entry}`" in readme, entry


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_readme_speaks_of_names_that_exist(role: Path) -> None:
    """Variables, tags, and what the role leaves for its caller."""
    known = {name for options in specs(role).values() for name in options} | set(
        re.findall(rf"\b{role.name}_\w+", "".join(path.read_text() for path in (role / "tasks").glob("*.yml")))
    )
    assert set(re.findall(rf"\b{role.name}_\w+", (role / "README.md").read_text())) <= known

# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters over host variables: what is wrong with them, and what the action placement takes as arguments."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import yaml
from ansible.errors import AnsibleError

from ..plugin_utils._fleet import current_from_hostvars, fleet_from_hostvars
from ..plugin_utils._inventory import inventory_fault

ROLES = Path(__file__).resolve().parents[2] / "roles"

HostVars = Mapping[str, Mapping[str, object]]


@lru_cache(maxsize=1)
def _role_options() -> dict[str, dict[str, t.Any]]:
    """The variables of all roles, as their argument_specs describe them."""
    found: dict[str, dict[str, t.Any]] = {}
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            found.update(entry["options"])
    return found


def _role_values(variables: Mapping[str, object], options: t.Iterable[str]) -> dict[str, object]:
    """What a host says of the roles' variables. One that needs facts has no value yet; its role checks it."""
    values = {}
    for name in set(options).intersection(variables):
        try:
            value = variables[name]
        except AnsibleError:
            continue
        if not (isinstance(value, str) and "{{" in value):
            values[name] = value
    return values


def _inventory_fault(
    hostvars: HostVars,
    nodes: Sequence[str],
    group: str,
    frontends: Sequence[str] = (),
    catalog: Mapping[str, t.Any] | None = None,
) -> str:
    options = _role_options()
    given = {host: _role_values(hostvars[host], options) for host in hostvars}
    return inventory_fault(hostvars, nodes, group, frontends, catalog, options=options, given=given)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"fleet": fleet_from_hostvars, "inventory_fault": _inventory_fault, "running": current_from_hostvars}

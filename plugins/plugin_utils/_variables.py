# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The inventory's variables by name. The prefix is the collection's own, so that another name is a mistake."""

from __future__ import annotations

import typing as t

from ._validate import closest

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._validate import Findings

PREFIX = "sdai_"

INVENTORY = (
    "sdai_absent_nodes",
    "sdai_address",
    "sdai_become",
    "sdai_break_lock",
    "sdai_churn_budget_gib",
    "sdai_drain_seconds",
    "sdai_failure_domain",
    "sdai_frontends_group",
    "sdai_gpu_nodes_group",
    "sdai_gpus",
    "sdai_labels",
    "sdai_min_gain",
    "sdai_models",
    "sdai_plan_dir",
    "sdai_plan_file",
    "sdai_plan_seconds",
    "sdai_procfs_root",
    "sdai_purge_chats",
    "sdai_purge_models",
    "sdai_replan",
    "sdai_require",
    "sdai_residency",
    "sdai_speed",
    "sdai_sysfs_root",
    "sdai_teardown",
    "sdai_vram_context_mib",
    "sdai_vram_margin_mib",
    "sdai_webui_group",
    "sdai_what_if",
)
"""What a user may set."""

FLEET_WIDE = frozenset(
    {
        "sdai_absent_nodes",
        "sdai_churn_budget_gib",
        "sdai_min_gain",
        "sdai_models",
        "sdai_plan_dir",
        "sdai_plan_file",
        "sdai_plan_seconds",
        "sdai_replan",
        "sdai_require",
        "sdai_what_if",
    }
)
"""Those that the making of a plan reads, once for all hosts."""

OURS = (
    "sdai_batches",
    "sdai_catalog",
    "sdai_facts_address",
    "sdai_facts_gpus",
    "sdai_facts_replicas",
    "sdai_facts_routes",
    "sdai_failures",
    "sdai_lock_host",
    "sdai_plan",
    "sdai_probes",
    "sdai_statistics",
    "sdai_teardown_fault",
    "sdai_transition",
    "sdai_waves",
)
"""What the playbooks set themselves."""


def named(hostvars: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The names of each host's variables that have our prefix."""
    return {
        str(host): sorted(str(name) for name in hostvars[host] if str(name).startswith(PREFIX)) for host in hostvars
    }


def check_names(names: Mapping[str, Iterable[str]], findings: Findings) -> None:
    """Note what is not a variable of ours; ``names`` as ``named`` returns them."""
    for host in sorted(names):
        for name in names[host]:
            if name not in INVENTORY and name not in OURS:
                remedy = closest(name, INVENTORY) or f" The names are {', '.join(INVENTORY)}."
                findings.add(name, "is not a variable that is known here", f"Rename or remove it.{remedy}", host=host)

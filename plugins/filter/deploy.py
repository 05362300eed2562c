# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters that map the plan to the variables of the roles."""

from __future__ import annotations

import typing as t

from ..plugin_utils._deploy import (
    answer_fault,
    chat_models,
    frontend_models,
    launch_parameters,
    launch_probes,
    replica_fault,
)
from ..plugin_utils._rollout import restart_batches, routed, servers_down, start_failures, start_outcomes, waves_to_make


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "answer_fault": answer_fault,
            "chat_models": chat_models,
            "frontend_models": frontend_models,
            "launch_parameters": launch_parameters,
            "launch_probes": launch_probes,
            "replica_fault": replica_fault,
            "restart_batches": restart_batches,
            "routed": routed,
            "servers_down": servers_down,
            "start_failures": start_failures,
            "start_outcomes": start_outcomes,
            "waves_to_make": waves_to_make,
        }

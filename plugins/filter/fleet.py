# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters over host variables: what is wrong with them, and what the action placement takes as arguments."""

from __future__ import annotations

import typing as t

from ..plugin_utils._fleet import current_from_hostvars, fleet_from_hostvars
from ..plugin_utils._inventory import inventory_fault


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"fleet": fleet_from_hostvars, "inventory_fault": inventory_fault, "running": current_from_hostvars}

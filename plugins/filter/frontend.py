# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters that read what a frontend does now."""

from __future__ import annotations

import typing as t

from ..plugin_utils._frontend import frontend_servers, frontends_in_the_way


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"frontend_servers": frontend_servers, "frontends_in_the_way": frontends_in_the_way}

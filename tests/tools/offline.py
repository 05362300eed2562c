# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs without a network, to show that they need none."""

from __future__ import annotations

import functools
import shutil
import subprocess


@functools.cache
def without_network() -> tuple[str, ...]:
    """A prefix that takes the network away, where the system allows it."""
    tool = shutil.which("unshare")
    prefixes = [(tool, "--net"), (tool, "--map-root-user", "--net")] if tool else []
    for prefix in prefixes:
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    return ()

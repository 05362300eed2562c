# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults on demand: a file in the faults directory switches one on, `<name>` for all servers, `<name>.<port>` for one."""

from __future__ import annotations

import os
from pathlib import Path


def active(name: str, port: int) -> bool:
    where = Path(os.environ.get("SDAI_LAB_FAULTS", "/dev/shm/sdai-lab/faults"))
    return (where / name).exists() or (where / f"{name}.{port}").exists()

# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults on demand: a file in the faults directory switches one on, `<name>` for all servers, `<name>.<port>` for one.

garbage: answers are noise. hang-runner: the engine lives and says nothing. ps-lies: size == size_vram though layers
spilled. ps-log-not-understood: both are the bytes of the blob. empty-part-on-term: SIGTERM leaves an empty part file
of a running pull. The directory is /dev/shm/sdai-lab/faults or what SDAI_LAB_FAULTS names.
"""

from __future__ import annotations

import os
from pathlib import Path


def active(name: str, port: int) -> bool:
    where = Path(os.environ.get("SDAI_LAB_FAULTS", "/dev/shm/sdai-lab/faults"))
    return (where / name).exists() or (where / f"{name}.{port}").exists()

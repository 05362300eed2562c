# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This fragment is private to the collection: it may change
# without notice between releases.

from __future__ import annotations


class ModuleDocFragment:
    # What the attributes mean; every module extends this one.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Tells in check mode what it would change, and changes nothing.
  diff_mode:
    description: Shows in diff mode what it changed, or would change in check mode.
  idempotent:
    description: Run again with the same arguments it reports no change, unless the system changed in between.
"""

    # For modules that only read; beside the one above.
    READ_ONLY = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - Changes nothing, so check mode makes no difference.
  diff_mode:
    support: N/A
    details:
      - Changes nothing.
  idempotent:
    support: full
    details:
      - Changes nothing.
"""

    # The trees that a node is read from; for modules that look at GPUs.
    ROOTS = r"""
options:
  sysfs_root:
    description:
      - Where the node's sysfs is mounted.
      - Another directory than the default is meant for simulated GPUs.
    type: path
    default: /sys
  procfs_root:
    description:
      - Where the node's procfs is mounted.
      - Another directory than the default is meant for simulated GPUs.
    type: path
    default: /proc
  venv:
    description:
      - Virtual environment that may hold C(nvidia-ml-py), NVML's Python binding.
      - Looked into when the module's own interpreter does not have the binding. It need not exist.
    type: path
    default: /opt/sdai/venv
"""

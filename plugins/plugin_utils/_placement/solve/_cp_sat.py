# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The solvers of OR-Tools, and NumPy that they need: they may be missing, so whoever solves looks at SOLVER_ERROR."""

from __future__ import annotations

import traceback

__all__ = ["SOLVER_ERROR", "cp_model", "np", "pywraplp"]

try:
    import numpy as np
    from ortools.linear_solver import pywraplp
    from ortools.sat.python import cp_model
except ImportError:
    # Nobody gets past SOLVER_ERROR to use them.
    cp_model = np = pywraplp = None  # type: ignore[assignment]
    SOLVER_ERROR: str | None = traceback.format_exc()
else:
    SOLVER_ERROR = None

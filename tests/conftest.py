# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long Hypothesis looks: HYPOTHESIS_PROFILE=long is what `make test-long` sets."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline, no complaint about slow examples: they measure the machine. A solver's example takes 0.1 s.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", settings(max_examples=50, **PATIENT))
settings.register_profile("long", settings(max_examples=400, **PATIENT))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

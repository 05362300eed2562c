# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Whether a plan that somebody reviewed still holds on fresh facts."""

from __future__ import annotations

import typing as t

from ._placement.check import check_plan
from ._placement.errors import PlacementError

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._placement.model import Plan, Problem, Replica


class OutdatedPlanError(PlacementError):
    """The reviewed plan is not one for this fleet and catalog; the message says what differs."""


def check_reviewed(problem: Problem, plan: Plan, current: Sequence[Replica]) -> None:
    """Raise OutdatedPlanError with all differences unless the plan fits the fleet as it is now."""
    differences = [*check_plan(problem, plan, current), *_digests(problem, plan)]
    if differences:
        raise OutdatedPlanError(
            "\n- ".join(["sdai_plan_file: the reviewed plan no longer holds; make and review a new one:", *differences])
        )


def _digests(problem: Problem, plan: Plan) -> Iterator[str]:
    if plan.fleet_digest != problem.fleet_digest:
        yield (
            "the fleet is not the one that was planned: in the inventory or on the nodes a node, a GPU, a label or a "
            f"failure domain has changed since (digest {plan.fleet_digest[:12]} in the file, "
            f"{problem.fleet_digest[:12]} now); undo that, or make the plan anew"
        )
    if plan.catalog_digest != problem.catalog_digest:
        yield (
            "the catalog is not the one that was planned: sdai_models of the inventory has changed since "
            f"(digest {plan.catalog_digest[:12]} in the file, {problem.catalog_digest[:12]} now); undo that, "
            "or make the plan anew"
        )

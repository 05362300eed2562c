# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What can go wrong in the placement core. A plan that leaves models out is a result, not an error."""

from __future__ import annotations


class PlacementError(Exception):
    """Base of the domain errors; the message is written for the operator."""


class ContradictionError(PlacementError):
    """Two settings of one model exclude each other."""


class DocumentError(PlacementError):
    """A plan or a replica, given as plain values, does not have the documented shape."""


class PortsExhaustedError(PlacementError):
    """A node has no free port left for another replica."""

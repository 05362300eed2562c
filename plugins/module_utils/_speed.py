# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# This module is private to the collection: it may change
# without notice between releases.
"""How fast a GPU generates: reading the weights and the KV cache once per token is what takes the time.

Whole nanoseconds and milli-tokens per second, computed exactly from the decimal numbers that were written, so that the
same input gives the same plan on every machine.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from ._gpu_table import EFFICIENCY

_MIB = 1 << 20
_NANOSECONDS_PER_MS = 1_000_000
# A mixture of experts reads scattered pieces; measured, it gets no more than this part of the bandwidth.
_MOE_EFFICIENCY = Fraction("0.55")
_HIGHEST_EFFICIENCY = 2

HOST, INVENTORY, TABLE, DEFAULT = "host", "inventory", "table", "default"


class SpeedError(ValueError):
    """A number for the speed is out of its range; the message names it."""


@dataclass(frozen=True)
class Calibration:
    """efficiency: part of the bandwidth that is used, up to 2 (a bandwidth may be declared too low). overhead_ms: per
    token and GPU. source: where the numbers are from: host, inventory, table, or default."""

    efficiency: float
    overhead_ms: float
    source: str

    def __post_init__(self) -> None:
        if not 0 < self.efficiency <= _HIGHEST_EFFICIENCY:
            raise SpeedError(f"efficiency must be above 0 and at most {_HIGHEST_EFFICIENCY}, not {self.efficiency}")
        if not 0 <= self.overhead_ms < float("inf"):
            raise SpeedError(f"overhead_ms must be at least 0, not {self.overhead_ms}")


# From tests/data/tokens_per_second.csv. cuda, rocm: round numbers of least median error. vulkan: least squares of the
# logarithm of the error over the architectures that have no fit of their own (_gpu_table.EFFICIENCY), as it is for such
# that a default is; on a grid of 0.01 and 0.1 ms. tests/unit repeats the fit.
DEFAULTS: t.Mapping[str, Calibration] = {
    "cuda": Calibration(0.78, 1.1, DEFAULT),
    "rocm": Calibration(0.815, 3.6, DEFAULT),
    "vulkan": Calibration(0.56, 0.3, DEFAULT),
}

Numbers = t.Mapping[str, float]


def choose_calibration(
    family: str,
    architecture: str,
    *,
    host: t.Optional[Numbers] = None,
    inventory: t.Optional[t.Mapping[str, Numbers]] = None,
) -> Calibration:
    """The calibration of one GPU: each number from the first that has it of the host's entry, the inventory's for the
    family, the table's for the architecture, the family's default. The source is the first that gave any.

    :param host: the GPU's entry in sdai_gpus: efficiency, overhead_ms; other keys are ignored.
    :param inventory: sdai_speed: family -> efficiency, overhead_ms.
    :raises SpeedError: a number is out of range, or the family is unknown.
    """
    if family not in DEFAULTS:
        raise SpeedError(f"unknown family '{family}' (known: {', '.join(DEFAULTS)})")
    fallback = DEFAULTS[family]
    fitted = EFFICIENCY.get((architecture, family))
    levels: list[tuple[str, Numbers]] = [
        (HOST, host or {}),
        (INVENTORY, (inventory or {}).get(family, {})),
        (TABLE, {} if fitted is None else {"efficiency": fitted}),
        (DEFAULT, {"efficiency": fallback.efficiency, "overhead_ms": fallback.overhead_ms}),
    ]
    found: dict[str, float] = {}
    for _source, numbers in reversed(levels):
        found.update({key: numbers[key] for key in ("efficiency", "overhead_ms") if key in numbers})
    source = next(source for source, numbers in levels if "efficiency" in numbers or "overhead_ms" in numbers)
    return Calibration(found["efficiency"], found["overhead_ms"], source)


def gpu_seconds_per_token(
    active_mib: int, kv_read_mib: int, bandwidth_gbs: float, calibration: Calibration, moe: bool
) -> int:
    """Nanoseconds, rounded up, that one GPU takes per token of one request when it holds the whole model.

    moe: a mixture of experts; its limit holds for the collection's own numbers, also those of the table, which are
    fitted to dense models (without it the table's cards are 22 % off at the ninth decile, with it 17 %). What an
    administrator gives was measured.

    :raises SpeedError: the bandwidth is not positive.
    """
    if bandwidth_gbs <= 0:
        raise SpeedError(f"bandwidth_gbs must be above 0, not {bandwidth_gbs}")
    # 10⁹ bytes per second are one byte per nanosecond.
    bandwidth = _exact(bandwidth_gbs)
    reading = (active_mib + kv_read_mib) * _MIB / (_exact(calibration.efficiency) * bandwidth)
    nanoseconds = reading + _exact(calibration.overhead_ms) * _NANOSECONDS_PER_MS
    if moe and calibration.source in (TABLE, DEFAULT):
        nanoseconds = max(nanoseconds, active_mib * _MIB / (_MOE_EFFICIENCY * bandwidth))
    return ceil(nanoseconds)


def split_part(nanoseconds: int, layers: int, of_layers: int) -> int:
    """The part of a token's time that is spent on a GPU which holds some of the layers, rounded up."""
    return -(-nanoseconds * layers // of_layers)


def milli_tokens_per_second(nanoseconds: int) -> int:
    """Rate of a replica alone, rounded down, from the sum of the times on its GPUs."""
    return 10**12 // max(1, nanoseconds)


def _exact(number: float) -> Fraction:
    """The decimal number that was written, not its nearest binary one."""
    return Fraction(str(number))

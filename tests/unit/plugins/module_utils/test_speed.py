# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The speed against public measurements, and the fits that it uses."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import geometric_mean, median, quantiles

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils import _speed as speed
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu_table import EFFICIENCY, lookup
from ansible_collections.aivailable.sdai.plugins.module_utils._speed import Calibration
from hypothesis import given
from hypothesis import strategies as st

DATA = Path(__file__).parents[4] / "tests/data/tokens_per_second.csv"
CUDA = speed.DEFAULTS["cuda"]
# Names in the file that say more, or less, than the card's.
NAMES = {
    "RTX PRO 6000 Blackwell": "RTX PRO 6000 Blackwell Workstation Edition",
    "NVIDIA A400": "RTX A400",
    "W7900": "PRO W7900",
    "Radeon 8060S gfx1151": "Radeon 8060S",
    "Instinct MI50/MI60": "Instinct MI50",
}


@dataclass(frozen=True)
class Measured:
    """One row of the file, for cards of vendors that a node can have."""

    architecture: str
    family: str
    bandwidth_gbs: float
    active_mib: int
    moe: bool
    tokens_per_second: float

    def ratio(self, calibration: Calibration) -> float:
        """Estimated to measured tokens per second."""
        time = speed.gpu_seconds_per_token(self.active_mib, 0, self.bandwidth_gbs, calibration, self.moe)
        return speed.milli_tokens_per_second(time) / 1000 / self.tokens_per_second


def measurements() -> list[Measured]:
    found = []
    with DATA.open(newline="") as lines:
        for row in csv.DictReader(lines):
            name = NAMES.get(row["gpu"], row["gpu"])
            card = lookup("nvidia", "", name) or lookup("amd", "", name)
            if card is None:
                assert row["gpu"].startswith(("Apple", "Arc")), row["gpu"]
                continue
            assert card.bandwidth_gbs == float(row["bandwidth_GBps_spec"])
            moe = "A3B" in row["model"] or "gpt-oss" in row["model"]
            active = round(float(row["active_GiB"]) * 1024)
            found.append(
                Measured(
                    card.architecture, row["backend"].lower(), card.bandwidth_gbs, active, moe, float(row["tg_tps"])
                )
            )
    return found


MEASURED = measurements()


def fit() -> dict[tuple[str, str], float]:
    """Geometric mean of the efficiencies that dense models show, where there are two or more rows."""
    seen = defaultdict(list)
    for row in MEASURED:
        reading = 1000 / row.tokens_per_second - speed.DEFAULTS[row.family].overhead_ms
        if not row.moe:
            seen[row.architecture, row.family].append(row.active_mib * 1.048576 / reading / row.bandwidth_gbs)
    return {key: geometric_mean(values) for key, values in seen.items() if len(values) >= 2}


def test_errors() -> None:
    """Over all measured cards that a node can have."""
    errors = [abs(row.ratio(speed.choose_calibration(row.family, row.architecture)) - 1) for row in MEASURED]
    assert len(errors) == 38
    assert median(errors) <= 0.055
    assert quantiles(errors, n=10, method="inclusive")[8] <= 0.18


def test_efficiencies_are_the_fit() -> None:
    """The table is what its comment says."""
    assert {key: round(value, 3) for key, value in fit().items()} == EFFICIENCY


def test_vulkan_default_is_the_fit() -> None:
    """Least squares over the architectures that the default is for."""
    served = [row for row in MEASURED if row.family == "vulkan" and (row.architecture, "vulkan") not in EFFICIENCY]

    def badness(efficiency: float, overhead_ms: float) -> float:
        calibration = Calibration(efficiency, overhead_ms, speed.DEFAULT)
        return sum(log(row.ratio(calibration)) ** 2 for row in served)

    chosen = speed.DEFAULTS["vulkan"]
    best = min((badness(e / 100, o / 10), e / 100, o / 10) for e in range(40, 100) for o in range(20))
    assert best[1:] == (chosen.efficiency, chosen.overhead_ms)


@pytest.mark.parametrize(("kv_read_mib", "milli"), [(0, 75.0), (2176 // 4 // 2, 71.0)])
def test_example_of_the_documentation(kv_read_mib: int, milli: float) -> None:
    """llama3.1:8b on a GTX 1080 Ti: sm_61 has one measurement, too few for a fit, so that the default holds."""
    calibration = speed.choose_calibration("cuda", "sm_61")
    assert calibration.source == speed.DEFAULT
    time = speed.gpu_seconds_per_token(4403, kv_read_mib, 484, calibration, moe=False)
    assert round(speed.milli_tokens_per_second(time) / 1000, 1) == milli


@pytest.mark.parametrize(
    ("family", "architecture", "host", "inventory", "expected"),
    [
        ("cuda", "sm_61", None, None, Calibration(0.78, 1.1, "default")),
        ("rocm", "gfx906", {}, {}, Calibration(0.815, 3.6, "default")),
        ("vulkan", "gfx803", None, None, Calibration(0.56, 0.3, "default")),
        ("cuda", "sm_86", None, None, Calibration(0.78, 1.1, "table")),
        ("cuda", "sm_86", None, {"rocm": {"efficiency": 0.5}}, Calibration(0.78, 1.1, "table")),
        ("cuda", "sm_86", None, {"cuda": {"efficiency": 0.5}}, Calibration(0.5, 1.1, "inventory")),
        ("cuda", "sm_86", None, {"cuda": {"overhead_ms": 2}}, Calibration(0.78, 2, "inventory")),
        ("cuda", "sm_86", {"overhead_ms": 0, "index": 3}, {"cuda": {"efficiency": 2}}, Calibration(2, 0, "host")),
        (
            "cuda",
            "sm_61",
            {"efficiency": 0.6, "overhead_ms": 3.5},
            {"cuda": {"efficiency": 0.5, "overhead_ms": 1}},
            Calibration(0.6, 3.5, "host"),
        ),
    ],
)
def test_choice(
    family: str,
    architecture: str,
    host: dict[str, float] | None,
    inventory: dict[str, dict[str, float]] | None,
    expected: Calibration,
) -> None:
    """Host before inventory before table before default, number by number."""
    assert speed.choose_calibration(family, architecture, host=host, inventory=inventory) == expected


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"efficiency": 0}, "efficiency must be above 0"),
        ({"efficiency": 2.01}, "at most 2"),
        ({"efficiency": float("nan")}, "efficiency"),
        ({"overhead_ms": -0.1}, "overhead_ms must be at least 0"),
        ({"overhead_ms": float("inf")}, "overhead_ms"),
    ],
)
def test_out_of_range(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(speed.SpeedError, match=message):
        speed.choose_calibration("cuda", "sm_61", host=numbers)


def test_unknown_family() -> None:
    with pytest.raises(speed.SpeedError, match="'metal'"):
        speed.choose_calibration("metal", "m2")


def test_bandwidth_must_be_positive() -> None:
    with pytest.raises(speed.SpeedError, match="bandwidth_gbs"):
        speed.gpu_seconds_per_token(4403, 0, 0, CUDA, moe=False)


@pytest.mark.parametrize(
    ("source", "nanoseconds"),
    # 1831 MiB at 0.55 of 936.2 GB/s, and at 0.9 of it plus 0.1 ms.
    [("default", 3728696), ("table", 3728696), ("inventory", 2378648), ("host", 2378648)],
)
def test_mixture_of_experts_is_limited_unless_measured(source: str, nanoseconds: int) -> None:
    calibration = Calibration(0.9, 0.1, source)
    assert speed.gpu_seconds_per_token(1831, 0, 936.2, calibration, moe=True) == nanoseconds
    assert speed.gpu_seconds_per_token(1831, 0, 936.2, calibration, moe=False) == 2378648


def test_exact_decimals() -> None:
    """0.1 means a tenth: 100 MiB at a tenth of 1 GB/s take 1.048576 s to the nanosecond."""
    assert speed.gpu_seconds_per_token(100, 0, 1.0, Calibration(0.1, 0.0, "host"), moe=False) == 1_048_576_000


@given(
    nanoseconds=st.integers(1, 10**12),
    layers=st.lists(st.integers(1, 80), min_size=1, max_size=8),
)
def test_parts_of_a_split_add_up(nanoseconds: int, layers: list[int]) -> None:
    """Equal GPUs take together what one takes, but for rounding up."""
    parts = [speed.split_part(nanoseconds, count, sum(layers)) for count in layers]
    assert 0 <= sum(parts) - nanoseconds < len(layers)


@given(active=st.integers(1, 200_000), kv=st.integers(0, 50_000), bandwidth=st.floats(10, 8000))
def test_more_to_read_takes_longer(active: int, kv: int, bandwidth: float) -> None:
    time = speed.gpu_seconds_per_token(active, kv, bandwidth, CUDA, moe=False)
    assert speed.gpu_seconds_per_token(active, kv + 1, bandwidth, CUDA, moe=False) > time
    assert speed.gpu_seconds_per_token(active, kv, bandwidth * 2, CUDA, moe=False) < time
    assert speed.gpu_seconds_per_token(active, kv, bandwidth, CUDA, moe=True) >= time

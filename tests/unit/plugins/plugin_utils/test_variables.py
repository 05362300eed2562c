# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A misspelt variable of the inventory is refused, and the known ones are those that the playbooks read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._validate import Findings, InputError
from ansible_collections.aivailable.sdai.plugins.plugin_utils._variables import INVENTORY, OURS, check_names, named

ROOT = Path(__file__).resolve().parents[4]


def words(folder: str, suffix: str) -> set[str]:
    files = sorted((ROOT / folder).rglob(f"*{suffix}"))
    assert files
    return {name for file in files for name in re.findall(r"(?<![\w/.-])sdai_[a-z0-9_]+", file.read_text())}


def refusal(names: dict[str, list[str]]) -> str:
    findings = Findings()
    check_names(names, findings)
    with pytest.raises(InputError) as caught:
        findings.check()
    return str(caught.value)


def test_a_misspelt_name_is_named_with_host_and_the_nearest_one() -> None:
    assert refusal({"gpu1": ["sdai_vram_margin"], "gpu2": ["sdai_gpus"]}) == (
        "sdai_vram_margin (host gpu1): is not a variable that is known here. Rename or remove it. "
        "Did you mean sdai_vram_margin_mib?"
    )


def test_one_of_all_hosts_is_named_once() -> None:
    message = refusal({f"gpu{number}": ["sdai_zzz"] for number in range(5)})
    assert message.startswith("sdai_zzz (hosts gpu0, gpu1, gpu2 and 2 more): is not a variable")
    assert "sdai_absent_nodes" in message


def test_what_others_call_theirs_is_no_matter() -> None:
    found = named(
        {"gpu1": {"my_sdai_gpus": 1, "sdai": 2, "__sdai_x": 3, "ansible_host": 4, "sdai_zzz": 5, "sdai_gpus": 6}}
    )
    assert found == {"gpu1": ["sdai_gpus", "sdai_zzz"]}
    findings = Findings()
    check_names({"gpu1": [*INVENTORY, *OURS]}, findings)
    assert findings.items == []


def test_every_name_that_the_playbooks_read_is_known() -> None:
    assert words("playbooks", ".yml") <= {*INVENTORY, *OURS}


def test_every_known_name_is_read() -> None:
    assert {*INVENTORY, *OURS} <= words("playbooks", ".yml") | words("plugins/plugin_utils", "_fleet.py")


def test_the_inventories_of_the_repository_set_known_names_only() -> None:
    assert words("inventories", ".yml") <= set(INVENTORY)

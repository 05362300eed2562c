# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role writes agrees with what the node's tool checks, and the tool is whole."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible.module_utils.compat.version import LooseVersion
from ansible.plugins.filter.core import FilterModule, regex_replace
from ansible_collections.aivailable.sdai.plugins.module_utils import _replica_tool as tool
from ansible_collections.aivailable.sdai.plugins.module_utils._replica import (
    Replica,
    check_environment,
    fixed_selectors,
)

ROOT = Path(__file__).resolve().parents[4]
ROLE = ROOT / "roles/ollama"
UTILS = ROOT / "plugins/module_utils"

CUDA = ("GPU-1b06a1de-0001-4a11-8c01-000000000001", "GPU-1b38a1de-0002-4a11-8c01-000000000002")
AMD, PCI = "GPU-7900a1de00000003", "0000:0a:00.0"


def render(template: str, **variables: t.Any) -> str:
    """Render with Ansible's own settings for templates and the role's plain variables."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(FilterModule().filters())
    environment.filters["regex_replace"] = regex_replace
    environment.tests["match"] = lambda value, pattern: re.match(pattern, value) is not None
    environment.tests["search"] = lambda value, pattern: re.search(pattern, value) is not None
    plain = yaml.safe_load((ROLE / "vars/main.yml").read_text()) | yaml.safe_load(
        (ROLE / "defaults/main.yml").read_text()
    )
    return environment.get_template(template).render({**plain, "ansible_managed": "managed", **variables})


def replica(backend: str, runner: str, gpus: list[tuple[str, int]]) -> dict[str, t.Any]:
    return {
        "id": "tiny--1",
        "unit": "sdai-ollama@tiny--1.service",
        "model": "tiny",
        "backend": backend,
        "runner": runner,
        "gpus": [
            {"id": gpu_id, "index": index, "layers": layers, "vram_mib": 100}
            for index, (gpu_id, layers) in enumerate(gpus)
        ],
        "port": 11500,
        "context": 4096,
        "parallel": 2,
        "kv_cache_type": "q8_0",
        "batch": 512,
        "flash_attention": True,
        "probe": {"kind": "chat", "prompt": "?", "pattern": "."},
    }


@pytest.mark.parametrize(
    ("backend", "runner", "gpus"),
    [
        ("cuda", "cuda_v12", [(CUDA[0], 16)]),
        ("cuda", "cuda_v13", [(CUDA[0], 10), (CUDA[1], 6)]),
        ("rocm", "rocm_v7_2", [(AMD, 16)]),
        ("rocm", "rocm_v7_2", [(AMD, 8), (PCI, 8)]),
        ("vulkan", "vulkan", [(PCI, 16)]),
    ],
)
def test_environment_passes_the_preflight(backend: str, runner: str, gpus: list[tuple[str, int]]) -> None:
    """The file and the tool state the selectors independently; here they meet."""
    item = replica(backend, runner, gpus)
    text = render("replica.env.j2", item=item, ollama_address="10.0.0.11", __ollama_load_seconds=310)
    environ = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    more = {"address": "10.0.0.11", "blob_bytes": 1, "load_seconds": 310}
    check_environment(fixed_selectors(Replica.from_dict({**item, **more})), environ)
    assert environ["OLLAMA_HOST"] == "10.0.0.11:11500"
    assert environ["OLLAMA_FLASH_ATTENTION"] == "1"
    assert environ["LLAMA_ARG_FIT"] == "off"
    assert ("ROCR_VISIBLE_DEVICES" in environ) == (backend == "rocm" and PCI not in dict(gpus))


@pytest.mark.parametrize(
    "template",
    ["sdai-ollama@.service.j2", "sdai-ollama-watch@.service.j2", "sdai-ollama-store.service.j2"],
)
@pytest.mark.parametrize("flag", [True, False])
def test_units_have_one_setting_a_line(template: str, flag: bool) -> None:
    """Included parts end with a line break, or the next setting becomes part of the last value."""
    text = render(template, __ollama_restart_grows=flag, __ollama_perfmon=flag)
    for line in text.splitlines():
        assert re.fullmatch(r"|#.*|\[\w+\]|[A-Z]\w+=.*", line), line
    assert "NoNewPrivileges=yes" in text.splitlines()
    assert "ProtectSystem=strict" in text.splitlines()


def test_growing_pause_only_where_systemd_knows_it() -> None:
    old = render("sdai-ollama@.service.j2", __ollama_restart_grows=False, __ollama_perfmon=False)
    new = render("sdai-ollama@.service.j2", __ollama_restart_grows=True, __ollama_perfmon=False)
    assert "RestartSec=10" in old.splitlines()
    assert "RestartSteps" not in old
    assert {"RestartSec=5", "RestartSteps=6", "RestartMaxDelaySec=60"} <= set(new.splitlines())


@pytest.mark.parametrize(
    ("frontends", "lines"),
    [
        ([], []),
        (["10.0.0.2", "10.0.0.1", "10.0.0.2"], ["ip saddr { 10.0.0.1, 10.0.0.2 } accept"]),
        (["fd00::1"], ["ip6 saddr { fd00::1 } accept"]),
    ],
)
def test_firewall_admits_the_frontends(frontends: list[str], lines: list[str]) -> None:
    text = render("firewall.nft.j2", ollama_frontends=frontends)
    assert [line.strip() for line in text.splitlines() if "saddr" in line] == lines
    mark = re.fullmatch(r'counter drop comment "sdai ([0-9a-f]{64})"', text.rstrip().splitlines()[-3].strip())
    assert mark is not None
    # Other rules, another mark: by it the role sees that a table which is loaded is not the one in the file.
    assert mark[1] not in render("firewall.nft.j2", ollama_frontends=[*frontends, "10.9.9.9"])


def test_no_replica_starts_without_the_firewall() -> None:
    for unit in ("sdai-ollama@.service.j2", "sdai-ollama-watch@.service.j2"):
        lines = render(unit, __ollama_restart_grows=True, __ollama_perfmon=True).splitlines()
        place = next(place for place, line in enumerate(lines) if "{{ __ollama_node }}/sdai-replica " in line)
        assert any("nft list table inet sdai" in line for line in lines[:place])


def systemd_reads(text: str) -> dict[str, str]:
    """An environment file as systemd.exec(5) says that it is read, for values in double quotes."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _eq, value = line.partition("=")
            assert value[0] == value[-1] == '"'
            found[name] = re.sub(r'\\(["\\`$])', r"\1", value[1:-1])
    return found


@pytest.mark.parametrize("value", ["http://proxy:3128", 'http://u:p%40"s$w`o\\rd@proxy:3128', "a b;c#d"])
def test_environment_of_the_store_server_is_quoted(value: str) -> None:
    text = render("store.env.j2", ollama_store_environment={"HTTPS_PROXY": value, "NO_PROXY": "mirror"})
    assert systemd_reads(text) == {"HTTPS_PROXY": value, "NO_PROXY": "mirror"}


def test_secrets_of_a_proxy_are_for_root_only() -> None:
    tasks = yaml.safe_load((ROLE / "tasks/configure.yml").read_text())
    task = next(task for task in tasks if task.get("ansible.builtin.template", {}).get("src") == "store.env.j2")
    assert (task["no_log"], task["diff"], task["ansible.builtin.template"]["mode"]) == (True, False, "0600")
    assert "ollama_store_environment" not in (ROLE / "templates/sdai-ollama-store.service.j2").read_text()


def test_time_for_a_start_covers_its_parts() -> None:
    """Besides the two loads: the tool's waits, the last look of each, and a minute for the rest."""
    given = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__ollama_start_seconds"]
    parts = [tool.DEVICE_SECONDS, tool.VULKAN_SECONDS, tool.SERVER_SECONDS, tool.SETTLE_SECONDS, tool.WATCH_SECONDS]
    assert given >= sum(parts) + tool.ANSWER_SECONDS + 60
    text = render("replica.conf.j2", item=replica("cuda", "cuda_v12", [(CUDA[0], 16)]), __ollama_load_seconds=310)
    assert f"TimeoutStartSec={620 + given}" in text.splitlines()


def test_default_version_is_a_tested_one() -> None:
    given = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    default = LooseVersion(yaml.safe_load((ROLE / "defaults/main.yml").read_text())["ollama_version"])
    assert LooseVersion(given["__ollama_tested_from"]) <= default < LooseVersion(given["__ollama_tested_below"])

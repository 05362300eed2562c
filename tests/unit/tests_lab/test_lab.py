# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's catalog holds only what was measured; and what the lab takes from the machine that runs it."""

from __future__ import annotations

import csv
import json
import typing as t
from pathlib import Path

import _engine
import _hosts
import _image
import _machine
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
MODELS = yaml.safe_load((ROOT / "inventories/lab/group_vars/all/models.yml").read_text())["sdai_models"]
MARGIN, CONTEXT = 1024, 500
NODES = [json.loads((ROOT / f"tests/lab/simgpu/hosts/gpu{number}.json").read_text())["gpus"] for number in (1, 2)]
OFFERS = [[gpu["vram_mib"] - MARGIN for gpu in gpus] for gpus in NODES]


def batch(context: int, parallel: int) -> int:
    total = context * parallel
    return 512 if total <= 4096 else 1024 if total <= 32768 else 2048


def measured(model: dict[str, t.Any]) -> list[int]:
    """MiB of weights, KV and compute of each measurement of the model as the catalog wants it, on one GPU."""
    wanted = (model["name"].replace(":", "-"), str(model["context"]), str(model["parallel"]), model["kv_cache_type"])
    ubatch = str(batch(model["context"], model["parallel"]))
    with (ROOT / "tests/data/truth.csv").open() as file:
        return [
            sum(int(row[name]) for name in ("weights_MiB", "kv_MiB", "compute_MiB"))
            for row in csv.DictReader(file)
            if (row["model"], row["ctx_per_slot"], row["parallel"], row["kv_type"]) == wanted
            and (row["fa"], row["n_ubatch"]) == ("on", ubatch)
            and "+" not in row["weights_MiB"]
        ]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["name"])
def test_each_model_was_measured_as_the_catalog_wants_it(model):
    assert measured(model)


def test_one_model_fits_nowhere_by_far():
    lacking = [m["name"] for m in MODELS if measured(m)[0] + CONTEXT > max(sum(offers) for offers in OFFERS) + 2048]
    assert lacking == ["llama3.3:70b"]


def test_one_model_may_run_by_vulkan_on_the_old_card():
    """q8_0 is not trusted there."""
    small = min(offer for offers in OFFERS for offer in offers)
    able = [m["name"] for m in MODELS if m["kv_cache_type"] == "f16" and measured(m)[0] + CONTEXT <= small]
    assert able == ["gemma3:4b"]


def test_inventory_and_containers_agree():
    inventory = yaml.safe_load((ROOT / "inventories/lab/hosts.yml").read_text())
    groups = inventory["lab"]["children"].values()
    declared = {name: value["sdai_address"] for group in groups for name, value in group["hosts"].items()}
    assert declared == {host.name: host.address for host in _hosts.HOSTS}


def test_the_indexes_of_pip_are_found(tmp_path):
    for name in ("index/simple", "wheels"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "constraints.txt").touch()
    options = {
        "index-url": "https://index.example/simple",
        "extra-index-url": f"file://{tmp_path}/index/simple\nfile:///nowhere/simple",
        "find-links": str(tmp_path / "wheels"),
        "constraint": str(tmp_path / "constraints.txt"),
    }
    assert _machine.local_paths(options) == [str(tmp_path / name) for name in ("constraints.txt", "index", "wheels")]


def test_the_environment_has_the_last_word_on_pip(monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/of/the/environment")
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    options = _machine.pip_options()
    assert options["find-links"] == "/of/the/environment"
    assert "timeout" not in options


def test_mounts_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(_machine, "STATE", tmp_path)
    monkeypatch.setenv("SDAI_LAB_BINDS", "/srv/a,/srv/b:/c")
    monkeypatch.setenv("SDAI_LAB_PIP_CONF", "/srv/pip.conf")
    authority = tmp_path / "ca.crt"
    authority.write_text("a certificate")
    monkeypatch.setenv("SDAI_LAB_CA_FILE", str(authority))
    mounts = _machine.mounts()
    assert mounts[1:] == ["/srv/pip.conf:/etc/pip.conf:ro", "/srv/a:/srv/a:ro", "/srv/b:/c:ro"]
    assert (tmp_path / "ca" / "sdai-lab-0.crt").read_text() == "a certificate"


def test_a_container_is_made_anew_when_what_it_is_made_of_changes(monkeypatch, tmp_path):
    monkeypatch.setattr(_hosts, "STATE", tmp_path)
    host = _hosts.HOSTS[0]
    arguments = _hosts.run_arguments(host, "image", [])
    before = _hosts.specification(host, arguments)
    assert _hosts.specification(host, arguments) == before
    assert _hosts.specification(host, [*arguments, "--volume=/a:/a"]) != before
    _engine.write(tmp_path / "pip.conf", "[global]\n")
    assert _hosts.specification(host, arguments) != before


def test_the_chat_page_is_installed_from_what_is_kept_here_alone(monkeypatch, tmp_path):
    """Whatever pip is told on this machine."""
    monkeypatch.setattr(_hosts, "STATE", tmp_path)
    (host,) = (host for host in _hosts.HOSTS if host.wheels)
    arguments = _hosts.run_arguments(host, "image", ["/srv/pip.conf:/etc/pip.conf:ro", "/srv/a:/srv/a:ro"])
    (configuration,) = (argument for argument in arguments if ":/etc/pip.conf" in argument)
    text = Path(configuration.removeprefix("--volume=").partition(":")[0]).read_text()
    folder = text.rpartition("find-links = ")[2].strip()
    assert "no-index = true" in text
    assert any(argument.endswith(f":{folder}:ro") for argument in arguments)
    assert "--volume=/srv/a:/srv/a:ro" in arguments


def test_the_image_is_named_by_its_recipe(tmp_path):
    recipe = tmp_path / "recipe"
    _engine.write(recipe / "packages", "a\n")
    before = _image.digest(recipe)
    _engine.write(recipe / "packages", "b\n")
    assert _image.digest(recipe) != before

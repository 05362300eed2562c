# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import amdgpu
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Device, Holding
from hypothesis import given
from hypothesis import strategies as st

MIB = 2**20


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


def card(address: str, number: int, *, used: int = 0, unique_id: str | None = None) -> dict[str, str]:
    """A card of 24560 MiB that amdgpu works, as sysfs shows it."""
    device = f"class/drm/card{number}/device"
    files = {
        f"{device}/uevent": f"DRIVER=amdgpu\nPCI_SLOT_NAME={address}",
        f"{device}/vendor": "0x1002",
        f"{device}/device": "0x744c",
        f"{device}/mem_info_vram_total": str(24560 * MIB),
        f"{device}/mem_info_vram_used": str(used),
    }
    return files if unique_id is None else {**files, f"{device}/unique_id": unique_id}


def node(number: int, *, gpu_id: int, bus: int = 0, version: int = 0) -> dict[str, str]:
    here = f"class/kfd/kfd/topology/nodes/{number}"
    return {
        f"{here}/gpu_id": str(gpu_id),
        f"{here}/properties": f"simd_count 1\nlocation_id {bus << 8}\ndomain 0\ngfx_target_version {version}",
    }


@pytest.mark.parametrize(
    ("version", "name"),
    [(110000, "gfx1100"), (90010, "gfx90a"), (80003, "gfx803"), (90402, "gfx942"), (90006, "gfx906")],
)
def test_architecture(version: int, name: str) -> None:
    assert amdgpu.architecture(version) == name


def test_a_card_with_rocm_and_one_without(tmp_path: Path) -> None:
    """Cards come in the order of the bus, whatever their numbers; connectors and render nodes are no cards."""
    write(
        tmp_path,
        {
            **card("0000:0a:00.0", 0, used=8 * MIB + 1),
            **card("0000:03:00.0", 1, unique_id="7900A1DE00000003"),
            "class/drm/card0-DP-1/status": "connected",
            "class/drm/renderD128/dev": "226:128",
            **node(0, gpu_id=0),
            **node(1, gpu_id=4711, bus=0x03, version=110000),
        },
    )
    report = amdgpu.read(str(tmp_path), str(tmp_path / "proc"))
    assert report.devices == (
        Device(
            vendor="amd",
            pci_address="0000:03:00.0",
            pci_device="0x744c",
            uuid="GPU-7900a1de00000003",
            architecture="gfx1100",
            vram_mib=24560,
            kfd_ordinal=0,
        ),
        Device(vendor="amd", pci_address="0000:0a:00.0", pci_device="0x744c", vram_mib=24560, used_mib=9),
    )


@pytest.mark.parametrize(
    ("unique_id", "uuid"),
    [("0000000000000000", ""), ("nonsense", ""), ("", ""), ("1f", "GPU-000000000000001f")],
)
def test_uuid(tmp_path: Path, unique_id: str, uuid: str) -> None:
    write(tmp_path, card("0000:03:00.0", 0, unique_id=unique_id))
    assert amdgpu.read(str(tmp_path), "").devices[0].uuid == uuid


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"revision": "0xe7"}, "AMD Radeon RX 580"),
        ({"revision": "0xef"}, "AMD Radeon RX 570"),
        ({"revision": "0xa1"}, ""),
        ({"revision": "0xe7", "device": "0x744c"}, ""),
        ({"revision": "0xe7", "product_name": "Instinct MI50"}, "Instinct MI50"),
        ({}, ""),
    ],
)
def test_name(tmp_path: Path, files: dict[str, str], name: str) -> None:
    files = {f"class/drm/card0/device/{file}": text for file, text in {"device": "0x67df", **files}.items()}
    write(tmp_path, {**card("0000:0a:00.0", 0), **files})
    assert amdgpu.read(str(tmp_path), "").devices[0].name == name


def test_ordinals_count_the_gpus_in_the_order_of_the_nodes(tmp_path: Path) -> None:
    """Node 10 comes after node 2, and processors have no ordinal."""
    write(
        tmp_path,
        {
            **node(0, gpu_id=0),
            **node(1, gpu_id=0),
            **node(2, gpu_id=7, bus=0x83),
            **node(10, gpu_id=8, bus=0x03),
        },
    )
    found = [(each.ordinal, each.gpu_id, each.pci_address) for each in amdgpu.kfd_nodes(str(tmp_path))]
    assert found == [(0, 7, "0000:83:00.0"), (1, 8, "0000:03:00.0")]


@given(domain=st.integers(0, 0xFFFF), bus=st.integers(0, 255), device=st.integers(0, 31), function=st.integers(0, 7))
def test_location(domain: int, bus: int, device: int, function: int) -> None:
    location = bus << 8 | device << 3 | function
    assert amdgpu._location(domain, location) == f"{domain:04x}:{bus:02x}:{device:02x}.{function}"


def test_vram_of_rocm_programs(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            **node(1, gpu_id=7, bus=0x03),
            **node(2, gpu_id=8, bus=0x0A),
            "class/kfd/kfd/proc/41/vram_7": str(5000 * MIB + 5),
            "class/kfd/kfd/proc/41/vram_8": "0",
            "class/kfd/kfd/proc/42/vram_99": str(MIB),
        },
    )
    assert amdgpu.kfd_holdings(str(tmp_path), amdgpu.kfd_nodes(str(tmp_path))) == (
        Holding(pid=41, pci_address="0000:03:00.0", vram_mib=5000, api="rocm"),
    )


def fdinfo(address: str, amount: str, *, client: int = 1, key: str = "drm-memory-vram") -> str:
    return f"pos:\t0\ndrm-driver:\tamdgpu\ndrm-client-id:\t{client}\ndrm-pdev:\t{address}\n{key}:\t{amount}\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (fdinfo("0000:0A:00.0", "2048 KiB"), ("0000:0a:00.0", "1", 2 * MIB)),
        (fdinfo("0000:0a:00.0", "3 MiB"), ("0000:0a:00.0", "1", 3 * MIB)),
        (fdinfo("0000:0a:00.0", "0"), ("0000:0a:00.0", "1", 0)),
        (fdinfo("0000:0a:00.0", "2048 KiB", key="drm-resident-vram"), ("0000:0a:00.0", "1", 2 * MIB)),
        (fdinfo("0000:0a:00.0", "2048 KiB", key="drm-memory-gtt"), None),
        (fdinfo("0000:0a:00.0", "many"), None),
        (fdinfo("0000:00:02.0", "2048 KiB").replace("amdgpu", "i915"), None),
        ("pos:\t0\nflags:\t02\n", None),
        ("", None),
    ],
)
def test_parse_fdinfo(text: str, found: tuple[str, str, int] | None) -> None:
    assert amdgpu.parse_fdinfo(text) == found


def test_open_files_of_one_client_count_once(tmp_path: Path) -> None:
    """Two clients of one process add up; a duplicate of the file, also in another process, does not."""
    first, second = fdinfo("0000:0a:00.0", "1048576 KiB", client=1), fdinfo("0000:0a:00.0", "512 MiB", client=2)
    write(
        tmp_path,
        {
            "50/fdinfo/7": first,
            "50/fdinfo/8": first,
            "50/fdinfo/9": second,
            "60/fdinfo/7": first,
            "70/fdinfo/7": fdinfo("0000:03:00.0", "100 KiB", client=3),
            "self/fdinfo/7": second,
            "80/status": "",
        },
    )
    found, unseen = amdgpu.fdinfo_holdings(str(tmp_path))
    assert found == (Holding(pid=50, pci_address="0000:0a:00.0", vram_mib=1536, api="vulkan"),)
    assert unseen == 0


def test_what_must_not_be_seen_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where it matters: VRAM is in use that nobody seen holds."""
    write(tmp_path, {**card("0000:03:00.0", 0, used=4000 * MIB), **card("0000:0a:00.0", 1, used=200 * MIB)})
    seen = Holding(pid=5, pci_address="0000:03:00.0", vram_mib=1000, api="vulkan")
    monkeypatch.setattr(amdgpu, "fdinfo_holdings", lambda _procfs: ((seen,), 12))
    (warning,) = amdgpu.read(str(tmp_path), "").warnings
    assert warning.startswith("3000 MiB on 0000:03:00.0 are held by nobody")
    assert "12 processes" in warning
    assert "become" in warning


def test_hidden_processes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"50/fdinfo/7": "", "51/fdinfo/7": ""})

    def iterdir(path: Path) -> object:
        if path.name == "fdinfo":
            raise PermissionError
        return iter([path / "50", path / "51"])

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert amdgpu.fdinfo_holdings(str(tmp_path)) == ((), 2)

# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The nodes and their GPUs, gathered or declared, as typed values."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass

from ..module_utils._gpu.merge import VENDOR_NAMES
from ..module_utils._gpu_table import lookup
from ..module_utils._support import RUNNERS
from ._catalog import VENDORS
from ._validate import Findings, Reader, closest, describe

if t.TYPE_CHECKING:
    from collections.abc import Iterable

FAMILIES = ("cuda", "rocm", "vulkan")
DEFAULT_MARGIN_MIB = 1024
DEFAULT_CONTEXT_MIB: t.Mapping[str, int] = {"cuda": 500, "rocm": 500, "vulkan": 200}
MAX_VRAM_MIB = 2**24

_HOST_KEYS = ("gpus", "labels", "failure_domain", "vram_margin_mib", "vram_context_mib", "speed")
_GPU_KEYS = (
    "id",
    "index",
    "vendor",
    "name",
    "architecture",
    "vram_mib",
    "vram_foreign_mib",
    "bandwidth_gbs",
    "backends",
    "usable",
    "reason",
    "remedy",
    "pci_address",
    "efficiency",
    "overhead_ms",
)
_SPEED_KEYS = ("efficiency", "overhead_ms")
_ARCHITECTURES = {"nvidia": re.compile(r"sm_[0-9]{2,3}[a-z]?"), "amd": re.compile(r"gfx[0-9a-f]{3,5}")}
_EXAMPLES = {"nvidia": "sm_61 for compute capability 6.1", "amd": "gfx1100 for an RX 7900 XTX"}
# What NVIDIA gives one GPU or one slice of it, and no other; whatever else stands for a card may repeat across hosts.
_UUID = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._/-]*")


@dataclass(frozen=True)
class Speed:
    """Calibration that somebody set; None leaves the next source its say."""

    efficiency: float | None = None
    overhead_ms: float | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """What was set, by name."""
        given = (("efficiency", self.efficiency), ("overhead_ms", self.overhead_ms))
        return {name: value for name, value in given if value is not None}


@dataclass(frozen=True)
class Card:
    """One GPU as the facts or the inventory have it. ``bandwidth_gbs`` is None where nobody knows it."""

    node: str
    id: str
    index: int
    vendor: str
    name: str
    architecture: str
    vram_mib: int
    vram_foreign_mib: int
    bandwidth_gbs: float | None
    backends: tuple[str, ...]
    usable: bool
    reason: str
    remedy: str
    speed: Speed
    key: str


@dataclass(frozen=True)
class Host:
    """One node with what the inventory says of it; ``context_mib`` and ``speed`` by family."""

    name: str
    failure_domain: str
    labels: Mapping[str, str]
    margin_mib: int
    context_mib: Mapping[str, int]
    speed: Mapping[str, Speed]
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Defaults:
    """What holds on hosts that say nothing else."""

    margin_mib: int
    context_mib: Mapping[str, int]
    speed: Mapping[str, Speed]


def read_defaults(margin: object, context: object, speed: object, findings: Findings) -> Defaults:
    """The inventory's ``sdai_vram_margin_mib``, ``sdai_vram_context_mib`` and ``sdai_speed``; None is not given."""
    names = ("sdai_vram_margin_mib", "sdai_vram_context_mib", "sdai_speed")
    reader = Reader(dict(zip(names, (margin, context, speed), strict=True)), "", findings, known=names)
    return Defaults(
        margin_mib=_margin(reader, names[0], DEFAULT_MARGIN_MIB),
        context_mib=_context(reader, names[1], DEFAULT_CONTEXT_MIB),
        speed=_speeds(reader, names[2], {}),
    )


def read_hosts(fleet: object, absent: tuple[str, ...], defaults: Defaults, findings: Findings) -> tuple[Host, ...]:
    """Every host of the fleet but the absent ones, by name."""
    if not isinstance(fleet, Mapping) or not fleet:
        findings.add(
            "fleet",
            "has no GPU nodes" if isinstance(fleet, Mapping) else f"is {describe(fleet)}, not a mapping",
            "Put the hosts with GPUs into the inventory group gpu_nodes.",
        )
        return ()
    hosts = []
    for name, raw in sorted(fleet.items(), key=lambda item: str(item[0])):
        if str(name) not in absent:
            hosts.append(_host(str(name), raw, defaults, findings))
    _twins(hosts, findings)
    return tuple(hosts)


def _host(name: str, raw: object, defaults: Defaults, findings: Findings) -> Host:
    named = {f"sdai_{key}": value for key, value in raw.items()} if isinstance(raw, Mapping) else raw
    reader = Reader(named, "", findings, host=name, known=tuple(f"sdai_{key}" for key in _HOST_KEYS))
    if not reader.has("sdai_gpus"):
        reader.complain(
            "sdai_gpus",
            "no facts of its GPUs: the node was not reached, or gathering failed",
            f"Bring {name} back, or add it to sdai_absent_nodes to plan without it, or declare sdai_gpus for it.",
        )
    items = reader.items("sdai_gpus", "Write a list of GPUs, as gpu_facts returns it.")
    cards = tuple(_card(item, name, place, findings) for place, item in enumerate(items))
    _duplicates(cards, findings)
    return Host(
        name=name,
        failure_domain=reader.text("sdai_failure_domain", "Name what fails together, for example rack1.", default=name)
        or name,
        labels=reader.labels("sdai_labels", "Write label: value."),
        margin_mib=_margin(reader, "sdai_vram_margin_mib", defaults.margin_mib),
        context_mib=_context(reader, "sdai_vram_context_mib", defaults.context_mib),
        speed=_speeds(reader, "sdai_speed", defaults.speed),
        cards=cards,
    )


def _margin(reader: Reader, name: str, default: int) -> int:
    remedy = "Give the MiB to leave free on each GPU, for example 1024."
    return reader.whole(name, remedy, default=default, most=MAX_VRAM_MIB)


def _context(reader: Reader, name: str, default: Mapping[str, int]) -> Mapping[str, int]:
    """One number for all families, or some of them by name."""
    if not reader.has(name):
        return default
    remedy = "Give the MiB that the engine's context takes: one number, or one by family such as {cuda: 500}."
    given = reader.values[name]
    if not isinstance(given, Mapping):
        value = reader.whole(name, remedy, most=MAX_VRAM_MIB)
        return dict.fromkeys(FAMILIES, value)
    inner = Reader(given, reader.path(name), reader.findings, host=reader.host, known=FAMILIES)
    return {family: inner.whole(family, remedy, default=default[family], most=MAX_VRAM_MIB) for family in FAMILIES}


def _speeds(reader: Reader, name: str, default: Mapping[str, Speed]) -> Mapping[str, Speed]:
    if not reader.has(name):
        return default
    inner = Reader(reader.values[name], reader.path(name), reader.findings, host=reader.host, known=FAMILIES)
    result = {}
    for family in FAMILIES:
        if inner.has(family):
            values = Reader(
                inner.values[family], inner.path(family), inner.findings, host=inner.host, known=_SPEED_KEYS
            )
            result[family] = _speed(values)
    return result


def _speed(reader: Reader) -> Speed:
    efficiency = reader.number(
        "efficiency", "Give the share of the bandwidth that is reached, for example 0.78.", above=True, most=2
    )
    overhead = reader.number("overhead_ms", "Give the milliseconds added to each token, for example 1.1.", most=10_000)
    return Speed(None if efficiency is None else float(efficiency), None if overhead is None else float(overhead))


def _card(raw: object, node: str, place: int, findings: Findings) -> Card:
    key = f"sdai_gpus[{place}]"
    reader = Reader(raw, key, findings, host=node, known=_GPU_KEYS)
    usable = reader.boolean("usable", "Write true or false.", default=True)
    bandwidth = reader.number(
        "bandwidth_gbs", "Give the card's memory bandwidth in GB/s, for example 484.", most=100_000
    )
    vram = reader.whole(
        "vram_mib",
        "Give the card's whole VRAM in MiB, for example 11264.",
        default=None if usable else 0,
        least=1 if usable else 0,
        most=MAX_VRAM_MIB,
    )
    unknown = None if usable else ""
    vendor = reader.choice("vendor", VENDORS)
    name = reader.text("name", "Give the card's name, for example Tesla P40.", default=unknown)
    architecture = _architecture(reader, vendor, default=unknown)
    # By a vendor that is wrong the runners cannot be judged.
    judged = not any(findings.about(f"{key}.{given}", host=node) for given in ("vendor", "architecture"))
    backends = _backends(reader, vendor if judged else "", required=usable)
    return Card(
        node=node,
        id=reader.text("id", "Give the card's UUID, else its PCI address.", pattern=_ID),
        index=reader.whole("index", "Give the card's place on the node, from 0.", default=place, most=1023),
        vendor=vendor,
        name=name,
        architecture=architecture,
        vram_mib=vram,
        vram_foreign_mib=reader.whole(
            "vram_foreign_mib", "Give the MiB that other processes hold.", default=0, most=MAX_VRAM_MIB
        ),
        bandwidth_gbs=float(bandwidth) if bandwidth else _known_bandwidth(vendor, name, vram),
        backends=backends,
        usable=usable and bool(backends),
        reason=reader.text("reason", "Say why the card cannot be used.", default="")
        or ("" if usable and backends else "no runner serves it"),
        remedy=reader.text("remedy", "Say what makes the card usable.", default=""),
        speed=_speed(reader),
        key=key,
    )


def _architecture(reader: Reader, vendor: str, *, default: str | None) -> str:
    remedy = f"Write {_EXAMPLES[vendor]}."
    text = reader.text("architecture", remedy, default=default)
    others = [name for name in VENDORS if _ARCHITECTURES[name].fullmatch(text)]
    if not text or vendor in others or reader.findings.about(reader.path("vendor"), host=reader.host):
        return text
    if others:
        theirs = f"{describe(text)} is an architecture of {VENDOR_NAMES[others[0]]} cards, and vendor is {vendor}"
        reader.complain("architecture", theirs, "Correct one of the two.")
    else:
        reader.complain("architecture", f"{describe(text)} is not an architecture", remedy)
    return text


def _backends(reader: Reader, vendor: str, *, required: bool) -> tuple[str, ...]:
    remedy = "Write a list of runners in order of preference, such as [cuda_v12, vulkan]."
    backends = reader.words("backends", remedy)
    if required and not reader.has("backends"):
        reader.missing("backends", remedy)
    known = RUNNERS.get(vendor, backends)
    for index, runner in enumerate(backends):
        if runner not in known:
            reader.complain(
                f"backends[{index}]",
                f"{describe(runner)} is not a runner for {VENDOR_NAMES[vendor]} cards",
                f"Write folders of Ollama's engine that serve them: {', '.join(known)}.{closest(runner, known)}",
            )
    return backends


def _known_bandwidth(vendor: str, name: str, vram_mib: int) -> float | None:
    card = lookup(vendor, "", name, vram_mib)
    return card.bandwidth_gbs if card else None


def _duplicates(cards: tuple[Card, ...], findings: Findings) -> None:
    """On one host an id and an index belong to one card each."""
    ids: dict[str, Card] = {}
    indices: dict[int, Card] = {}
    for card in cards:
        if card.id and ids.setdefault(card.id, card) is not card:
            findings.add(
                f"{card.key}.id",
                f"{describe(card.id)} is the id of {ids[card.id].key} too",
                "Give each GPU of a host its own id: its UUID, else its PCI address.",
                host=card.node,
            )
        elif indices.setdefault(card.index, card) is not card:
            findings.add(
                f"{card.key}.index",
                f"{card.index} is the index of {indices[card.index].key} too",
                "Number the GPUs of a host from 0, NVIDIA cards first.",
                host=card.node,
            )


def _twins(hosts: Iterable[Host], findings: Findings) -> None:
    """One machine under two names would be planned twice."""
    owners: dict[str, str] = {}
    for card in (card for host in hosts for card in host.cards if _UUID.fullmatch(card.id)):
        owner = owners.setdefault(card.id, card.node)
        if owner != card.node:
            findings.add(
                f"{card.key}.id",
                f"{describe(card.id)} is a GPU of {owner} too",
                f"Take one of {owner} and {card.node} out of the inventory if they are one machine, "
                "or give the declared card another id.",
                host=card.node,
            )

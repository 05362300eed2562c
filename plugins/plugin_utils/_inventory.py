# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Whether the inventory can be planned and applied: all that can be known before any host is contacted."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from collections.abc import Mapping

from ..module_utils._support import possible_runners
from ._fleet import LIST_OF_HOSTS, fleet_from_hostvars, read_options, read_world
from ._validate import Findings, InputError, Reader, describe
from ._variables import FLEET_WIDE, check_names, named
from ._what_if import KEY as WHAT_IF
from ._what_if import read_what_if

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._catalog import Wanted
    from ._nodes import Card, Host

REQUIREMENTS = ("any", "feasible", "optimal")
RESIDENCY = ("enforce", "warn")
# No card that Ollama serves has less; whoever writes 24 means GiB.
LEAST_VRAM_MIB = 256

_MAX_SECONDS = 86_400
_SWITCH = "Write true or false."


def inventory_fault(
    hostvars: Mapping[str, Mapping[str, object]],
    nodes: Sequence[str],
    group: str,
    frontends: Sequence[str] = (),
    catalog: Mapping[str, t.Any] | None = None,
    *,
    options: Mapping[str, Mapping[str, t.Any]] | None = None,
    given: Mapping[str, Mapping[str, object]] | None = None,
) -> str:
    """What is wrong with the inventory, for the administrator; empty if nothing is.

    ``nodes`` are the hosts of ``group``, the GPU nodes; ``frontends`` may be absent as they may. Without the
    ``catalog`` of known models those wanted, the GPUs declared and the roles' variables are left unread: whoever
    removes the service does not need them. ``options`` are the roles' by name, as their argument_specs have them,
    and ``given`` what each host says of them.
    """
    findings = Findings()
    names = named(hostvars)
    common = hostvars["localhost"]
    check_names(names, findings)
    _settings("", [name for name in FLEET_WIDE if name in common], common, findings)
    for host, ours in sorted(names.items()):
        _settings(host, [name for name in ours if name not in FLEET_WIDE], hostvars[host], findings)
    if catalog is not None:
        _misplaced(names, common, findings)
        if nodes:
            _world(hostvars, nodes, frontends, catalog, findings)
        else:
            remedy = "Put the hosts with GPUs into it, and see that -i names your inventory."
            findings.add(group, "this inventory group has no hosts", remedy)
        _options(common, findings)
        for host, values in sorted((given or {}).items()):
            _role_settings(host, values, options or {}, findings)
    try:
        findings.check()
    except InputError as error:
        return str(error)
    return ""


def _world(
    hostvars: Mapping[str, Mapping[str, object]],
    nodes: Sequence[str],
    frontends: Sequence[str],
    catalog: Mapping[str, t.Any],
    findings: Findings,
) -> None:
    """The wanted models, and the nodes as far as the inventory describes them: other GPUs are read on the nodes."""
    common = hostvars["localhost"]
    absent = common.get("sdai_absent_nodes")
    if isinstance(absent, list):
        absent = [name for name in absent if name in nodes or name not in frontends]
    away = [name for name in nodes if isinstance(absent, list) and name in absent]
    fleet = fleet_from_hostvars(hostvars, nodes, away)
    for host, entry in fleet.items():
        entry["gpus"] = [] if host in away else hostvars[host].get("sdai_gpus", [])
        if entry["gpus"] is None:
            entry["gpus"] = []
            findings.add(
                "sdai_gpus", "has no value", "Remove the line to have the host asked, or list its GPUs.", host=host
            )
    models = common.get("sdai_models")
    if models is None and any(item.key == "sdai_models" for item in findings.items):
        models = []
    hosts, wanted, _known = read_world(findings, fleet=fleet, models=models, catalog=catalog, absent_nodes=absent)
    for card in (card for host in hosts for card in host.cards):
        if card.usable and not findings.about(card.key, host=card.node):
            _declared(card, findings)
    _pins(wanted, hosts, findings)
    if common.get(WHAT_IF) is not None:
        read_what_if(common[WHAT_IF], findings, nodes=nodes, absent=away, models=models)
    _addresses({host.name: hostvars[host.name].get("sdai_address") for host in hosts}, findings)


def _pins(wanted: Iterable[Wanted], hosts: Iterable[Host], findings: Findings) -> None:
    """A declared card does not die, so that an id that is not declared is a mistake."""
    ids = {host.name: [f"{host.name}/{card.id}" for card in host.cards] for host in hosts if host.cards}
    for model in wanted:
        for name in ("gpus", "exclude_gpus"):
            for place, pin in enumerate(getattr(model.constraints, name)):
                known = ids.get(pin.partition("/")[0])
                if known is not None and pin not in known:
                    findings.add(
                        f"{model.key}.constraints.{name}[{place}]",
                        f"{describe(pin)} is not a declared GPU",
                        f"Write one of {', '.join(known)}.",
                    )


def _addresses(given: Mapping[str, object], findings: Findings) -> None:
    """Two nodes at one address would be served by whichever answers."""
    owners: dict[str, str] = {}
    for host, address in given.items():
        if isinstance(address, str) and address and owners.setdefault(address, host) != host:
            findings.add(
                "sdai_address",
                f"{describe(address)} is the address of {owners[address]} too",
                "Give each node its own.",
                host=host,
            )


def _declared(card: Card, findings: Findings) -> None:
    """What the node itself would have said otherwise of a card of this kind."""
    possible = possible_runners(card.vendor, card.architecture)
    for place, runner in enumerate(card.backends):
        if runner not in possible.backends:
            findings.add(
                f"{card.key}.backends[{place}]",
                possible.reason or f"{describe(runner)} does not serve {card.architecture}",
                f"Write {', '.join(possible.backends)}."
                if possible.backends
                else "Declare the card with usable: false and backends: [], or leave it out.",
                host=card.node,
            )
            return
    if card.vram_mib < LEAST_VRAM_MIB:
        findings.add(
            f"{card.key}.vram_mib",
            f"{card.vram_mib} MiB is less than any usable card has",
            f"Give MiB, not GiB: {card.vram_mib} GiB are {card.vram_mib * 1024}.",
            host=card.node,
        )
    elif card.vram_foreign_mib > card.vram_mib:
        findings.add(
            f"{card.key}.vram_foreign_mib",
            f"{card.vram_foreign_mib} is more than vram_mib, which is {card.vram_mib}",
            "Give the MiB that other processes hold of it.",
            host=card.node,
        )


def _options(common: Mapping[str, object], findings: Findings) -> None:
    names = ("plan_seconds", "min_gain", "churn_budget_gib", "replan")
    try:
        read_options(**{name: common.get(f"sdai_{name}") for name in names})
    except InputError as error:
        findings.items += error.findings


def _misplaced(names: Mapping[str, Iterable[str]], common: Mapping[str, object], findings: Findings) -> None:
    """The plan is made on localhost, which has what group_vars/all says and nothing else."""
    for host, given in sorted(names.items()):
        for name in given:
            if name in FLEET_WIDE and name not in common:
                findings.add(
                    name,
                    "holds for the whole fleet, and is written for some hosts only",
                    "Move it to group_vars/all.",
                    host=host,
                )


def _settings(host: str, names: Iterable[str], values: Mapping[str, object], findings: Findings) -> None:
    given = {name: values[name] for name in sorted(names) if name in _SETTINGS}
    reader = Reader(given, "", findings, host=host, known=tuple(_SETTINGS))
    for name in given:
        _SETTINGS[name](reader, name)


def _role_settings(
    host: str, values: Mapping[str, object], options: Mapping[str, Mapping[str, t.Any]], findings: Findings
) -> None:
    """Each role checks its own variables, when others have changed their hosts already."""
    reader = Reader(values, "", findings, host=host, known=tuple(options))
    for name in sorted(values):
        option = options[name]
        what = option["description"] if isinstance(option["description"], str) else option["description"][0]
        # C(/api) and V(auto) are for the documentation's renderer.
        what = re.sub(r"\b[A-Z]\(([^)]*)\)", r"\1", what)
        kind = option.get("type", "str")
        if kind == "int":
            reader.whole(
                name, f"Write a whole number. {what}", default=0, most=65_535 if name.endswith("_port") else 10**9
            )
        elif kind == "bool":
            reader.boolean(name, f"{_SWITCH} {what}", default=False)
        elif kind == "list":
            reader.items(name, f"Write a list. {what}")
        elif kind == "dict":
            reader.mapping(name, f"Write a mapping. {what}")
        elif "choices" in option:
            reader.choice(name, option["choices"], default=option["choices"][0])
        elif isinstance(values[name], (Mapping, list)):
            reader.complain(name, f"is {describe(values[name])}", f"Write one value. {what}")


def _address(reader: Reader, name: str) -> None:
    remedy = "Give the IP address at which the frontends reach the host, for example 10.0.0.11."
    text = reader.text(name, remedy, default="")
    try:
        if text:
            ipaddress.ip_address(text)
    except ValueError:
        reader.complain(name, f"{describe(text)} is not an IP address", remedy)


def _switch(reader: Reader, name: str) -> None:
    reader.boolean(name, _SWITCH, default=False)


def _seconds(reader: Reader, name: str) -> None:
    reader.whole(name, "Give whole seconds, for example 300.", default=0, most=_MAX_SECONDS)


def _path(reader: Reader, name: str) -> None:
    remedy = "Write a path."
    if reader.has(name):
        reader.text(name, remedy)


_SETTINGS: Mapping[str, Callable[[Reader, str], object]] = {
    "sdai_absent_nodes": lambda reader, name: reader.words(name, LIST_OF_HOSTS),
    "sdai_address": _address,
    "sdai_become": _switch,
    "sdai_break_lock": _switch,
    "sdai_drain_seconds": _seconds,
    "sdai_plan_dir": _path,
    "sdai_plan_file": _path,
    "sdai_procfs_root": _path,
    "sdai_purge_chats": _switch,
    "sdai_purge_models": _switch,
    "sdai_require": lambda reader, name: reader.choice(name, REQUIREMENTS, default=REQUIREMENTS[0]),
    "sdai_residency": lambda reader, name: reader.choice(name, RESIDENCY, default=RESIDENCY[0]),
    "sdai_sysfs_root": _path,
    "sdai_teardown": _switch,
}

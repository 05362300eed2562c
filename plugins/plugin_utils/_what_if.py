# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""``sdai_what_if``: the fleet without some nodes, with cards more, or with models wanted more often.

::

    without_nodes: [gpu2]
    with_gpus: {gpu1: [Tesla P40]}      # names of known cards, or entries of the form of sdai_gpus
    replicas: {"llama3.1:8b": 2}        # at least so many of the model
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import yaml

from ..module_utils._gpu_table import CARDS, lookup
from ..module_utils._support import possible_runners
from ._catalog import VENDORS, same_name
from ._nodes import read_defaults, read_hosts
from ._tables import count
from ._validate import Findings, Reader, closest, describe

KEY = "sdai_what_if"
KEYS = ("without_nodes", "with_gpus", "replicas")
_CARD = "Write the name of a known card such as Tesla P40, or a mapping of the form of sdai_gpus."


@dataclass(frozen=True)
class WhatIf:
    """The question. ``cards`` are entries of the form of ``sdai_gpus``, complete but for index; by node."""

    without_nodes: tuple[str, ...]
    cards: Mapping[str, tuple[Mapping[str, object], ...]]
    replicas: Mapping[str, int]

    @property
    def words(self) -> str:
        """The question in a line."""
        parts = [f"without {', '.join(self.without_nodes)}"] if self.without_nodes else []
        parts += [
            f"with {', '.join(str(card['name']) for card in cards)} in {node}" for node, cards in self.cards.items()
        ]
        parts += [f"with {model} {count(number, 'time')}" for model, number in self.replicas.items()]
        return "; ".join(parts)


def read_what_if(
    raw: object, findings: Findings, *, nodes: Sequence[str], absent: Sequence[str], models: object
) -> WhatIf:
    """The question as the administrator wrote it; what is wrong goes to ``findings``.

    ``nodes`` are those of the inventory, ``absent`` those of them that it is planned without anyway; ``models`` is
    ``sdai_models`` as it was written.
    """
    given = _parsed(raw)
    if isinstance(given, str):
        # Ansible ends a value of the form name=value at its first space.
        example = "-e '{sdai_what_if: {without_nodes: [gpu2]}}'"
        findings.add(KEY, f"is the text {describe(given)}, not a mapping", f"On the command line write {example}.")
        return WhatIf((), {}, {})
    reader = Reader(given, KEY, findings, known=KEYS)
    present = [node for node in nodes if node not in absent]
    question = WhatIf(_without(reader, present), _with_gpus(reader, present), _replicas(reader, _model_names(models)))
    asked = any((question.without_nodes, question.cards, question.replicas))
    if not asked and not any(item.key.startswith(KEY) for item in findings.items):
        reader.complain("", "asks nothing", f"Write at least one of the keys {', '.join(KEYS)}.")
    for node in question.cards:
        if node in question.without_nodes:
            reader.complain(
                "with_gpus", f"{node} is in {KEY}.without_nodes too", "Take the node out of one of the two."
            )
    return question


def ask(raw: object, world: Mapping[str, t.Any], *, reviewed: object = None) -> tuple[str, dict[str, t.Any]]:
    """The question in a line, and the arguments of ``build_problem`` as it has them.

    ``world`` are the arguments as they are, valid. ``reviewed`` is a plan that was to be executed instead.

    Raises InputError with all that is wrong.
    """
    findings = Findings()
    if reviewed:
        findings.add(KEY, "asks about a plan that is made, and sdai_plan_file names one that is", "Leave out one.")
    fleet, models = world["fleet"], world["models"]
    absent = [str(node) for node in world["absent_nodes"] or ()]
    question = read_what_if(raw, findings, nodes=[str(node) for node in fleet], absent=absent, models=models)
    findings.check()
    return question.words, {**world, **_changed(question, fleet, models, absent)}


def _parsed(raw: object) -> object:
    """``-e sdai_what_if='{…}'`` comes as text."""
    if not isinstance(raw, str):
        return raw
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw


def _known_node(reader: Reader, key: str, node: str, nodes: Sequence[str]) -> bool:
    if node in nodes:
        return True
    remedy = f"Write one of {', '.join(nodes)}." if len(nodes) <= 8 else "Name a host of the GPU nodes' group."
    reader.complain(key, f"{describe(node)} is not a node that is planned with", remedy + closest(node, nodes))
    return False


def _without(reader: Reader, nodes: Sequence[str]) -> tuple[str, ...]:
    named = reader.words("without_nodes", "Write a list of inventory host names.")
    known = [node for place, node in enumerate(named) if _known_node(reader, f"without_nodes[{place}]", node, nodes)]
    if known and set(nodes) <= set(known):
        reader.complain("without_nodes", "names every node", "Leave in at least one node to plan for.")
    return tuple(dict.fromkeys(known))


def _with_gpus(reader: Reader, nodes: Sequence[str]) -> dict[str, tuple[Mapping[str, object], ...]]:
    found = {}
    by_node = reader.mapping("with_gpus", "Write node: list of cards, for example {gpu1: [Tesla P40]}.")
    for raw_node, entries in sorted(by_node.items(), key=lambda item: str(item[0])):
        node = str(raw_node)
        key = f"with_gpus.{node}"
        if not _known_node(reader, key, node, nodes):
            continue
        inner = Reader({node: entries}, reader.path("with_gpus"), reader.findings, known=(node,))
        cards = [
            _card(reader, f"{key}[{place}]", entry, f"what-if-{place + 1}")
            for place, entry in enumerate(inner.items(node, f"Write a list of cards. {_CARD}"))
        ]
        complete = tuple(card for card in cards if card is not None)
        if len(complete) == len(cards):
            _check_cards(reader, node, complete)
        if complete:
            found[node] = complete
    return found


def _card(reader: Reader, key: str, entry: object, identity: str) -> Mapping[str, object] | None:
    """The entry with all that the table of cards knows of its name."""
    given = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping):
        reader.complain(key, f"is {describe(entry)}", _CARD)
        return None
    name = str(given.get("name", ""))
    wanted = [str(given["vendor"])] if "vendor" in given else list(VENDORS)
    cards = (lookup(vendor, "", name) for vendor in wanted)
    card = next((card for card in cards if card is not None), None)
    if card is None:
        if {"vendor", "architecture", "vram_mib", "bandwidth_gbs", "backends"} <= set(given):
            return {"id": identity, **given}
        near = closest(name, [card.name for card in CARDS])
        reader.complain(
            key,
            f"{describe(name)} is not in the table of known cards",
            f"Give vendor, architecture, vram_mib, bandwidth_gbs and backends too.{near}",
        )
        return None
    return {
        "id": identity,
        "vendor": card.vendor,
        "architecture": card.architecture,
        "vram_mib": card.vram_mib,
        "bandwidth_gbs": card.bandwidth_gbs,
        "backends": list(possible_runners(card.vendor, card.architecture).backends),
        **given,
    }


def _check_cards(reader: Reader, node: str, cards: Sequence[Mapping[str, object]]) -> None:
    """What is wrong with an entry is said under the key that it was written at."""
    found = Findings()
    read_hosts({node: {"gpus": list(cards)}}, (), read_defaults(None, None, None, found), found)
    key = f"{reader.path('with_gpus')}.{node}"
    for item in found.items:
        reader.findings.items.append(replace(item, key=item.key.replace("sdai_gpus", key, 1), host=""))


def _model_names(models: object) -> list[str]:
    entries = models if isinstance(models, Sequence) and not isinstance(models, str) else []
    return [str(entry["name"]) for entry in entries if isinstance(entry, Mapping) and "name" in entry]


def _replicas(reader: Reader, names: Sequence[str]) -> dict[str, int]:
    remedy = "Write model: number, for example {llama3.1:8b: 2}."
    given = {str(name): number for name, number in reader.mapping("replicas", remedy).items()}
    inner = Reader(given, reader.path("replicas"), reader.findings, known=tuple(given))
    by_name = {same_name(name): name for name in names}
    found = {}
    for model in sorted(given):
        known = by_name.get(same_name(model))
        if known is None:
            inner.complain(
                model, "is not a model of sdai_models", f"Name one of the models wanted.{closest(model, names)}"
            )
            continue
        found[known] = inner.whole(
            model, "Give the replicas that must run, for example 2.", default=1, least=1, most=10_000
        )
    return found


def _changed(
    question: WhatIf, fleet: Mapping[str, t.Any], models: Sequence[t.Any], absent: Sequence[str]
) -> dict[str, t.Any]:
    nodes = dict(fleet)
    for node, cards in question.cards.items():
        there = list(nodes[node].get("gpus") or [])
        free = 1 + max((int(card.get("index", place)) for place, card in enumerate(there)), default=-1)
        new = [{"index": free + place, **card} for place, card in enumerate(cards)]
        nodes[node] = {**nodes[node], "gpus": [*there, *new]}
    return {
        "fleet": nodes,
        "models": [_wanted_more(entry, question.replicas) for entry in models],
        "absent_nodes": [*absent, *question.without_nodes],
    }


def _wanted_more(entry: Mapping[str, t.Any], replicas: Mapping[str, int]) -> Mapping[str, t.Any]:
    least = replicas.get(str(entry.get("name", "")))
    if least is None:
        return entry
    limits = entry.get("replicas") or {}
    # A minimum that is above it already stays. Text may hold the number; what is wrong was refused before.
    least = max(least, int(limits.get("min", 1)))
    return {**entry, "replicas": {"min": least, "max": max(least, int(limits.get("max", least)))}}

# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""From the inventory's values to a placement problem.

``fleet_from_hostvars`` is the one place that knows names of host variables; everything below it
takes the fleet as an explicit mapping, ``{host: {gpus: […], labels: {…}, …}}``.
"""

from __future__ import annotations

import hashlib
import json
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from ..module_utils._gpu.merge import foreign_mib
from ._catalog import Wanted, check_places, read_models
from ._needs import Catalog, Kind, Unplaceable, kind_of, needs_of
from ._nodes import Card, Host, read_defaults, read_hosts
from ._placement.model import Gpu, Model, Node, Options, Problem
from ._placement.serialize import running_from_dict
from ._validate import Findings, Reader, closest, describe

if t.TYPE_CHECKING:
    from collections.abc import Iterable

    from ._placement.model import Need, Replica
    from ._placement.remedy import Variant

LIST_OF_HOSTS = "Write a list of inventory host names."

_MAX_SECONDS = 86_400

# Host variables that a fleet is made of. The facts win over the declaration they were made from.
_HOST_VARIABLES = {
    "labels": "sdai_labels",
    "failure_domain": "sdai_failure_domain",
    "vram_margin_mib": "sdai_vram_margin_mib",
    "vram_context_mib": "sdai_vram_context_mib",
    "speed": "sdai_speed",
}


def fleet_from_hostvars(
    hostvars: Mapping[str, Mapping[str, object]], hosts: Iterable[str], absent: Iterable[str] = ()
) -> dict[str, dict[str, object]]:
    """The fleet of these hosts; absent ones are in it by name only, as nobody asked them anything."""
    away = frozenset(absent)
    fleet: dict[str, dict[str, object]] = {}
    for host in hosts:
        variables = {} if host in away else hostvars[host]
        entry = {key: variables[name] for key, name in _HOST_VARIABLES.items() if name in variables}
        for name in ("sdai_facts_gpus", "sdai_gpus"):
            if name in variables:
                entry["gpus"] = variables[name]
                break
        fleet[str(host)] = entry
    return fleet


def current_from_hostvars(
    hostvars: Mapping[str, Mapping[str, t.Any]], hosts: Iterable[str], absent: Iterable[str] = ()
) -> list[dict[str, object]]:
    """What runs on these hosts, as replica_facts found it, with its node."""
    away = frozenset(absent)
    return [
        {**replica, "node": str(host)}
        for host in hosts
        if host not in away
        for replica in hostvars[host].get("sdai_facts_replicas") or []
    ]


def build_problem(*, fleet: object, models: object, catalog: Mapping[str, t.Any], **settings: object) -> Problem:
    """Everything that a plan depends on but what runs now; arguments and errors are those of ``read_problem``."""
    return read_problem(fleet=fleet, models=models, catalog=catalog, **settings)[0]


def read_problem(
    *,
    fleet: object,
    models: object,
    catalog: Mapping[str, t.Any],
    absent_nodes: object = (),
    vram_margin_mib: object = None,
    vram_context_mib: object = None,
    speed: object = None,
) -> tuple[Problem, Variant]:
    """Everything that a plan depends on but what runs now, and its models with another context or KV cache.

    ``fleet`` as fleet_from_hostvars returns it, ``models`` as ``sdai_models``, ``catalog`` as the known
    models' entries by name. The other values hold for hosts that say nothing else; None is the built-in default.

    Raises InputError with all that is wrong.
    """
    findings = Findings()
    hosts, wanted, known = read_world(
        findings,
        fleet=fleet,
        models=models,
        catalog=catalog,
        absent_nodes=absent_nodes,
        defaults=(vram_margin_mib, vram_context_mib, speed),
    )
    findings.check()
    return _problem(hosts, wanted, known), _variant(hosts, wanted, known)


def read_world(
    findings: Findings,
    *,
    fleet: object,
    models: object,
    catalog: Mapping[str, t.Any],
    absent_nodes: object,
    defaults: tuple[object, object, object] = (None, None, None),
) -> tuple[tuple[Host, ...], tuple[Wanted, ...], Catalog]:
    """As ``build_problem`` takes them, as typed values; what is wrong goes to ``findings``."""
    absent = _absent(absent_nodes, fleet, findings)
    hosts = read_hosts(fleet, absent, read_defaults(*defaults, findings), findings)
    wanted = read_models(models, findings)
    if isinstance(fleet, Mapping):
        check_places(wanted, [str(host) for host in fleet], findings)
    known = Catalog(catalog)
    for model in wanted:
        known.check(model, findings)
    _check_bandwidths(hosts, findings)
    return hosts, wanted, known


def read_options(
    *,
    plan_seconds: object = None,
    min_gain: object = None,
    churn_budget_gib: object = None,
    replan: object = None,
) -> Options:
    """How to plan, from ``sdai_plan_seconds`` and the others; None is the built-in default. Raises InputError."""
    given = {
        "sdai_plan_seconds": plan_seconds,
        "sdai_min_gain": min_gain,
        "sdai_churn_budget_gib": churn_budget_gib,
        "sdai_replan": replan,
    }
    findings = Findings()
    reader = Reader(given, "", findings, known=tuple(given))
    gain = reader.number("sdai_min_gain", "Give the share to gain before anything moves, for example 0.05.", most=1000)
    churn = reader.number("sdai_churn_budget_gib", "Give the GiB that may move at most, or leave it out for no limit.")
    options = Options(
        seconds=reader.whole(
            "sdai_plan_seconds", "Give whole seconds, for example 10.", default=10, least=1, most=_MAX_SECONDS
        ),
        min_gain_permille=50 if gain is None else round(gain * 1000),
        churn_budget_mib=None if churn is None else int(churn * 1024),
        replan=reader.boolean("sdai_replan", "Write true or false.", default=False),
    )
    findings.check()
    return options


def read_current(raw: Sequence[object], problem: Problem) -> tuple[Replica, ...]:
    """What runs, as replica_facts lists it with ``node``; on nodes that are planned with.

    Raises DocumentError naming the key that is missing or wrong.
    """
    nodes = {node.name for node in problem.nodes}
    replicas = (running_from_dict(item, f"current[{place}]") for place, item in enumerate(raw))
    return tuple(replica for replica in replicas if replica.node in nodes)


def _absent(raw: object, fleet: object, findings: Findings) -> tuple[str, ...]:
    reader = Reader({"sdai_absent_nodes": raw}, "", findings, known=("sdai_absent_nodes",))
    names = reader.words("sdai_absent_nodes", LIST_OF_HOSTS)
    hosts = [str(host) for host in fleet] if isinstance(fleet, Mapping) else []
    for place, name in enumerate(names):
        if hosts and name not in hosts:
            findings.add(
                f"sdai_absent_nodes[{place}]",
                f"{describe(name)} is not a node of the inventory",
                f"Name a host of the GPU nodes' group.{closest(name, hosts)}",
            )
    if hosts and set(hosts) <= set(names):
        findings.add("sdai_absent_nodes", "names every node", "Leave in at least one node to plan for.")
    return names


def _check_bandwidths(hosts: Sequence[Host], findings: Findings) -> None:
    for host in hosts:
        for card in host.cards:
            if card.usable and card.bandwidth_gbs is None and not findings.about(card.key, host=host.name):
                findings.add(
                    f"{card.key}.bandwidth_gbs",
                    f"is missing, and {describe(card.name)} is not in the table of known cards",
                    "Give the card's memory bandwidth in GB/s, as its data sheet has it.",
                    host=host.name,
                )


def _kinds(hosts: Sequence[Host]) -> dict[Card, Kind]:
    return {card: kind_of(card, host) for host in hosts for card in host.cards if card.usable}


def _distinct(kinds: Mapping[Card, Kind]) -> list[Kind]:
    return sorted(set(kinds.values()), key=lambda kind: kind.name)


def _variant(hosts: Sequence[Host], wanted: Sequence[Wanted], catalog: Catalog) -> Variant:
    by_name = {model.name: model for model in wanted}
    distinct = _distinct(_kinds(hosts))

    def variant(model: str, *, context: int | None = None, kv_cache_type: str | None = None) -> Model | None:
        before = by_name[model]
        if before.footprint is not None:
            return None
        changed = replace(
            before, context=context or before.context, kv_cache_type=kv_cache_type or before.kv_cache_type
        )
        return _model(changed, distinct, catalog)

    return variant


def _problem(hosts: Sequence[Host], wanted: Sequence[Wanted], catalog: Catalog) -> Problem:
    kinds = _kinds(hosts)
    distinct = _distinct(kinds)
    return Problem(
        nodes=tuple(Node(host.name, host.failure_domain, host.labels) for host in hosts),
        gpus=tuple(_gpu(card, host, kinds.get(card)) for host in hosts for card in host.cards),
        models=tuple(_model(model, distinct, catalog) for model in wanted),
        fleet_digest=fleet_digest(hosts),
        catalog_digest=catalog_digest(wanted),
    )


def _gpu(card: Card, host: Host, kind: Kind | None) -> Gpu:
    # Declared values are rounded as gathered ones are; never beyond the card.
    foreign = min(foreign_mib(card.vram_foreign_mib, 0), card.vram_mib)
    return Gpu(
        node=card.node,
        id=card.id,
        index=card.index,
        vendor=card.vendor,
        name=card.name,
        architecture=card.architecture,
        kind=kind.name if kind else "unusable",
        vram_mib=card.vram_mib,
        vram_foreign_mib=foreign,
        offer_mib=max(card.vram_mib - foreign - host.margin_mib, 0) if card.usable else 0,
        usable=card.usable,
        reason=card.reason,
        remedy=card.remedy,
    )


def _model(wanted: Wanted, kinds: Iterable[Kind], catalog: Catalog) -> Model:
    needs: dict[str, tuple[Need, ...]] = {}
    ineligible: dict[str, str] = {}
    for kind in kinds:
        try:
            needs[kind.name] = needs_of(wanted, catalog.shape(wanted), kind)
        except Unplaceable as error:
            ineligible[kind.name] = str(error)
    return Model(
        name=wanted.name,
        source=wanted.source,
        context=wanted.context,
        parallel=wanted.parallel,
        kv_cache_type=wanted.kv_cache_type,
        batch=wanted.batch,
        replicas_min=wanted.replicas_min,
        replicas_max=wanted.replicas_max,
        priority=wanted.priority,
        weight=wanted.weight,
        needs=needs,
        ineligible=ineligible,
        demand=wanted.demand,
        min_speed=wanted.min_speed,
        constraints=wanted.constraints,
    )


def fleet_digest(hosts: Iterable[Host]) -> str:
    """Over who is there and what it is, not over what is measured or runs; in any order of hosts and cards."""
    return _digest(
        [
            {
                "node": host.name,
                "failure_domain": host.failure_domain,
                "labels": dict(host.labels),
                "gpus": [
                    {
                        "id": card.id,
                        "index": card.index,
                        "vendor": card.vendor,
                        "architecture": card.architecture,
                        "vram_mib": card.vram_mib,
                        "backends": card.backends,
                        "usable": card.usable,
                    }
                    for card in sorted(host.cards, key=lambda card: card.id)
                ],
            }
            for host in sorted(hosts, key=lambda host: host.name)
        ]
    )


def catalog_digest(wanted: Iterable[Wanted]) -> str:
    """Over the models as wanted, in any order of models and of what a constraint lists."""
    entries = []
    for model in sorted(wanted, key=lambda model: model.name):
        entry = asdict(model)
        del entry["key"]
        rules = entry["constraints"]
        for name in ("vendors", "nodes", "gpus", "exclude_nodes", "exclude_gpus"):
            rules[name] = sorted(rules[name])
        entries.append(entry)
    return _digest(entries)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

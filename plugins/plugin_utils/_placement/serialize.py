# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Plans and transitions as documents of plain values (docs/plan.schema.json), and back."""

from __future__ import annotations

import dataclasses
import typing as t
from collections.abc import Mapping

from .errors import DocumentError
from .model import Objective, Plan, Replica, Share, Survivability, Transition, Unplaced

SCHEMA = 1

Document = dict[str, t.Any]
# What systemd starts again by itself is "activating" meanwhile.
_UP = ("active", "activating")
_STATUSES: tuple[t.Literal["optimal", "feasible", "infeasible"], ...] = ("optimal", "feasible", "infeasible")


def replica_to_dict(replica: Replica) -> Document:
    """Return the plan's replica object."""
    return {
        "id": replica.id,
        "unit": replica.unit,
        "model": replica.model,
        "node": replica.node,
        "backend": replica.backend,
        "runner": replica.runner,
        "gpus": [
            {"id": share.id, "index": share.index, "layers": share.layers, "vram_mib": share.vram_mib}
            for share in replica.gpus
        ],
        "port": replica.port,
        "context": replica.context,
        "parallel": replica.parallel,
        "kv_cache_type": replica.kv_cache_type,
        "batch": replica.batch,
        "tokens_per_second": round(replica.speed / 1000, 1),
    }


def plan_to_dict(plan: Plan) -> Document:
    """Return the plan document, schema 1."""
    survival = plan.survivability
    undecided = {"undecided": list(survival.strong_undecided)} if survival.strong_undecided else {}
    return {
        "schema": SCHEMA,
        "status": plan.status,
        "fleet_digest": plan.fleet_digest,
        "catalog_digest": plan.catalog_digest,
        "solver": {
            "name": plan.solver_name,
            "version": plan.solver_version,
            "seed": plan.seed,
            "reproducible": plan.reproducible,
        },
        "objectives": [_objective_to_dict(objective) for objective in plan.objectives],
        "replicas": [replica_to_dict(replica) for replica in plan.replicas],
        "unplaced": [
            {
                "model": item.model,
                "priority": item.priority,
                "missing": item.missing,
                "reason": item.reason,
                "remedy": item.remedy,
            }
            for item in plan.unplaced
        ],
        "survivability": {
            "weak": {"value": survival.weak_value, "of": survival.weak_of, "at_risk": list(survival.weak_at_risk)},
            "strong": {
                "value": survival.strong_value,
                "of": survival.strong_of,
                "lost_with": {node: list(models) for node, models in sorted(survival.strong_lost_with.items())},
                **undecided,
            },
        },
    }


def _objective_to_dict(objective: Objective) -> Document:
    priority = {} if objective.priority is None else {"priority": objective.priority}
    return {
        "name": objective.name,
        **priority,
        "value": objective.value,
        "bound": objective.bound,
        "proved": objective.proved,
    }


def transition_to_dict(transition: Transition) -> Document:
    """Return the transition document; sizes in GiB with one decimal."""
    return {
        "keep": list(transition.keep),
        "start": list(transition.start),
        "stop": [{"id": stop.id, "node": stop.node, "unit": stop.unit} for stop in transition.stop],
        "move_gib": round(transition.move_mib / 1024, 1),
        "waves": [
            {"start": list(wave.start), "stop": list(wave.stop), "breaks": list(wave.breaks)}
            for wave in transition.waves
        ],
    }


def same_plan(old: object, new: object) -> bool:
    """Tell whether one plan document is as good as the other to whoever reviews or executes it.

    That is: for the same fleet and catalog, the same replicas but for their speed, and the same missing.
    Anything that is no plan is not the same.
    """
    try:
        return _substance(old) == _substance(new)
    except DocumentError:
        return False


def _substance(document: object) -> tuple[str, str, list[Document], set[tuple[str, int]]]:
    reader = _Reader(document, "plan")
    replicas = [replica_to_dict(_replica(item)) for item in reader.items("replicas")]
    for replica in replicas:
        del replica["tokens_per_second"]
    missing = {(item.text("model"), item.integer("missing")) for item in reader.items("unplaced")}
    return reader.text("fleet_digest"), reader.text("catalog_digest"), replicas, missing


# --- from documents -------------------------------------------------------------------------


class _Reader:
    """Takes typed values out of a mapping; says where it stood when one is missing or of the wrong type."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise DocumentError(f"{where}: expected a mapping, got {type(value).__name__}")
        self.value = value
        self.where = where

    def _get(self, key: str) -> object:
        if key not in self.value:
            raise DocumentError(f"{self.where}.{key}: missing")
        return self.value[key]

    def _wrong(self, key: str, wanted: str) -> t.NoReturn:
        raise DocumentError(f"{self.where}.{key}: expected {wanted}, got {self._get(key)!r}")

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            self._wrong(key, "text")
        # Ansible hands over subclasses of str; the core holds plain ones.
        return str.__str__(value)

    def integer(self, key: str) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self._wrong(key, "an integer of 0 or more")
        return int(value)

    def signed(self, key: str) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong(key, "an integer")
        return int(value)

    def number(self, key: str) -> float:
        value = self._get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 10**9:
            self._wrong(key, "a number of 0 or more")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self._get(key)
        if not isinstance(value, bool):
            self._wrong(key, "true or false")
        return value

    def sub(self, key: str) -> _Reader:
        return _Reader(self._get(key), f"{self.where}.{key}")

    def items(self, key: str) -> list[_Reader]:
        return [_Reader(item, f"{self.where}.{key}[{i}]") for i, item in enumerate(self._list(key))]

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        if not all(isinstance(item, str) for item in values):
            self._wrong(key, "a list of texts")
        return tuple(str.__str__(item) for item in values if isinstance(item, str))

    def _list(self, key: str) -> list[object]:
        value = self._get(key)
        if not isinstance(value, (list, tuple)):
            self._wrong(key, "a list")
        return list(value)

    def names(self) -> list[str]:
        return sorted(str.__str__(key) for key in self.value if isinstance(key, str))


def running_from_dict(value: object, where: str = "replica") -> Replica:
    """Return the running replica of what replica_facts says of it; keys beyond the core's are left aside.

    Raises DocumentError naming the first key that is missing or wrong.
    """
    reader = _Reader(value, where)
    source = reader.text("source") if "source" in reader.value else None
    up = "state" not in reader.value or reader.text("state") in _UP
    return dataclasses.replace(_replica(reader), source=source, up=up)


def _replica(reader: _Reader) -> Replica:
    shares = tuple(
        Share(
            id=item.text("id"),
            index=item.integer("index"),
            layers=item.integer("layers"),
            vram_mib=item.integer("vram_mib"),
        )
        for item in reader.items("gpus")
    )
    if not shares:
        raise DocumentError(f"{reader.where}.gpus: expected at least one GPU")
    return Replica(
        id=reader.text("id"),
        model=reader.text("model"),
        node=reader.text("node"),
        runner=reader.text("runner"),
        gpus=shares,
        port=reader.integer("port"),
        context=reader.integer("context"),
        parallel=reader.integer("parallel"),
        kv_cache_type=reader.text("kv_cache_type"),
        batch=reader.integer("batch"),
        speed=round(reader.number("tokens_per_second") * 1000),
    )


def plan_from_dict(value: object) -> Plan:
    """Return the plan of a plan document.

    Raises DocumentError naming the first key that is missing or wrong.
    """
    reader = _Reader(value, "plan")
    schema = reader.integer("schema")
    if schema != SCHEMA:
        raise DocumentError(f"plan.schema: this version reads schema {SCHEMA}, not {schema}; make the plan anew")
    written = reader.text("status")
    status = next((known for known in _STATUSES if known == written), None)
    if status is None:
        raise DocumentError(f"plan.status: expected one of {', '.join(_STATUSES)}, got {written!r}")
    solver = reader.sub("solver")
    return Plan(
        status=status,
        fleet_digest=reader.text("fleet_digest"),
        catalog_digest=reader.text("catalog_digest"),
        solver_name=solver.text("name"),
        solver_version=solver.text("version"),
        seed=solver.integer("seed"),
        reproducible=solver.boolean("reproducible"),
        objectives=tuple(_objective(item) for item in reader.items("objectives")),
        replicas=tuple(_replica(item) for item in reader.items("replicas")),
        unplaced=tuple(
            Unplaced(
                model=item.text("model"),
                priority=item.signed("priority"),
                missing=item.integer("missing"),
                reason=item.text("reason"),
                remedy=item.text("remedy"),
            )
            for item in reader.items("unplaced")
        ),
        survivability=_survivability(reader.sub("survivability")),
    )


def _objective(reader: _Reader) -> Objective:
    return Objective(
        name=reader.text("name"),
        value=reader.signed("value"),
        bound=reader.signed("bound"),
        proved=reader.boolean("proved"),
        priority=reader.signed("priority") if "priority" in reader.value else None,
    )


def _survivability(reader: _Reader) -> Survivability:
    weak, strong = reader.sub("weak"), reader.sub("strong")
    lost = strong.sub("lost_with")
    return Survivability(
        weak_value=weak.integer("value"),
        weak_of=weak.integer("of"),
        weak_at_risk=weak.texts("at_risk"),
        strong_value=strong.integer("value"),
        strong_of=strong.integer("of"),
        strong_lost_with={node: lost.texts(node) for node in lost.names()},
        strong_undecided=strong.texts("undecided") if "undecided" in strong.value else (),
    )

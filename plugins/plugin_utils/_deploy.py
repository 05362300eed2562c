# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The plan's replicas as the variables of the roles that run them and route to them.

Everything here is a mapping of plain values: replicas have the shape of the plan document.
"""

from __future__ import annotations

import typing as t

from ..module_utils._replica import Replica, ReplicaError, check_answer, check_embedding, check_vram
from ..module_utils._support import flash_attention
from ._catalog import Wanted, read_models, same_name
from ._validate import Findings

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Values = t.Mapping[str, t.Any]

DEFAULT_KIND = "chat"
UNKNOWN_DIGEST = "0" * 64
# Enough for a model that thinks before its one word; a bound for one that never stops talking.
ANSWER_TOKENS = 512


def launch_parameters(
    replicas: Iterable[Values], models: object, catalog: Values, probes: Values, gpus: Iterable[Values]
) -> list[dict[str, t.Any]]:
    """What one node's units need beside the plan: where the model comes from, how it is proved.

    ``gpus`` are the node's. Flash attention is on where every GPU of the replica has it.
    """
    wanted = _wanted(models)
    architectures = {str(gpu["id"]): str(gpu["architecture"]) for gpu in gpus}
    return [
        {
            **replica,
            "source": wanted[replica["model"]].source,
            "flash_attention": all(
                flash_attention(architectures[gpu["id"]], str(replica["backend"])) for gpu in replica["gpus"]
            ),
            "probe": _probe(wanted[replica["model"]], catalog, probes),
        }
        for replica in replicas
    ]


def frontend_models(
    replicas: Iterable[Values],
    running: Iterable[Values],
    addresses: Mapping[str, str],
    catalog: Values,
    planned: Iterable[Values] = (),
) -> list[dict[str, t.Any]]:
    """The models to offer, by name, each with the servers that serve it now: ``replicas``.

    ``running`` is replica_facts' list: the digest and details that clients see are those of the store. A replica
    that does not run yet (check mode) is described by the catalog. While a model's context changes, its replicas
    have the old one or the new one, and it is offered with the smaller. A model of ``planned`` replicas of which none
    serves now is offered without servers: clients are told to come back, not that it is unknown.
    """
    facts = {str(entry["id"]): entry for entry in running}
    entries = _entries(catalog)
    replicas = list(replicas)
    serving = {replica["id"] for replica in replicas}
    served = {replica["model"] for replica in replicas}
    waiting = [replica for replica in planned if replica["model"] not in served]
    models: dict[str, dict[str, t.Any]] = {}
    for replica in sorted([*replicas, *waiting], key=lambda replica: (replica["model"], replica["id"])):
        fact = facts.get(replica["id"], {})
        model = models.setdefault(
            replica["model"],
            {"name": replica["model"], "context": replica["context"], "servers": []}
            | _presentation(fact, entries.get(same_name(replica["model"]), {})),
        )
        if replica["id"] not in serving:
            continue
        model["context"] = min(model["context"], replica["context"])
        model["servers"].append(
            {
                "id": replica["id"],
                "address": addresses[replica["node"]],
                "port": replica["port"],
                "parallel": replica["parallel"],
                "context": replica["context"],
            }
        )
    return list(models.values())


def chat_models(replicas: Iterable[Values], models: object, catalog: Values) -> dict[str, str]:
    """What the chat page begins with (``default``) and has titles written by (``task``); both empty without a model.

    ``replicas`` are the plan's. The default is the chat model of the highest priority, then weight, then the first of
    the inventory; the other the one whose replica takes the least VRAM.
    """
    wanted = _wanted(models)
    entries = _entries(catalog)
    sizes: dict[str, int] = {}
    for replica in replicas:
        name = str(replica["model"])
        if _kind(wanted[name], entries) == DEFAULT_KIND:
            size = sum(gpu["vram_mib"] for gpu in replica["gpus"])
            sizes[name] = min(size, sizes.get(name, size))
    placed = [model for model in wanted.values() if model.name in sizes]
    if not placed:
        return {"default": "", "task": ""}
    return {
        "default": max(placed, key=lambda model: (model.priority, model.weight)).name,
        "task": min(placed, key=lambda model: sizes[model.name]).name,
    }


def launch_probes(running: Iterable[Values]) -> list[dict[str, t.Any]]:
    """The request that asks each running model its known question, with one of its replicas to judge the answer by."""
    by_model = {str(replica["model"]): replica for replica in running}
    return [_question(model, replica) for model, replica in sorted(by_model.items())]


def replica_fault(replica: Values) -> str:
    """Why a running replica is not what was planned, or nothing.

    It must be active, resident, and hold its VRAM on its planned GPUs alone, by the rule of its unit's own proof.
    """
    if replica["state"] != "active":
        return f"its unit is {replica['state']}"
    if not replica["resident"]:
        return "its server does not list exactly its model, wholly in VRAM and with the planned context"
    try:
        check_vram(Replica.from_dict(replica), replica["vram_measured_mib"])
    except ReplicaError as error:
        return str(error)
    return ""


def answer_fault(answer: Values, question: Values) -> str:
    """Why what came back through the front door is not the right answer, or nothing."""
    replica = Replica.from_dict(question["replica"])
    try:
        if replica.probe.kind == DEFAULT_KIND:
            check_answer(replica, str(answer["choices"][0]["message"]["content"]))
        else:
            check_embedding(replica, answer["data"][0]["embedding"])
    except ReplicaError as error:
        return str(error)
    except (KeyError, IndexError, TypeError) as error:
        return f"the answer has not the form of {question['path']} ({error!r})"
    return ""


def _wanted(models: object) -> dict[str, Wanted]:
    # The plan was made from the same list, so it has been checked already.
    return {model.name: model for model in read_models(models, Findings())}


def _entries(catalog: Values) -> dict[str, Values]:
    return {same_name(str(name)): entry for name, entry in catalog.items()}


def _kind(model: Wanted, entries: Mapping[str, Values]) -> str:
    entry = entries.get(same_name(model.source)) or entries.get(same_name(model.name)) or {}
    return str(entry.get("kind", DEFAULT_KIND))


def _probe(model: Wanted, catalog: Values, probes: Values) -> dict[str, t.Any]:
    kind = _kind(model, _entries(catalog))
    return {"kind": kind, **probes[kind]}


def _presentation(fact: Values, entry: Values) -> dict[str, t.Any]:
    family = str(entry.get("architecture", ""))
    known = {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": str(entry.get("parameter_size", "")),
        "quantization_level": str(entry.get("quantization_level", "")),
    }
    return {
        "size": fact.get("size_bytes") or entry.get("size_bytes", 0),
        "digest": fact.get("digest") or UNKNOWN_DIGEST,
        "modified_at": fact.get("modified_at") or "1970-01-01T00:00:00Z",
        "details": fact.get("details") or known,
    }


def _question(model: str, replica: Values) -> dict[str, t.Any]:
    probe = replica["probe"]
    if probe["kind"] == DEFAULT_KIND:
        path = "/v1/chat/completions"
        body = {
            "model": model,
            "messages": [{"role": "user", "content": probe["prompt"]}],
            "temperature": 0,
            "seed": 0,
            "max_tokens": ANSWER_TOKENS,
        }
    else:
        path, body = "/v1/embeddings", {"model": model, "input": probe["prompt"]}
    return {"model": model, "path": path, "body": body, "replica": dict(replica)}

# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A plan as one HTML page that needs nothing else: no other file, no network, and no script to be read."""

from __future__ import annotations

import hashlib
import json
import re
import typing as t
from collections import Counter
from html import escape

from ._losses import losses_of
from ._page_parts import SCRIPT, STYLE
from ._placement.serialize import replica_to_dict
from ._tables import MORE_IS_BETTER, amount, count, gib, objective, place

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._losses import Loss
    from ._placement.model import Gpu, GpuKey, Objective, Plan, Problem, Replica, Share

# Raised when the page changes, so that one of an older release is written anew.
_VERSION = 2
# From so many GPUs on only bars are drawn, without words in them.
_DENSE = 60
_MARK = re.compile(r'<meta name="sdai-plan" content="([0-9a-f]{64})">')
_VERDICTS = {
    "optimal": ("good", "proven optimal"),
    "feasible": ("warn", "feasible, not proven optimal"),
    "infeasible": ("bad", "not every minimum can be met; what fits is planned"),
}


def page_digest(plan: Plan) -> str:
    """What a page is for: the fleet, the catalog and the placement, not what is measured or was proved."""
    replicas = [{**replica_to_dict(replica), "tokens_per_second": None} for replica in plan.replicas]
    missing = sorted((item.model, item.missing) for item in plan.unplaced)
    substance = [_VERSION, plan.fleet_digest, plan.catalog_digest, replicas, missing]
    return hashlib.sha256(json.dumps(substance, sort_keys=True).encode()).hexdigest()


def shows(page: str, plan: Plan) -> bool:
    """Whether a page that was written before shows this plan."""
    found = _MARK.search(page)
    return found is not None and found[1] == page_digest(plan)


def render_page(problem: Problem, plan: Plan, why: Mapping[str, str]) -> str:
    """The page. ``why`` says of replicas, by their ids, why they are where they are."""
    return _Page(problem, plan, why).text()


class _Page:
    def __init__(self, problem: Problem, plan: Plan, why: Mapping[str, str]) -> None:
        self.problem = problem
        self.plan = plan
        self.why = why
        ordered = sorted(problem.models, key=lambda model: (-model.priority, model.name))
        names = [model.name for model in ordered]
        names += sorted({replica.model for replica in plan.replicas} - set(names))
        self.number = {name: position for position, name in enumerate(names)}
        self.losses = losses_of(problem, plan)
        self.nodes = {node: position for position, node in enumerate(sorted({gpu.node for gpu in problem.gpus}))}
        self.held: dict[GpuKey, list[tuple[Replica, Share]]] = {}
        for replica in plan.replicas:
            for share in replica.gpus:
                self.held.setdefault((replica.node, share.id), []).append((replica, share))

    def text(self) -> str:
        dense = ' class="dense"' if len(self.problem.gpus) >= _DENSE else ""
        body = "\n".join(
            section
            for section in (
                self._tiles(),
                self._unplaced(),
                self._models(),
                self._fleet(),
                self._losses(),
                self._objectives(),
                self._replicas(),
                self._unusable(),
            )
            if section
        )
        shade, verdict = _VERDICTS[self.plan.status]
        plan = self.plan
        reproducible = "" if plan.reproducible else ", cut by the clock: not reproducible"
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="sdai-plan" content="{page_digest(plan)}">
<title>Placement plan: {count(len(plan.replicas), "replica")} on {count(len(self.problem.gpus), "GPU")}</title>
<style>{STYLE}</style>
</head>
<body{dense}>
<header>
<h1>Placement plan</h1>
<span class="chip {shade}">{verdict}</span>
<div class="right"><input id="find" type="search" placeholder="Find a model, node or GPU" aria-label="Find">
<button id="theme" type="button">Light or dark</button></div>
</header>
<main>
{body}
<p class="soft">Solved by {escape(plan.solver_name)} {escape(plan.solver_version)}, seed {plan.seed}{reproducible}.
Fleet {escape(plan.fleet_digest[:12])}, catalog {escape(plan.catalog_digest[:12])}.</p>
</main>
<div id="lost" aria-live="polite"><div><b>What if a node is lost?</b>
<div class="soft">Point at a node, or select it, to see what is lost with it.</div></div></div>
<script>{SCRIPT}</script>
</body>
</html>
"""

    # --- the sections ---

    def _tiles(self) -> str:
        plan = self.plan
        usable = [gpu for gpu in self.problem.gpus if gpu.usable]
        planned = sum(replica.vram_mib for replica in plan.replicas)
        missing = sum(item.missing for item in plan.unplaced)
        survival = plan.survivability
        least = "≥ " if survival.strong_undecided else ""
        models = count(len({replica.model for replica in plan.replicas}), "model")
        room = sum(gpu.vram_mib for gpu in usable) / 1024
        tiles = [
            (str(len(plan.replicas)), f"replicas of {models}"),
            (str(len(self.held)), f"of {count(len(usable), 'usable GPU')} in use"),
            (f"{planned / 1024:,.0f}", f"GiB of VRAM planned, of {room:,.0f}"),
            (str(missing), "minimum replicas without a place"),
            (str(survival.weak_value), f"of {count(survival.weak_of, 'model')} wanted twice outlive any one node"),
            (f"{least}{survival.strong_value}", f"of {survival.strong_of} node losses leave room for every minimum"),
        ]
        served = next((item for item in plan.objectives if item.name == "served"), None)
        if served is not None:
            value, bound = (f"{number / 1000:,.0f}" for number in (served.value, served.bound))
            tiles.append((value, f"tokens/s served, weighted, of at most {bound}"))
        cells = (f'<div class="tile"><b>{value}</b><span class="soft">{what}</span></div>' for value, what in tiles)
        return f'<div class="tiles">{"".join(cells)}</div>'

    def _unplaced(self) -> str:
        items = sorted(self.plan.unplaced, key=lambda item: (-item.priority, item.model))
        entries = (
            f'<div class="entry"><b>{escape(item.model)}</b> <span class="chip bad">'
            f"{count(item.missing, 'replica')} missing</span> <small>priority {item.priority}</small>"
            f'<p>{escape(item.reason)}</p><p class="remedy">{escape(item.remedy)}</p></div>'
            for item in items
        )
        return f'<h2>Not placed</h2><div class="panel">{"".join(entries)}</div>' if items else ""

    def _models(self) -> str:
        placed = Counter(replica.model for replica in self.plan.replicas)
        limits = {model.name: model for model in self.problem.models}
        items = []
        for name in self.number:
            model = limits.get(name)
            wanted = f" of {model.replicas_min} to {model.replicas_max}, priority {model.priority}" if model else ""
            items.append(
                f'<li><button type="button" aria-pressed="false" data-model="{self.number[name]}" '
                f'title="{placed[name]} replicas{wanted}"><span class="dot" style="{self._colour(name)}"></span>'
                f"{escape(name)} <small>{placed[name]}</small></button></li>"
            )
        return f'<h2>Models</h2><ul class="legend">{"".join(items)}</ul>' if items else ""

    def _colour(self, name: str) -> str:
        """Neighbours in the list are far apart in hue; after a dozen the lightness differs, too."""
        number = self.number[name]
        return f"--hue:{(number * 137.508 + 255) % 360:.0f};--tier:{(0, -0.1, 0.08)[number // 12 % 3]}"

    def _fleet(self) -> str:
        domains = {node.name: node.failure_domain for node in self.problem.nodes}
        by_node: dict[str, list[Gpu]] = {node: [] for node in self.nodes}
        for gpu in sorted(self.problem.gpus, key=lambda gpu: (gpu.node, gpu.index, gpu.id)):
            by_node[gpu.node].append(gpu)
        cards = []
        for node, gpus in by_node.items():
            kinds = Counter(_short(gpu.name) for gpu in gpus)
            what = ", ".join(name if number == 1 else f"{number} × {name}" for name, number in kinds.items())
            domain = domains.get(node, node)
            where = "" if domain == node else f" · {domain}"
            cards.append(
                f'<article class="node" tabindex="0" data-node="{self.nodes[node]}">'
                f'<header><h3>{escape(node)}</h3><small title="{escape(what + where)}">{escape(what + where)}</small>'
                f"</header>{''.join(self._gpu(gpu) for gpu in gpus)}</article>"
            )
        keys = (
            '<div class="keys"><span><i class="any"></i>a replica, in its model\'s colour</span>'
            '<span><i class="foreign"></i>held by others, or not usable</span><span><i></i>free</span></div>'
        )
        size = f"{count(len(self.problem.gpus), 'GPU')} in {count(len(self.nodes), 'node')}"
        return f'<h2>Fleet <small>{size}</small></h2>{keys}<div class="fleet">{"".join(cards)}</div>'

    def _gpu(self, gpu: Gpu) -> str:
        parts = self.held.get(gpu.key, [])
        ours = sum(share.vram_mib for _replica, share in parts)
        name = f"{gpu.index}  {_short(gpu.name)}"
        about = f"GPU {gpu.index}: {gpu.name} ({gpu.id})"
        if not gpu.usable:
            inside = f'<div class="dead" style="--part:100" title="{escape(f"not usable: {gpu.reason}")}"></div>'
            size = "not usable"
        else:
            size = f"{gib(ours)} of {gib(gpu.vram_mib)} GiB"
            inside = "".join(self._segments(gpu, parts))
        return (
            f'<div class="gpu" data-find="{escape(gpu.id)}" title="{escape(f"{about}, {size}")}">'
            f'<span>{escape(name)}</span><div class="bar">{inside}</div><span class="size">{size}</span></div>'
        )

    def _segments(self, gpu: Gpu, parts: Sequence[tuple[Replica, Share]]) -> Iterator[str]:
        whole = max(gpu.vram_mib, 1)
        if gpu.vram_foreign_mib:
            part = 100 * gpu.vram_foreign_mib / whole
            yield (
                f'<div class="foreign" style="--part:{part:.1f}" '
                f'title="{gib(gpu.vram_foreign_mib)} GiB held by others"></div>'
            )
        for replica, share in parts:
            layers = f", {count(share.layers, 'layer')} of it" if len(replica.gpus) > 1 else ""
            about = f"{replica.id}: {gib(share.vram_mib)} GiB{layers}, {replica.speed / 1000:.1f} tokens/s"
            yield (
                f'<div class="seg" data-model="{self.number[replica.model]}" title="{escape(about)}" '
                f'style="--part:{100 * share.vram_mib / whole:.1f};{self._colour(replica.model)}">'
                f"{escape(replica.model)}</div>"
            )

    def _losses(self) -> str:
        if not self.losses:
            return ""
        worst = sorted(self.losses, key=lambda loss: (not loss.lost, not loss.silent, loss.node))
        survival = self.plan.survivability
        risk = (
            f"<p>Would not outlive a node: <b>{escape(', '.join(survival.weak_at_risk))}</b></p>"
            if survival.weak_at_risk
            else ""
        )
        head = (
            "<tr><th>Node lost</th><th class=number>GPUs</th><th>Replicas lost</th><th>Not served at first</th>"
            "<th>No room again for a minimum of</th></tr>"
        )
        return (
            f'<h2>What is lost with each node</h2>{risk}<div class="panel long"><table id="losses"><thead>{head}'
            f"</thead><tbody>{''.join(self._loss(loss) for loss in worst)}</tbody></table></div>"
        )

    def _loss(self, loss: Loss) -> str:
        lost = ", ".join(loss.lost)
        if lost and not loss.decided:
            lost += " (none found in the planning time)"
        models = " ".join(str(self.number[name]) for name in sorted({*loss.lost, *loss.silent}) if name in self.number)
        gone = ", ".join(name if n == 1 else f"{name} ×{n}" for name, n in loss.replicas.items())
        return (
            f'<tr tabindex="0" data-node="{self.nodes.get(loss.node, "")}" data-models="{models}">'
            f"<td>{escape(loss.node)}</td><td class=number>{loss.gpus}</td><td>{escape(gone) or 'none'}</td>"
            f"<td>{escape(', '.join(loss.silent)) or 'nothing'}</td><td>{escape(lost) or 'nothing'}</td></tr>"
        )

    def _objectives(self) -> str:
        if not self.plan.objectives:
            return ""
        head = (
            "<tr><th>Objective, in strict order</th><th class=number>Value</th><th class=number>Bound</th>"
            "<th class=number>Gap</th><th>Proved</th></tr>"
        )
        rows = "".join(_objective(item) for item in self.plan.objectives)
        return f'<h2>Objectives</h2><div class="panel"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'

    def _replicas(self) -> str:
        if not self.plan.replicas:
            return ""
        head = (
            "<tr><th>Replica</th><th>Place</th><th class=number>GiB</th><th class=number>tokens/s</th>"
            f"{'<th>Why here</th>' if self.why else ''}</tr>"
        )
        rows = "".join(self._replica(replica) for replica in self.plan.replicas)
        opened = "" if len(self.plan.replicas) > _DENSE else " open"
        note = (
            '<p class="soft">What its next best place would cost, all others staying where they are. Speeds are of a '
            "replica alone on its GPUs.</p>"
            if self.why
            else ""
        )
        return (
            f"<h2>Replicas</h2><details{opened}><summary>All {len(self.plan.replicas)} replicas"
            f'{", and why each is where it is" if self.why else ""}</summary>{note}<div class="panel long">'
            f'<table id="replicas"><thead>{head}</thead><tbody>{rows}</tbody></table></div></details>'
        )

    def _replica(self, replica: Replica) -> str:
        why = f"<td>{escape(self.why.get(replica.id, ''))}</td>" if self.why else ""
        return (
            f'<tr data-find="{escape(replica.model)}"><td><span class="dot" style="display:inline-block;'
            f'{self._colour(replica.model)}"></span> {escape(replica.id)}</td><td>{escape(place(replica))}</td>'
            f"<td class=number>{gib(replica.vram_mib)}</td><td class=number>{replica.speed / 1000:.1f}</td>{why}</tr>"
        )

    def _unusable(self) -> str:
        cards = sorted((gpu for gpu in self.problem.gpus if not gpu.usable), key=lambda gpu: (gpu.node, gpu.index))
        entries = (
            f'<div class="entry"><b>{escape(gpu.node)} GPU {gpu.index}</b> {escape(gpu.name or "unknown card")} '
            f"<small>{escape(gpu.id)}</small><p>{escape(gpu.reason)}</p>"
            + (f'<p class="remedy">{escape(gpu.remedy)}</p>' if gpu.remedy else "")
            + "</div>"
            for gpu in cards
        )
        return f'<h2>Not usable</h2><div class="panel long">{"".join(entries)}</div>' if cards else ""


def _objective(item: Objective) -> str:
    text, unit = objective(item.name, item.priority)
    gap = item.bound - item.value if item.name in MORE_IS_BETTER else item.value - item.bound
    share = f" ({100 * gap / max(item.bound, 1):.1f} %)" if gap and item.name == "served" else ""
    proved = item.proved and not gap
    return (
        f"<tr><td>{escape(text)} <small>{escape(unit)}</small></td>"
        f"<td class=number>{amount(item.name, item.value)}</td>"
        f"<td class=number>{amount(item.name, item.bound)}</td><td class=number>{amount(item.name, gap)}{share}</td>"
        f'<td><span class="chip {"good" if proved else "warn"}">{"yes" if proved else "open"}</span></td></tr>'
    )


def _short(name: str) -> str:
    """The card's name without what all of them have."""
    return name.removeprefix("NVIDIA ").removeprefix("AMD ").removeprefix("GeForce ") or "unknown card"

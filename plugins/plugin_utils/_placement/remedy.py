# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What would place a model that found no place: changes in order of their size, each tried by a solve.

A remedy is said only of a change whose plan was found and misses nothing more of any other model. That a smaller
change would not do is said only where it is proved. Only the minimums are solved for, which is quick: the changed
problem asks for nothing beyond them.
"""

from __future__ import annotations

import typing as t
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from .errors import PlacementError
from .explain import fewer
from .model import Node
from .rules import eligibility, eligible_gpus, nodes_by_name
from .shapes import fitting, places

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .model import Gpu, Model, Plan, Problem, Unplaced

    Solve = Callable[[Problem], Plan]

SOLVES = 12
"""How many changed problems are solved for one plan, at most."""

WORK = 900
"""GPUs times models that all these solves may have together: about three seconds. A solve of 13 GPUs and 6 models
takes some 0.2 s, one of 40 and 20 already 1 s or more, so that beyond small fleets none is tried."""

KV_TYPES = ("f16", "q8_0", "q4_0")
"""From the largest KV cache to the smallest."""

_STEPS = 32
_LESS, _LOWER, _CARDS, _MOST_CARDS = 4, 2, 6, 7


class Variant(t.Protocol):
    """What tells of a model as it would be with other settings."""

    def __call__(self, model: str, *, context: int | None = None, kv_cache_type: str | None = None) -> Model | None:
        """Return it with another context or KV cache; None where that changes nothing it needs."""


@dataclass(frozen=True)
class _Outcome:
    """What a solve of the changed problem placed of the model, and of which others it misses more than today."""

    placed: int
    losers: dict[str, int] = field(default_factory=dict)
    impossible: bool = False


def tries(problem: Problem) -> int:
    """How many remedies are tried by a solve for a fleet and a catalog of this size, at most."""
    found = WORK // max(1, len(problem.gpus) * len(problem.models))
    return min(SOLVES, found) if found > 1 else 0


def with_remedies(problem: Problem, plan: Plan, solve: Solve, variant: Variant, *, limited: bool = False) -> Plan:
    """Return the plan with a remedy that a solve has shown to work for each unplaced model, where one was found.

    ``solve`` is given problems whose minimums alone matter, at most ``tries`` of them, in a fixed order.
    ``limited``: a budget capped the moves.
    """
    if not plan.unplaced or not tries(problem):
        return plan
    trials = _Trials(problem, plan, solve)
    remedies = {}
    items = sorted(plan.unplaced, key=lambda item: (-item.priority, item.model))
    for place, item in enumerate(items):
        with trials.share(len(items) - place):
            remedies[item.model] = _remedy(trials, item, variant, _settings(plan, item, limited=limited))
    return replace(
        plan, unplaced=tuple(replace(item, remedy=remedies[item.model] or item.remedy) for item in plan.unplaced)
    )


def _settings(plan: Plan, item: Unplaced, *, limited: bool) -> list[str]:
    """How to plan otherwise, which nobody knows the outcome of."""
    proved = {o.priority for o in plan.objectives if o.name == "unmet_minimum" and o.proved}
    return [
        *([] if item.priority in proved else ["raise sdai_plan_seconds"]),
        *(["raise sdai_churn_budget_gib"] if limited else []),
    ]


def _remedy(trials: _Trials, item: Unplaced, variant: Variant, settings: Sequence[str]) -> str:
    """The remedies by their size; that others go without is one only where no setting of the model itself is."""
    model = trials.models[item.model]
    kv_cache = _kv_cache(trials, model, variant)
    with trials.share(2):
        card = _cards(trials, model)
    found = [kv_cache, _context(trials, model, variant)]
    if not any(found):
        found.append(_less(trials, model) or _lower(trials, model))
    texts = [text for text in (*found, card) if text]
    if not texts:
        return ""
    shown = "a solve has shown that this places it" if len(texts) == 1 else "a solve has shown that each of these does"
    # What no place of the fleet is large enough for has a remedy that needs no solve: one place that is.
    rest = item.remedy if _most(trials.problem, model.name) == 0 else fewer(model.replicas_min - item.missing)
    return "; or ".join([f"{shown}: {texts[0]}", *texts[1:], *settings, rest])


class _Trials:
    """Solves changed problems, as many as are left, and says what came of each."""

    def __init__(self, problem: Problem, plan: Plan, solve: Solve) -> None:
        self.problem = problem
        self.replicas = plan.replicas
        self.models = {model.name: model for model in problem.models}
        self.missing = {item.model: item.missing for item in plan.unplaced}
        self.solve = solve
        self.left = tries(problem)

    @contextmanager
    def share(self, parts: int) -> Iterator[None]:
        """Leave their part of the solves to the others."""
        others = self.left * (parts - 1) // parts
        self.left -= others
        yield
        self.left += others

    def with_models(self, *changed: Model) -> Problem:
        names = {model.name: model for model in changed}
        return replace(self.problem, models=tuple(names.get(model.name, model) for model in self.problem.models))

    def run(self, changed: Problem, model: Model) -> _Outcome:
        """Solve; nothing is placed where no solve is left, or where a look at the empty fleet says that none can be."""
        there = model.replicas_min - self.missing[model.name]
        if self.left == 0 or _most(changed, model.name) <= there:
            return _Outcome(0)
        self.left -= 1
        try:
            plan = self.solve(_minimums_only(changed))
        except PlacementError:
            # A node without a free port, say.
            return _Outcome(0)
        missing = {item.model: item.missing for item in plan.unplaced}
        losers = {
            name: count - self.missing.get(name, 0)
            for name, count in sorted(missing.items())
            if name != model.name and count > self.missing.get(name, 0)
        }
        same_class = [m for m in self.problem.models if m.priority == model.priority]
        today = sum(self.missing.get(m.name, 0) for m in same_class)
        bounds = [o.bound for o in plan.objectives if o.name == "unmet_minimum" and o.priority == model.priority]
        return _Outcome(
            placed=max(0, self.missing[model.name] - missing.get(model.name, 0)),
            losers=losers,
            impossible=bool(bounds) and bounds[0] >= today,
        )

    def words(self, outcome: _Outcome, model: Model) -> str:
        """How far the change helps, where it does not wholly."""
        missing = self.missing[model.name]
        return f" (places {outcome.placed} of the {missing} missing)" if outcome.placed < missing else ""


def _minimums_only(problem: Problem) -> Problem:
    """The problem without what would be served beyond the minimums: a replica more or a token more is worth nothing."""
    models = (replace(model, replicas_max=max(1, model.replicas_min), demand=1) for model in problem.models)
    return replace(problem, models=tuple(models))


def _most(problem: Problem, name: str) -> int:
    """How many replicas of the model the empty fleet could hold, at most."""
    model = next(model for model in problem.models if model.name == name)
    shapes = fitting(model, eligible_gpus(problem, model))
    return places(problem, model, shapes) if shapes else 0


# --- settings of the model itself ---


def _context(trials: _Trials, model: Model, variant: Variant) -> str:
    """The longest context that places it, by bisection: more tokens never need less VRAM."""
    step = max(256 if model.context <= 2048 else 1024, model.context // _STEPS // 1024 * 1024)
    lengths = list(range(step, model.context, step))
    low, high = 0, len(lengths)
    outcomes: dict[int, _Outcome] = {}
    while low < high:
        middle = (low + high) // 2
        changed = variant(model.name, context=lengths[middle])
        if changed is None:
            return ""
        outcomes[middle] = outcome = trials.run(trials.with_models(changed), model)
        low, high = (middle + 1, high) if outcome.placed and not outcome.losers else (low, middle)
    if low == 0:
        return ""
    best = outcomes[low - 1]
    longer = outcomes.get(low)
    limit = f"; {lengths[low]} is proved too much" if longer is not None and longer.impossible else ""
    return f"set context to {lengths[low - 1]} (now {model.context}{limit}){trials.words(best, model)}"


def _kv_cache(trials: _Trials, model: Model, variant: Variant) -> str:
    if model.kv_cache_type not in KV_TYPES:
        return ""
    own = KV_TYPES.index(model.kv_cache_type)
    # A larger one may be what old cards are trusted with.
    for other in (*KV_TYPES[own + 1 :], *reversed(KV_TYPES[:own])):
        changed = variant(model.name, kv_cache_type=other)
        if changed is None:
            return ""
        outcome = trials.run(trials.with_models(changed), model)
        if outcome.placed and not outcome.losers:
            words = trials.words(outcome, model)
            return f"set kv_cache_type to {other} (now {model.kv_cache_type}){words}"
    return ""


# --- settings of others ---


def _less(trials: _Trials, model: Model) -> str:
    """One replica less of another model."""
    for rival in _rivals(trials, model)[:_LESS]:
        fewer_of_it = replace(rival, replicas_min=rival.replicas_min - 1)
        outcome = trials.run(trials.with_models(fewer_of_it), model)
        if outcome.placed and not outcome.losers:
            return (
                f"lower replicas.min of {rival.name} to {fewer_of_it.replicas_min} (now {rival.replicas_min})"
                f"{trials.words(outcome, model)}"
            )
    return ""


def _lower(trials: _Trials, model: Model) -> str:
    """A lower priority of another model, which then misses what this one gets; of two, the one that misses less."""
    found: list[tuple[int, int, Model, _Outcome]] = []
    for rival in _rivals(trials, model)[:_LOWER] if model.priority > 0 else ():
        outcome = trials.run(trials.with_models(replace(rival, priority=model.priority - 1)), model)
        if outcome.placed and set(outcome.losers) <= {rival.name}:
            found.append((outcome.losers.get(rival.name, 0), len(found), rival, outcome))
    if not found:
        return ""
    lost, _order, rival, outcome = min(found, key=lambda item: item[:2])
    cost = f": it then misses {lost} replica{'' if lost == 1 else 's'}" if lost else ""
    words = trials.words(outcome, model)
    return f"set the priority of {rival.name} below {model.priority} (now {rival.priority}){cost}{words}"


def _rivals(trials: _Trials, model: Model) -> list[Model]:
    """Those that could give way: first what is where the model may go, then what keeps a replica, the least important,
    the smallest. Lower classes have given way already.
    """
    may_use = {gpu.key for gpu in eligible_gpus(trials.problem, model)}
    held: dict[str, int] = {}
    near = set()
    for replica in trials.replicas:
        held[replica.model] = max(held.get(replica.model, 0), replica.vram_mib)
        if any((replica.node, share.id) in may_use for share in replica.gpus):
            near.add(replica.model)
    rivals = [m for m in trials.problem.models if m.name != model.name and m.priority >= model.priority]
    return sorted(
        (m for m in rivals if m.replicas_min > 0 and m.name in held),
        key=lambda m: (m.name not in near, m.replicas_min == 1, m.priority, held[m.name], m.name),
    )


# --- cards ---


class _Purchase(t.NamedTuple):
    """So many cards like one of the fleet for a node; an empty name stands for a new one. The least comes first."""

    vram_mib: int
    number: int
    new_node: bool
    name: str
    node: str
    card: Gpu


def _cards(trials: _Trials, model: Model) -> str:
    """One more card of a type that the fleet has, the smallest first; several for a split that one does not make."""
    options = []
    for card in _types(trials.problem, _least(trials.problem, model)):
        for node in _places_for(trials.problem, model, card):
            count = _enough(trials, model, card, node)
            if count:
                options.append(_Purchase(count * card.vram_mib, count, not node, card.name, node, card))
    options.sort(key=lambda option: option[:5])
    for option in options[:_CARDS]:
        changed = _with_cards(trials.problem, option.card, option.node, option.number)
        outcome = trials.run(changed, model)
        if outcome.placed and not outcome.losers:
            return f"{_add(option.card, option.node, option.number)}{trials.words(outcome, model)}"
    return ""


def _needs(model: Model, kind: str) -> Iterator[int]:
    return (need.vram_mib for need in model.needs.get(kind, ()))


def _least(problem: Problem, model: Model) -> int:
    """MiB below which a card would be of no use to anybody; a model that no card holds whole is glad of each."""
    if not any(need <= gpu.offer_mib for gpu in problem.gpus for need in _needs(model, gpu.kind)):
        return 1
    return min(need for other in problem.models for kind in other.needs for need in _needs(other, kind))


def _types(problem: Problem, least: int) -> list[Gpu]:
    """One card of each type in the fleet with an offer of so many MiB, by name."""
    found: dict[tuple[str, int, str], Gpu] = {}
    for gpu in sorted(problem.gpus, key=lambda gpu: (gpu.node, gpu.index, gpu.id)):
        if gpu.usable and gpu.offer_mib >= least:
            found.setdefault((gpu.kind, gpu.vram_mib, gpu.name), gpu)
    return sorted(found.values(), key=lambda gpu: (gpu.name, gpu.vram_mib, gpu.kind))


def _places_for(problem: Problem, model: Model, card: Gpu) -> list[str]:
    """Two nodes that have such a card, as they are known to run it; and a new one, which is named by nothing.

    First those where the model itself may use it: elsewhere others could move to it.
    """
    nodes = nodes_by_name(problem)
    names = {gpu.node for gpu in problem.gpus if (gpu.kind, gpu.name) == (card.kind, card.name)}
    refused = {name: eligibility(model, replace(card, node=name, id="new"), nodes[name]) is not None for name in names}
    return [*sorted(names, key=lambda name: (refused[name], name))[:2], ""]


def _enough(trials: _Trials, model: Model, card: Gpu, node: str) -> int:
    """How many of the card it takes before the empty fleet could hold one replica more; 0 if too many."""
    placed = model.replicas_min - trials.missing[model.name]
    needs = list(_needs(model, card.kind))
    there = sum(gpu.offer_mib for gpu in trials.problem.gpus if gpu.node == node)
    for count in range(1, _MOST_CARDS + 1 if needs else 0):
        # What the node lacks in all is quicker to see than that no split fits. A split takes no less than the whole.
        if there + count * (card.offer_mib + card.vram_foreign_mib) < min(needs):
            continue
        if _most(_with_cards(trials.problem, card, node, count), model.name) > placed:
            return count
    return 0


def _with_cards(problem: Problem, card: Gpu, node: str, count: int) -> Problem:
    name = node or "a new node"
    nodes = problem.nodes if node else (*problem.nodes, Node(name, name))
    free = 1 + max((gpu.index for gpu in problem.gpus if gpu.node == node), default=-1)
    # What others hold of the card that it is like is not on the new one.
    offer = card.offer_mib + card.vram_foreign_mib
    new = (
        replace(card, node=name, id=f"new-{number}", index=free + number, vram_foreign_mib=0, offer_mib=offer)
        for number in range(count)
    )
    return replace(problem, nodes=nodes, gpus=(*problem.gpus, *new))


def _add(card: Gpu, node: str, count: int) -> str:
    size = f"{card.vram_mib / 1024:.0f} GiB"
    what = f"one {card.name} ({size})" if count == 1 else f"{count} {card.name} ({size} each)"
    return f"add {what} to {node}" if node else f"add a node with {what}, set up as in {card.node}"

# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Glue: the arguments become a problem, the problem a plan, the plan a file and a report."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import typing as t
from dataclasses import replace
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.basic import missing_required_lib
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..plugin_utils._difference import what_if_report
from ..plugin_utils._fleet import build_problem, read_current, read_options, read_problem
from ..plugin_utils._page import render_page, shows
from ..plugin_utils._placement.check import check_plan, refuse
from ..plugin_utils._placement.check_moves import check_transition
from ..plugin_utils._placement.errors import DocumentError, PlacementError
from ..plugin_utils._placement.remedy import with_remedies
from ..plugin_utils._placement.serialize import plan_from_dict, plan_to_dict, same_plan, transition_to_dict
from ..plugin_utils._placement.solve import solve
from ..plugin_utils._placement.solve._cp_sat import SOLVER_ERROR
from ..plugin_utils._placement.waves import transition as transition_to
from ..plugin_utils._placement.why import why_here
from ..plugin_utils._progress import Progress
from ..plugin_utils._report import EXPLAINED, render
from ..plugin_utils._reviewed import check_reviewed
from ..plugin_utils._what_if import ask

if t.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..plugin_utils._placement.model import Objective, Options, Plan, Problem, Replica

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    # Values of the inventory are "raw" so that they are refused with their key, host and remedy.
    "fleet": {"type": "raw", "required": True},
    "models": {"type": "raw", "required": True},
    "catalog": {"type": "dict", "required": True},
    "current": {"type": "list", "elements": "dict", "default": []},
    "absent_nodes": {"type": "raw"},
    "vram_margin_mib": {"type": "raw"},
    "vram_context_mib": {"type": "raw"},
    "speed": {"type": "raw"},
    "plan_seconds": {"type": "raw"},
    "min_gain": {"type": "raw"},
    "churn_budget_gib": {"type": "raw"},
    "replan": {"type": "raw"},
    "require": {"type": "str", "choices": ["any", "feasible", "optimal"], "default": "any"},
    "what_if": {"type": "raw"},
    "dest": {"type": "path"},
    "plan_file": {"type": "path"},
    "show": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _unused, arguments = self.validate_argument_spec(ARGUMENTS)
        started = time.monotonic()
        try:
            result.update(self._plan(arguments))
        except PlacementError as error:
            raise AnsibleActionFail(str(error)) from error
        if arguments["show"]:
            Display().display(f"{result['report']}\nPlanned in {time.monotonic() - started:.1f} s.")
        _require(arguments["require"], result["plan"])
        if arguments["dest"] and arguments["what_if"] is None:
            kept = self._keep(arguments["dest"], result)
            if arguments["show"]:
                Display().display(kept)
        return result

    def _plan(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        names = ("fleet", "models", "catalog", "absent_nodes", "vram_margin_mib", "vram_context_mib", "speed")
        world = {name: arguments[name] for name in names}
        problem, variant = read_problem(**world)
        options = read_options(
            **{name: arguments[name] for name in ("plan_seconds", "min_gain", "churn_budget_gib", "replan")}
        )
        current = read_current(arguments["current"], problem)
        progress = _progress() if arguments["show"] else None
        if arguments["what_if"] is not None:
            words, changed = ask(arguments["what_if"], world, reviewed=arguments["plan_file"])
            today = _solve(problem, current, options, progress)
            return _answer(words, build_problem(**changed), today, options, progress)
        if arguments["plan_file"]:
            plan = _load(arguments["plan_file"])
            check_reviewed(problem, plan, current)
        else:
            plan = _solve(problem, current, options, progress)
            refuse("plan", check_plan(problem, plan, current))
            # A budget of moves makes a difference to what fits; else what runs may go to where there is room for it.
            kept = () if options.churn_budget_mib is None else current
            trial = replace(options, seconds=0)
            plan = with_remedies(
                problem, plan, lambda changed: solve(changed, kept, trial), variant, limited=bool(kept)
            )
        self._planned = (problem, plan)
        transition = transition_to(current, plan, problem)
        refuse("transition", check_transition(problem, current, plan, transition))
        why = why_here(problem, plan.replicas) if len(plan.replicas) <= EXPLAINED else {}
        return {
            "changed": False,
            "plan": plan_to_dict(plan),
            "transition": transition_to_dict(transition),
            "report": render(problem, plan, transition, current=current, why=why),
        }

    def _keep(self, dest: str, result: dict[str, t.Any]) -> str:
        """Write plan and page unless they hold the same already: their values may be of an older measurement."""
        path = Path(os.path.abspath(os.path.expanduser(dest)))
        page = path.with_name(f"{path.name.removesuffix('.json')}.html")
        result["dest"], result["page"] = str(path), str(page)
        problem, plan = self._planned
        diffs, lines = [], []
        before = _read(path)
        anew = not _same(before, result["plan"])
        if anew:
            after = json.dumps(result["plan"], indent=2, ensure_ascii=False) + "\n"
            diffs.append(_diff(path, before, after))
            self._write(path, after)
        lines.append(f"The plan {self._done if anew else 'is as before in'} {path}")
        drawn = _read(page)
        if anew or not shows(drawn, plan):
            after = render_page(problem, plan, why_here(problem, plan.replicas))
            # Its source says nothing to whoever reads a diff.
            diffs.append(_diff(page, "a page of another plan\n" if drawn else "", "the page of this plan\n"))
            self._write(page, after)
            lines.append(f"Its page {self._done} {page}")
        result["changed"] = bool(diffs)
        if diffs and self._task.diff:
            result["diff"] = diffs
        return "\n".join(lines)

    @property
    def _done(self) -> str:
        return "would be written to" if self._task.check_mode else "is written to"

    def _write(self, path: Path, text: str) -> None:
        if self._task.check_mode:
            return
        try:
            _write(path, text)
        except OSError as error:
            raise AnsibleActionFail(
                f"Cannot write the plan to {path}: {error.strerror}. Name a folder for it with sdai_plan_dir."
            ) from None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _diff(path: Path, before: str, after: str) -> dict[str, str]:
    return {"before_header": str(path), "after_header": str(path), "before": before, "after": after}


def _answer(
    words: str,
    problem: Problem,
    today: Plan,
    options: Options,
    progress: Callable[[Objective], None] | None,
) -> dict[str, t.Any]:
    """The plan of the changed problem, if today's plan ran, and how it differs from that."""
    nodes = {node.name for node in problem.nodes}
    running = [replica for replica in today.replicas if replica.node in nodes]
    plan = _solve(problem, running, options, progress)
    return {
        "changed": False,
        "plan": plan_to_dict(plan),
        "transition": transition_to_dict(transition_to(running, plan, problem)),
        "report": what_if_report(words, problem, today, plan),
    }


def _solve(
    problem: Problem, current: Sequence[Replica], options: Options, progress: Callable[[Objective], None] | None
) -> Plan:
    if SOLVER_ERROR is not None:
        raise AnsibleActionFail(
            f"{missing_required_lib('ortools', reason='to plan')} "
            f"It is needed on the control node only: {sys.executable} -m pip install ortools",
            result={"exception": SOLVER_ERROR},
        )
    return solve(problem, current, options, progress=progress)


def _progress() -> Callable[[Objective], None]:
    """Show how far the solver is, while it takes long."""
    started = time.monotonic()
    lines = Progress(Display().display)

    def tell(objective: Objective) -> None:
        seconds = time.monotonic() - started
        lines(objective.name, objective.value, objective.bound, seconds, priority=objective.priority)

    return tell


def _require(wanted: str, plan: dict[str, t.Any]) -> None:
    status = plan["status"]
    if wanted == "any" or status in ("optimal", wanted):
        return
    missing = "; ".join(f"{item['model']}: {item['reason']}" for item in plan["unplaced"])
    raise AnsibleActionFail(
        f"The plan is {status}, and sdai_require={wanted} was asked for. "
        + (missing or "Give it more time with sdai_plan_seconds, or ask for sdai_require=feasible.")
    )


def _load(name: str) -> Plan:
    path = Path(os.path.abspath(os.path.expanduser(name)))
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnsibleActionFail(
            f"sdai_plan_file: cannot read {path}: {error.strerror}. Name a plan.json that aivailable.sdai.plan wrote."
        ) from None
    except ValueError as error:
        raise AnsibleActionFail(f"sdai_plan_file: {path} is not JSON: {error}. Make the plan again.") from None
    try:
        return plan_from_dict(document)
    except DocumentError as error:
        raise AnsibleActionFail(f"sdai_plan_file: {path} holds no plan: {error}. Make the plan again.") from None


def _same(text: str, plan: dict[str, t.Any]) -> bool:
    """A file that holds no plan is replaced, not an obstacle: plan.json can be deleted without harm."""
    try:
        return same_plan(json.loads(text), plan)
    except ValueError:
        return False


def _write(path: Path, text: str) -> None:
    """Either the old file or the whole new one is there, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise

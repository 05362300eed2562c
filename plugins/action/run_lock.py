# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module run_lock for this run of ansible-playbook: who we are, and whether another one still lives."""

from __future__ import annotations

import copy
import os
import time
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..module_utils._run_lock import STALE_SECONDS, Lock, Verdict, judge
from ..modules.run_lock import ARGUMENTS
from ..plugin_utils._control import is_alive, this_run

display = Display()
MODULE = "aivailable.sdai.run_lock"
# Several attempts fit before the lock is stale.
KEEP_SECONDS = STALE_SECONDS / 10


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        del tmp
        _unused, given = self.validate_argument_spec(ARGUMENTS)
        where = self._task.delegate_to or (task_vars or {}).get("inventory_hostname", "")
        # Tasks run in children of ansible-playbook.
        me = this_run(os.getppid())
        step = {"held": self._take, "refreshed": self._refresh, "absent": self._release}[given["state"]]
        try:
            done, warnings = step(me, task_vars)
        except AnsibleConnectionFailure as error:
            raise AnsibleActionFail(
                f"{where}, the host that keeps the lock of the fleet, cannot be reached: {error}. "
                "Make it reachable, or put another host first into its group."
            ) from None
        result.update(done)
        if warnings and not result.get("failed"):
            result["warnings"] = warnings
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _take(self, me: t.Any, task_vars: t.Any) -> tuple[dict[str, t.Any], list[str]]:
        """:raises AnsibleActionFail: a live run holds the lock."""
        done = self._call(me, task_vars)
        if done.get("failed") or not done["found"]:
            return done, []
        lock = Lock.from_dict(done["found"])
        if done["ours"]:
            return done, [f"The lock of the fleet was broken: it was held by {lock}."]
        verdict = judge(lock, me=me, alive=is_alive(lock.holder, me=me) if lock.holder else None)
        if self._task.check_mode:
            dead = f"The lock of the fleet is dead and would be taken over ({verdict.value}): {lock}."
            return done, [_refusal(lock) if verdict is Verdict.HELD else dead]
        if verdict is not Verdict.HELD:
            done = self._call(me, task_vars, over=lock.version)
            if done.get("failed") or done["ours"]:
                return done, [f"A dead lock of the fleet was taken over ({verdict.value}): {lock}."]
            # Somebody else was faster.
            lock = Lock.from_dict(done["found"])
        raise AnsibleActionFail(_refusal(lock))

    def _refresh(self, me: t.Any, task_vars: t.Any) -> tuple[dict[str, t.Any], list[str]]:
        """:raises AnsibleActionFail: the lock is no longer ours."""
        done = self._call(me, task_vars)
        if not (done.get("failed") or done["ours"] or self._task.check_mode):
            raise AnsibleActionFail(_loss(done))
        return done, []

    def _release(self, me: t.Any, task_vars: t.Any) -> tuple[dict[str, t.Any], list[str]]:
        done = self._call(me, task_vars)
        if done.get("failed") or done["ours"] or self._task.check_mode:
            return done, []
        return done, [
            f"At its end this run no longer held the lock of the fleet: {_whose(done)}. "
            "Run again when no other run is under way, to be sure that the fleet is as planned."
        ]

    def _call(self, me: t.Any, task_vars: t.Any, **more: str) -> dict[str, t.Any]:
        arguments = {**self._task.args, "holder": me.to_dict(), **more}
        return t.cast(
            "dict[str, t.Any]", self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        )


def _refusal(lock: Lock) -> str:
    return (
        f"Another run changes this fleet: {lock}. Wait until it has ended. "
        "If you know that it is dead or has failed, break its lock: -e sdai_break_lock=true"
    )


def _loss(done: dict[str, t.Any]) -> str:
    return (
        f"This run no longer holds the lock of the fleet: {_whose(done)}. It stops here, because two runs at once undo "
        "each other's work. Run again when the other one has ended: what was done so far is kept."
    )


def _whose(done: dict[str, t.Any]) -> str:
    return f"it was taken over by {Lock.from_dict(done['found'])}" if done["found"] else "it is gone"


class LockKeeper:
    """Refreshes the lock that this run holds, if it holds one, from within an action that waits on another host.

    ``action`` is that action. A refresh that does not get through is tried again at the next time.
    """

    def __init__(
        self, action: ActionBase, task_vars: dict[str, t.Any] | None, *, clock: t.Callable[[], float] = time.monotonic
    ) -> None:
        self._action = action
        self._hostvars = (task_vars or {}).get("hostvars", {})
        # includes/lock_take.yml left it there.
        self.host = str(self._hostvars["localhost"].get("sdai_lock_host", "")) if "localhost" in self._hostvars else ""
        self._clock = clock
        self._due = clock()

    def tick(self) -> None:
        """Call it often.

        :raises AnsibleActionFail: the lock is no longer ours.
        """
        if not self.host or self._clock() < self._due:
            return
        self._due = self._clock() + KEEP_SECONDS
        try:
            done = self._refresh()
        except AnsibleConnectionFailure as error:
            done = {"failed": True, "msg": str(error)}
        if done.get("failed"):
            display.warning(
                f"The lock of the fleet on {self.host} could not be refreshed: {done.get('msg', '')}. This is tried "
                f"again in {KEEP_SECONDS:.0f} s; after {STALE_SECONDS:.0f} s without success another run may take it."
            )
        elif not done["ours"]:
            raise AnsibleActionFail(_loss(done))

    def _refresh(self) -> dict[str, t.Any]:
        # An action runs modules over its connection: the same action with one to the other host.
        proxy = copy.copy(self._action)
        proxy._connection = self._connect(self._hostvars[self.host])
        try:
            return t.cast(
                "dict[str, t.Any]",
                proxy._execute_module(
                    module_name=MODULE,
                    module_args={"state": "refreshed", "holder": this_run(os.getppid()).to_dict()},
                    task_vars={"ansible_facts": {}, **self._hostvars.raw_get(self.host)},
                ),
            )
        finally:
            proxy._remove_tmp_path(proxy._connection._shell.tmpdir)
            proxy._connection.close()

    def _connect(self, variables: t.Mapping[str, t.Any]) -> t.Any:
        """What the task executor does for a task that is delegated to the host with these variables."""
        action, task = self._action, self._action._task
        loaders = action._shared_loader_obj
        play_context = copy.copy(action._play_context)
        connection = loaders.connection_loader.get(
            variables.get("ansible_connection") or task.connection,
            play_context,
            new_stdin=None,
            task_uuid=task._uuid,
            ansible_playbook_pid=str(os.getppid()),
        )
        keys = {**task.dump_attrs(), "timeout": play_context.timeout}
        # Those of the task are not the connection's.
        del keys["retries"]
        if play_context.password:
            keys["password"] = play_context.password
        if boolean(variables.get("ansible_become", task.become) or False):
            become = loaders.become_loader.get(variables.get("ansible_become_method") or task.become_method)
            become.set_options(task_keys={**keys, "become_pass": play_context.become_pass}, var_options=variables)
            connection.set_become_plugin(become)
        connection.set_options(task_keys=keys, var_options=variables)
        connection._shell.set_options(task_keys=keys, var_options=variables)
        return connection

# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module replica_wait a few seconds at a time and shows in between how far the replicas are."""

from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..modules.replica_wait import ARGUMENTS
from .run_lock import LockKeeper

MODULE = "aivailable.sdai.replica_wait"
# With the call around it, below the five seconds after which a silent screen looks dead.
SLICE_SECONDS = 3

display = Display()


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        del tmp
        _spec, arguments = self.validate_argument_spec(ARGUMENTS)
        host = (task_vars or {}).get("inventory_hostname", "")
        done: dict[str, dict[str, t.Any]] = {}
        begun = time.monotonic()
        keeper = LockKeeper(self, task_vars)
        while True:
            spent = time.monotonic() - begun
            left = max(0, round(arguments["timeout"] - spent))
            waiting = [each for each in arguments["ids"] if each not in done]
            found = self._execute_module(
                module_name=MODULE,
                module_args={**arguments, "ids": waiting, "timeout": min(SLICE_SECONDS, left)},
                task_vars=task_vars,
            )
            if found.get("failed") or "replicas" not in found:
                result.update(found)
                break
            for replica in found["replicas"]:
                if replica["settled"] or not left:
                    done[replica["id"]] = replica
                if arguments["timeout"]:
                    display.display(f"{host} | {replica['id']}: {self._text(replica, arguments['until'], spent)}")
            if len(done) == len(arguments["ids"]):
                result.update(changed=False, replicas=[done[each] for each in arguments["ids"]])
                break
            keeper.tick()
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    @staticmethod
    def _text(replica: t.Mapping[str, t.Any], until: str, spent: float) -> str:
        seconds = replica["seconds"] if until == "proved" else round(spent) + replica["seconds"]
        return f"{replica['step']}, {seconds} s"

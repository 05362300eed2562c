# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module ollama_model and shows how far a pull is: hours may pass between two tasks otherwise."""

from __future__ import annotations

import base64
import json
import time
import typing as t

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..modules.ollama_model import ARGUMENTS, REQUIRED_IF
from .run_lock import LockKeeper

MODULE = "aivailable.sdai.ollama_model"
POLL_SECONDS = 2
SHOW_SECONDS = 4
PULL_SECONDS = 48 * 3600

display = Display()


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True
    _supports_async = False
    TRANSFERS_FILES = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        del tmp
        # The node gets them as they are: paths are its own to resolve.
        self.validate_argument_spec(ARGUMENTS, required_if=REQUIRED_IF)
        arguments = dict(self._task.args)
        if not arguments.get("progress"):
            arguments["progress"] = f"/run/sdai/pull/{arguments.get('id')}.json"
        # Most runs find the model there: one short call.
        first = self._call(MODULE, {**arguments, "pull": False}, task_vars)
        if (
            first.get("failed")
            or self._task.check_mode
            or not first.get("pull_needed")
            or not boolean(arguments.get("pull", True))
        ):
            result.update(first)
        else:
            result.update(self._pull(arguments, task_vars))
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _pull(self, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        """Run the module in the background of the node and follow it."""
        host = (task_vars or {}).get("inventory_hostname", "")
        self._task.async_val = PULL_SECONDS
        job = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars, wrap_async=True)
        self._task.async_val = 0
        if job.get("failed") or "ansible_job_id" not in job:
            return t.cast("dict[str, t.Any]", job)
        status_arguments = {"jid": job["ansible_job_id"], "_async_dir": self._async_dir(job)}
        since = 0.0
        keeper = LockKeeper(self, task_vars)
        while True:
            keeper.tick()
            time.sleep(POLL_SECONDS)
            status = self._call("ansible.legacy.async_status", {**status_arguments, "mode": "status"}, task_vars)
            if status.get("finished") or (status.get("failed") and "started" not in status):
                break
            text = self._progress(arguments["progress"], task_vars)
            # A pull that stands still is shown too: a silent screen looks dead.
            if text and time.monotonic() - since >= SHOW_SECONDS:
                since = time.monotonic()
                display.display(f"{host} | {text}")
        self._call("ansible.legacy.async_status", {**status_arguments, "mode": "cleanup"}, task_vars)
        for key in ("ansible_job_id", "finished", "started", "results_file", "stdout", "stderr", "stdout_lines"):
            status.pop(key, None)
        return status

    def _async_dir(self, job: dict[str, t.Any]) -> str:
        return str(job["results_file"]).rpartition("/")[0]

    def _progress(self, path: str, task_vars: t.Any) -> str:
        """The line that the pull left last; empty before the first and after the end."""
        found = self._call("ansible.legacy.slurp", {"src": path}, task_vars)
        if found.get("failed"):
            return ""
        return str(json.loads(base64.b64decode(found["content"]))["text"])

    def _call(self, name: str, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        return t.cast(
            "dict[str, t.Any]", self._execute_module(module_name=name, module_args=arguments, task_vars=task_vars)
        )

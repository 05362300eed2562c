# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes every result of a check run as a line of JSON into the file that SDAI_RESULTS names. For tests only.

A line: host, task, action, item (of a loop, by its label), arguments (templated), result. Runs that are not in check
mode write nothing, so the variable may stand for a whole sequence of runs.
"""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

from ansible import context
from ansible.parsing.ajson import AnsibleJSONEncoder
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: sdai_results
type: aggregate
short_description: Keep the results of a check run for a test
version_added: 0.1.0
description: Writes the results of a run in check mode as lines of JSON.
requirements:
  - The environment variable SDAI_RESULTS names a file.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible ships no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "sdai_results"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        del playbook
        path = os.environ.get("SDAI_RESULTS", "")
        self.disabled = not path or not context.CLIARGS.get("check")
        if not self.disabled:
            self._path = Path(path)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("")

    def v2_runner_on_ok(self, result: t.Any) -> None:
        # A loop has told of each of its items.
        if "results" not in result._result:
            self._write(result, None)

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        self._write(result, self._get_item_label(result._result))

    def _write(self, result: t.Any, item: t.Any) -> None:
        found = dict(result._result)
        arguments = found.pop("invocation", {}).get("module_args", {})
        if "censored" in found:
            # The place of a secret is none.
            arguments = {key: value for key, value in result._task_fields["args"].items() if key in ("dest", "path")}
        line = {
            "host": result._host.get_name(),
            "task": result._task.get_name(),
            "action": result._task.resolved_action or result._task.action,
            "item": item,
            "arguments": arguments,
            "result": {key: value for key, value in found.items() if not key.startswith("_ansible")},
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, cls=AnsibleJSONEncoder) + "\n")

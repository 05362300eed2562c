#!/usr/bin/python
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_wait
short_description: Wait for the replicas of a node, and show how far they are
version_added: 0.1.0
description:
  - Waits until each replica has proved itself or failed, or until the last answers of each have ended.
  - Every few seconds a line for each replica that is not there yet appears on the screen.
  - A replica that fails, or still answers at the end, is told in the result; the task does not fail for it.
author:
  - The aivailable.sdai contributors (@aivailable)
options:
  ids:
    description: The replicas.
    type: list
    elements: str
    required: true
  until:
    description:
      - With V(proved), each unit is active, which takes its proof, or has failed.
      - With V(drained), nobody has been connected to the replica for a second.
    type: str
    choices: [proved, drained]
    default: proved
  timeout:
    description: Seconds to wait at most; V(0) looks once.
    type: int
    default: 0
  config_dir:
    description: Directory with one JSON file for each replica.
    type: path
    default: /etc/sdai/replicas
extends_documentation_fragment:
  - aivailable.sdai._attributes
  - aivailable.sdai._attributes.read_only
"""

EXAMPLES = r"""
- name: Wait until the replicas have proved themselves
  aivailable.sdai.replica_wait:
    ids: [llama3.1-8b--1]
    timeout: 900
  register: found

- name: Say which did not
  ansible.builtin.fail:
    msg: "{{ item.id }}: {{ item.reason }}"
  loop: "{{ found.replicas | rejectattr('proved') }}"
"""

RETURN = r"""
replicas:
  description: The replicas, in the order asked for.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The replica.
      type: str
      sample: llama3.1-8b--1
    settled:
      description: Whether what was waited for has come, or cannot come.
      type: bool
    step:
      description: What it does.
      type: str
      sample: loads
    seconds:
      description: How long its start took, or takes already; with O(until=drained), how long was waited.
      type: int
      sample: 7
    proved:
      description: Whether its unit is active. Not with O(until=drained).
      type: bool
    failed:
      description: Whether its unit has failed or is not started. Not with O(until=drained).
      type: bool
    paused:
      description: Whether systemd waits before it starts the failed unit again. Not with O(until=drained).
      type: bool
    enabled:
      description:
        - Whether its unit is started at boot, which the role arranges after the first proof.
        - Not with O(until=drained).
      type: bool
    reason:
      description: Why it failed, in its own words. Not with O(until=drained).
      type: str
      sample: "llama3.1-8b--1: prove failed: the known question got 'x'"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.aivailable.sdai.plugins.module_utils._replica_wait import WaitError, wait_drained, wait_proved

ARGUMENTS = {
    "ids": {"type": "list", "elements": "str", "required": True},
    "until": {"type": "str", "choices": ["proved", "drained"], "default": "proved"},
    "timeout": {"type": "int", "default": 0},
    "config_dir": {"type": "path", "default": "/etc/sdai/replicas"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    options = module.params
    try:
        if options["until"] == "proved":
            replicas = wait_proved(options["ids"], options["timeout"])
        else:
            replicas = wait_drained(options["ids"], options["config_dir"], options["timeout"])
    except WaitError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, replicas=replicas)


if __name__ == "__main__":
    main()

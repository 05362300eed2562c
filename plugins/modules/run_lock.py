#!/usr/bin/python
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: run_lock
short_description: Let one run at a time change a fleet
version_added: 0.1.0
author:
  - The aivailable.sdai contributors (@aivailable)
description:
  - Keeps a lock file on a host that all control nodes reach.
    It names the user, the control node, the process of C(ansible-playbook) and since when.
  - A lock is dead when its control node is this one and that process has ended, also by a restart,
    or, where that cannot be seen, when it was not refreshed for 15 minutes by the clock of the host that keeps it.
    A dead lock is taken over with a warning, a live one never.
  - A lock is no part of the fleet's state, so nothing that happens to it counts as a change.
options:
  state:
    description:
      - With V(held) the lock is this run's, or the task fails and names the run whose it is.
      - With V(refreshed) it stays this run's; the task fails when somebody has taken it over.
      - With V(absent) this run gives it back, with a warning when it is no longer this run's.
    type: str
    choices: [held, refreshed, absent]
    default: held
  break_lock:
    description: With O(state=held), whether the lock is taken even from a live run.
    type: bool
    default: false
  path:
    description: The lock file. Its directory is made, and removed with the lock when nothing else is in it.
    type: path
    default: /run/sdai/lock.json
  holder:
    description: This run. The action plugin of this name fills it in.
    type: dict
  over:
    description: Version of the dead lock to be taken over. The action plugin of this name fills it in.
    type: str
    default: ""
extends_documentation_fragment:
  - aivailable.sdai._attributes
attributes:
  check_mode:
    support: full
    details: Takes nothing, and does not fail when another run holds the lock but warns.
  diff_mode:
    support: N/A
    details: Nothing that belongs to the fleet is changed.
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Take the lock of the fleet
  aivailable.sdai.run_lock:
    state: held
  delegate_to: "{{ groups['frontends'] | first }}"
  run_once: true
  become: true

- name: Give it back
  aivailable.sdai.run_lock:
    state: absent
  delegate_to: "{{ groups['frontends'] | first }}"
  run_once: true
  become: true
"""

RETURN = r"""
ours:
  description: Whether the lock is this run's, or was until it was given back.
  returned: success
  type: bool
found:
  description: The lock of another run; empty when there is none.
  returned: success
  type: dict
  contains:
    holder:
      description: The other run; null when it cannot be read.
      type: dict
    since:
      description: When that run took it, in UTC by the clock of the host that keeps the lock.
      type: str
    age:
      description: Seconds since it was refreshed.
      type: float
    version:
      description: Changes with each refresh.
      type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._run_lock import Holder, Lock, read, refresh, release, take

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "state": {"type": "str", "choices": ["held", "refreshed", "absent"], "default": "held"},
    "break_lock": {"type": "bool", "default": False},
    "path": {"type": "path", "default": "/run/sdai/lock.json"},
    "holder": {"type": "dict"},
    "over": {"type": "str", "default": ""},
}


def act(module: AnsibleModule) -> tuple[bool, t.Optional[Lock]]:
    """Whether the lock is ours, and another's that lies there."""
    given, me = module.params, Holder.from_dict(module.params["holder"])
    found = read(given["path"])
    other = found if found is not None and found.holder != me else None
    if module.check_mode:
        return found is not None and other is None, other
    if given["state"] == "held":
        in_the_way = take(given["path"], me, over=given["over"], force=given["break_lock"])
        return in_the_way is None, in_the_way or other
    change = refresh if given["state"] == "refreshed" else release
    return change(given["path"], me), other


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        ours, found = act(module)
    except ValueError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"the lock cannot be kept: {exc}. See that {module.params['path']} can be written by root")
    module.exit_json(changed=False, ours=ours, found=found.to_dict() if found else {})


if __name__ == "__main__":
    main()

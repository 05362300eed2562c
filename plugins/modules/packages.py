#!/usr/bin/python
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install packages so that they can be taken away again
version_added: 0.1.0
author:
  - The aivailable.sdai contributors (@aivailable)
description:
  - Installs packages with C(apt-get) and writes down, before it does, which ones are new on the host, those that come
    as dependencies included. Packages that were there before are never written down.
  - With O(state=absent) purges what was written down, and nothing else. What another package needs since, whose
    configuration file was changed, or of which a unit runs or is enabled, stays, and is returned with the reason.
options:
  name:
    description: The packages. Needed with O(state=present).
    type: list
    elements: str
    default: []
  owner:
    description: Who has them installed. Each owner's packages are removed for themselves.
    type: str
    required: true
  state:
    description: Whether O(name) is to be installed, or what O(owner) had installed is to be removed.
    type: str
    choices: [present, absent]
    default: present
  own:
    description:
      - With O(state=absent), configuration files and units that the owner itself changed or enabled.
        They do not keep their package.
    type: list
    elements: str
    default: []
  record:
    description: Where it is written down. Without names neither the file nor its directory, if empty, is left.
    type: path
    default: /var/lib/sdai/packages.json
extends_documentation_fragment:
  - aivailable.sdai._attributes
attributes:
  check_mode:
    support: full
    details: Names the packages that are asked for; what they bring is known when they are installed.
  diff_mode:
    support: full
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Install HAProxy
  aivailable.sdai.packages:
    name: [haproxy]
    owner: haproxy

- name: Remove it again, where it was not there before
  aivailable.sdai.packages:
    owner: haproxy
    state: absent
    own: [/etc/haproxy/haproxy.cfg, haproxy.service]
"""

RETURN = r"""
installed:
  description: The packages that are new on the host; in check mode those asked for that are missing.
  returned: O(state=present)
  type: list
  elements: str
  sample: [haproxy, liblua5.3-0]
purged:
  description: The packages that were purged.
  returned: O(state=absent)
  type: list
  elements: str
  sample: [haproxy, liblua5.3-0]
kept:
  description: The packages that stay, with the reasons.
  returned: O(state=absent)
  type: dict
  sample: {"nftables": "nftables.service is enabled"}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.aivailable.sdai.plugins.module_utils._packages import (
    PackagesError,
    Record,
    install,
    missing,
    remove,
)

ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "LANGUAGE": "C"}


def lines(names: t.Iterable[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "default": []},
            "owner": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "own": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "path", "default": "/var/lib/sdai/packages.json"},
        },
        supports_check_mode=True,
    )
    given = module.params
    record = Record(given["record"])

    def run(command: t.Sequence[str]) -> tuple[int, str, str]:
        code, out, err = module.run_command(list(command), environ_update=ENVIRONMENT)
        return code, out, err

    try:
        if given["state"] == "absent":
            removal = remove(run, record, given["owner"], own=given["own"], check=module.check_mode)
            going = list(removal.purged)
            diff = {"before": lines(going), "after": ""}
            module.exit_json(changed=len(going) > 0, purged=going, kept=dict(removal.kept), diff=diff)
        elif module.check_mode:
            new = missing(run, given["name"])
        else:
            new = install(run, record, given["owner"], given["name"])
    except PackagesError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error}. See that {given['record']} can be written")
    module.exit_json(changed=len(new) > 0, installed=new, diff={"before": "", "after": lines(new)})


if __name__ == "__main__":
    main()

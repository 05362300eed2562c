#!/usr/bin/python
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_facts
short_description: Gather the replicas of a node and whether they are where the plan wants them
version_added: 0.1.0
description:
  - Lists the replicas that were deployed on a node, with the state of their units, what their servers say of
    their model, and the VRAM that their processes hold on each GPU.
  - A replica that does not answer within a few seconds is listed as not resident.
  - Without replicas the list is empty. Nothing needs to be installed.
author:
  - The aivailable.sdai contributors (@aivailable)
extends_documentation_fragment:
  - aivailable.sdai._attributes
  - aivailable.sdai._attributes.read_only
  - aivailable.sdai._attributes.roots
options:
  config_dir:
    description: Directory with one JSON file for each replica, as the role P(aivailable.sdai.ollama#role) writes them.
    type: path
    default: /etc/sdai/replicas
notes:
  - Run it with C(become), or the VRAM of some replicas may not be seen.
seealso:
  - module: aivailable.sdai.gpu_facts
"""

EXAMPLES = r"""
- name: Gather the replicas of each node
  aivailable.sdai.replica_facts:
  register: found
  become: true

- name: Stop where a replica is not wholly in VRAM
  ansible.builtin.assert:
    that: item.resident
    fail_msg: "{{ item.id }} is not resident, its unit is {{ item.state }}"
  loop: "{{ found.replicas }}"
  loop_control:
    label: "{{ item.id }}"
"""

RETURN = r"""
replicas:
  description:
    - The replicas of the node by id, each with the keys of the plan's replica object and those below.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The replica's id.
      type: str
      sample: llama3.1-8b--1
    unit:
      description: Its systemd unit.
      type: str
      sample: sdai-ollama@llama3.1-8b--1.service
    model:
      description: The model that it serves.
      type: str
      sample: llama3.1:8b
    state:
      description: State of the unit; V(active), V(activating), V(failed) or V(inactive).
      type: str
      sample: active
    resident:
      description:
        - Whether its server holds exactly this model, with the planned context, and all of it in VRAM.
        - This is the server's own word; compare C(vram_measured_mib) with the plan for a proof.
      type: bool
      sample: true
    vram_measured_mib:
      description: VRAM in MiB that the unit's processes hold, by GPU id.
      type: dict
      sample: {"GPU-1b06a1de-0001-4a11-8c01-000000000001": 7321}
    pids:
      description: The unit's processes.
      type: list
      elements: int
      sample: [812, 877]
    digest:
      description:
        - Digest of the manifest that is loaded, else of the one in the replica's store.
        - Empty where the server does not answer.
      type: str
      sample: 46e0c10c039e019119339687c3c1757cc81b9da49709a3b3924863ba87ca666e
    size_bytes:
      description: Size of the model in the replica's store.
      type: int
      sample: 4920753328
    modified_at:
      description: When the model in the replica's store was written; empty without an answer.
      type: str
      sample: "2026-11-23T18:00:00Z"
    details:
      description: The model's details as C(/api/tags) shows them; empty without an answer.
      type: dict
      sample: {"format": "gguf", "family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_K_M"}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Roots
from ansible_collections.aivailable.sdai.plugins.module_utils._replica_facts import ReplicaFactsError, gather


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config_dir": {"type": "path", "default": "/etc/sdai/replicas"},
            "sysfs_root": {"type": "path", "default": "/sys"},
            "procfs_root": {"type": "path", "default": "/proc"},
            "venv": {"type": "path", "default": "/opt/sdai/venv"},
        },
        supports_check_mode=True,
    )
    options = module.params
    roots = Roots(sysfs=options["sysfs_root"], procfs=options["procfs_root"], venv=options["venv"])
    try:
        replicas, warnings = gather(options["config_dir"], roots)
    except ReplicaFactsError as error:
        module.fail_json(msg=str(error))
    for warning in warnings:
        module.warn(warning)
    module.exit_json(changed=False, replicas=replicas)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_facts
short_description: Gather a node's GPUs, what serves them and how much of their VRAM is taken
version_added: 0.1.0
description:
  - Lists every NVIDIA and AMD graphics card of a node with the runners of Ollama that serve it.
  - A card that cannot be used is listed too, with the reason and a remedy.
  - A card that no driver answers for is one of these.
  - NVIDIA cards are read by NVML if its Python binding is there, else by C(nvidia-smi).
  - AMD cards are read from the sysfs tree of the driver C(amdgpu) and need no ROCm.
  - Both are compared with the cards on the PCI bus.
  - Installs nothing, and needs nothing installed beside the drivers.
  - Whether a card is usable, and by which runners, comes from the support table of this collection.
author:
  - The aivailable.sdai contributors (@aivailable)
extends_documentation_fragment:
  - aivailable.sdai._attributes
  - aivailable.sdai._attributes.read_only
  - aivailable.sdai._attributes.roots
notes:
  - Run it with C(become). Without it, the VRAM that other users' programs take by Vulkan on AMD cards
    cannot be told from that of our own replicas, and a warning says so.
seealso:
  - module: aivailable.sdai.replica_facts
"""

EXAMPLES = r"""
- name: Gather the GPUs of each node
  aivailable.sdai.gpu_facts:
  register: found
  become: true

- name: Show the cards that cannot be used
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.reason }}. {{ item.remedy }}"
  loop: "{{ found.gpus | rejectattr('usable') }}"
"""

RETURN = r"""
gpus:
  description:
    - The GPUs of the node, in the shape of the inventory variable C(sdai_gpus).
    - First the NVIDIA cards in their driver's order, then the AMD cards in the order of the bus,
      then those without driver.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The card's UUID where it has one, else its PCI address. Unique on its node only.
      type: str
      sample: GPU-1b06a1de-0001-4a11-8c01-000000000001
    index:
      description: The place of the card in this list.
      type: int
      sample: 0
    vendor:
      description: V(nvidia) or V(amd).
      type: str
      sample: nvidia
    name:
      description: The card's name by its driver, else by the GPU table.
      type: str
      sample: NVIDIA GeForce GTX 1080 Ti
    architecture:
      description: Compute capability or gfx target; empty where it is not known.
      type: str
      sample: sm_61
    vram_mib:
      description: The card's VRAM in MiB; 0 where nothing tells.
      type: int
      sample: 11264
    vram_foreign_mib:
      description:
        - VRAM in MiB that is in use, but not by a replica of this collection, up to the next 64 MiB.
        - What the driver reserves for itself counts as foreign.
      type: int
      sample: 64
    bandwidth_gbs:
      description:
        - Memory bandwidth in GB/s by the GPU table, else by what NVML says of the card's memory.
        - V(0) where neither tells; the card is not usable then.
      type: float
      sample: 484
    backends:
      description: The runners of Ollama that serve the card, the preferred one first.
      type: list
      elements: str
      sample: [cuda_v12, vulkan]
    usable:
      description: Whether the planner may place replicas on the card.
      type: bool
      sample: true
    reason:
      description: Why the card cannot be used; empty where it can.
      type: str
      sample: no driver answers for this card
    remedy:
      description: What to do about it; empty where the card can be used.
      type: str
      sample: install NVIDIA driver 580 or later
    pci_address:
      description: Where the card sits on the bus.
      type: str
      sample: "0000:01:00.0"
drivers:
  description: The drivers that answered.
  returned: always
  type: dict
  contains:
    nvidia:
      description: Version of the NVIDIA driver; empty where none answers.
      type: str
      sample: 570.133.20
    nvidia_source:
      description: What told of the NVIDIA cards, V(nvml) or V(nvidia-smi); empty where nothing did.
      type: str
      sample: nvml
    amdgpu:
      description: Whether the driver C(amdgpu) works a card.
      type: bool
      sample: false
    kfd:
      description: Whether the kernel offers a card to ROCm.
      type: bool
      sample: false
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Roots
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.scan import scan


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sysfs_root": {"type": "path", "default": "/sys"},
            "procfs_root": {"type": "path", "default": "/proc"},
            "venv": {"type": "path", "default": "/opt/sdai/venv"},
        },
        supports_check_mode=True,
    )
    options = module.params
    found = scan(Roots(sysfs=options["sysfs_root"], procfs=options["procfs_root"], venv=options["venv"]))
    for warning in found.warnings:
        module.warn(warning)
    module.exit_json(changed=False, gpus=[gpu.as_fact() for gpu in found.gpus], drivers=dict(found.drivers))


if __name__ == "__main__":
    main()

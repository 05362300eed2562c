#!/usr/bin/python
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: placement
short_description: Place models on the GPUs of a fleet, all at once
version_added: 0.1.0
description:
  - Decides which replica of which model runs on which GPU, for all models and all GPUs together.
  - The plan comes with the bound that it was proved against, the reason and a remedy for every model that did not
    fit, and what the loss of any one node would do.
  - The transition says how to get from what runs to the plan, with as little to load as possible.
  - A plan that cannot serve every model is a result, not a failure. See O(require).
  - Runs on the control node and contacts no host.
author:
  - The aivailable.sdai contributors (@aivailable)
extends_documentation_fragment:
  - aivailable.sdai._attributes
attributes:
  check_mode:
    support: full
    details:
      - Does not write O(dest).
  diff_mode:
    support: full
  idempotent:
    support: full
requirements:
  - ortools (on the control node)
options:
  fleet:
    description:
      - The GPU nodes by name.
      - Each is a mapping with C(gpus) (the shape of C(sdai_gpus)) and optionally C(labels), C(failure_domain),
        C(vram_margin_mib), C(vram_context_mib) and C(speed).
      - The filter P(aivailable.sdai.fleet#filter) makes it from host variables.
    type: raw
    required: true
  models:
    description:
      - The models wanted, as in the inventory variable C(sdai_models).
    type: raw
    required: true
  catalog:
    description:
      - The known models by name, as in C(playbooks/vars/catalog.yml).
      - A model with an explicit C(footprint) needs no entry.
    type: dict
    required: true
  current:
    description:
      - What runs, as M(aivailable.sdai.replica_facts) lists it, each with its C(node).
      - A replica that says another C(source) than the one wanted is made anew; one that says none is taken to be right.
      - A replica whose C(state) is C(failed) or C(inactive) holds no VRAM. It starts again in its place if the offer of
        its GPUs allows.
      - The filter P(aivailable.sdai.running#filter) makes it from host variables.
    type: list
    elements: dict
    default: []
  absent_nodes:
    description:
      - Nodes of O(fleet) that are away on purpose. It is planned without them.
    type: raw
  vram_margin_mib:
    description:
      - MiB to leave free on each GPU, on nodes that say nothing else. The default is 1024.
    type: raw
  vram_context_mib:
    description:
      - MiB that the context of the engine takes on each GPU, on nodes that say nothing else.
      - One number, or a mapping of C(cuda), C(rocm) and C(vulkan). The default is 500, 500 and 200.
    type: raw
  speed:
    description:
      - How fast GPUs are, on nodes and cards that say nothing else.
      - A mapping of C(cuda), C(rocm) and C(vulkan) to C(efficiency) (above 0, at most 2) and C(overhead_ms).
    type: raw
  plan_seconds:
    description:
      - How long to look for a better plan. It is turned into a budget of steps, so that the same input gives the same
        plan. The default is 10.
    type: raw
  min_gain:
    description:
      - What a plan that moves replicas must serve more than one that does not, as a share. The default is 0.05.
    type: raw
  churn_budget_gib:
    description:
      - The most GiB that may be moved without need. There is no limit by default; V(0) is no move.
    type: raw
  replan:
    description:
      - Whether to take the plan that moves replicas even for a smaller gain. The default is V(false).
    type: raw
  require:
    description:
      - Fail unless the plan is at least this good.
      - V(feasible) wants every minimum met, V(optimal) every objective proved.
    type: str
    choices: [any, feasible, optimal]
    default: any
  what_if:
    description:
      - A question about a fleet or a catalog that is a little different. The result is the plan that would be made if
        the one for O(fleet) and O(models) ran, and the report says how the two differ. Nothing is written.
      - A mapping with at least one of the keys C(without_nodes), C(with_gpus) and C(replicas).
      - C(without_nodes) lists nodes to plan without.
      - C(with_gpus) lists by node the cards to plan with besides its own. Of a known card the name is enough; any other
        is an entry of the form of C(sdai_gpus).
      - C(replicas) gives for models by name how many replicas must run at least.
      - Cannot be asked of a O(plan_file).
    type: raw
  dest:
    description:
      - Where to keep the plan, as JSON. Relative paths are from the working directory.
      - The plan is drawn beside it as a page of HTML that needs no other file, under the same name with C(.html). That
        is written when the plan is, or when it is missing or shows another placement.
      - It is written only when the placement, the fleet or the catalog differ from those of the plan that is there.
        What is measured (speeds, what others hold, values and bounds of the objectives) may be older in the file.
    type: path
  plan_file:
    description:
      - A plan that was reviewed. It is taken as it is instead of planning anew.
      - Refused, with the differences, when it was made for another fleet or catalog, or no longer fits.
    type: path
  show:
    description:
      - Whether to print the report.
    type: bool
    default: false
seealso:
  - module: aivailable.sdai.gpu_facts
  - module: aivailable.sdai.replica_facts
"""

EXAMPLES = r"""
- name: Plan for the whole fleet
  aivailable.sdai.placement:
    fleet: "{{ hostvars | aivailable.sdai.fleet(groups['gpu_nodes']) }}"
    models: "{{ sdai_models }}"
    catalog: "{{ sdai_catalog }}"
    current: "{{ hostvars | aivailable.sdai.running(groups['gpu_nodes']) }}"
    dest: plan.json
    show: true
  register: placement
  delegate_to: localhost
  run_once: true

- name: What if server2 had another P40, and gpu1 were gone?
  aivailable.sdai.placement:
    fleet: "{{ hostvars | aivailable.sdai.fleet(groups['gpu_nodes']) }}"
    models: "{{ sdai_models }}"
    catalog: "{{ sdai_catalog }}"
    what_if:
      without_nodes: [gpu1]
      with_gpus:
        server2: [Tesla P40]
    show: true
  delegate_to: localhost
  run_once: true

- name: A fleet that is written down
  aivailable.sdai.placement:
    fleet:
      gpu1:
        gpus:
          - id: GPU-1
            vendor: nvidia
            name: Tesla P40
            architecture: sm_61
            vram_mib: 24576
            bandwidth_gbs: 347
            backends: [cuda_v12]
    models:
      - name: llama3.1:8b
        replicas: {min: 1, max: 2}
    catalog: "{{ sdai_catalog }}"
    require: feasible
"""

RETURN = r"""
plan:
  description:
    - The plan document, schema 1.
    - It depends on nothing but the arguments.
  returned: always
  type: dict
  contains:
    status:
      description: V(optimal), V(feasible) or V(infeasible) (a minimum is proven impossible; what fits is planned).
      type: str
      sample: optimal
    replicas:
      description: The replicas with node, GPUs, port and all that a unit needs.
      type: list
      elements: dict
    unplaced:
      description: The models of which replicas are missing, each with reason and remedy.
      type: list
      elements: dict
    objectives:
      description: The objectives in strict order, each with its value, its bound and whether it is proved.
      type: list
      elements: dict
    survivability:
      description: What the loss of any one node does to the minimums.
      type: dict
transition:
  description: How to get from what runs to the plan.
  returned: always
  type: dict
  contains:
    keep:
      description: Ids of the replicas that stay as they are.
      type: list
      elements: str
    start:
      description: Ids of the replicas to start.
      type: list
      elements: str
    stop:
      description: The replicas to stop, each with C(id), C(node) and C(unit).
      type: list
      elements: dict
    move_gib:
      description: GiB to load.
      type: float
      sample: 7.2
    waves:
      description: The waves, each with C(start), C(stop) and C(breaks).
      type: list
      elements: dict
report:
  description: The plan as a table for a terminal of 100 columns.
  returned: always
  type: str
dest:
  description: Absolute path of the plan.
  returned: when O(dest) is given
  type: str
"""

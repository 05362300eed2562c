#!/usr/bin/python
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model
short_description: Give a replica its own view of an Ollama model
version_added: 0.1.0
author:
  - The aivailable.sdai contributors (@aivailable)
description:
  - Makes the private store of one replica hold one model with the parameters of the plan.
    The blobs are those of the node's store server, the manifest is the replica's own.
  - Pulls the model through the store server when the node does not have it. A pull is resumed, retried a few times,
    refused when the disk has no room for it, and its progress is shown on the screen line by line.
    One pull at a time changes the store of a node; another one waits and tells how far the first is.
  - Nothing is asked of the store server when everything is there, and a model that is there is never pulled again.
options:
  id:
    description: The replica, as in the plan. Not needed with O(state=clean).
    type: str
  state:
    description:
      - With V(present) the private store holds the model.
      - With V(absent) the replica's names are removed.
      - With V(absent) and with V(clean), blobs that no model names for an hour or longer are removed,
        unless a pull is under way.
    type: str
    choices: [present, absent, clean]
    default: present
  name:
    description: The name that clients ask for. Needed with O(state=present).
    type: str
  source:
    description:
      - Where the model comes from, as an Ollama name, as C(hf.co/namespace/repository:quantisation),
        or as C(gguf:/path) of a file on the node.
      - When empty, O(name).
    type: str
    default: ""
  registry:
    description:
      - A mirror of the Ollama library as C(HOST:PORT) or C(HOST:PORT/namespace). When empty, the library itself.
    type: str
    default: ""
  insecure:
    description: Whether O(registry) is asked by plain HTTP.
    type: bool
    default: false
  parameters:
    description: Parameters of the variant, merged into those that the model brings.
    type: dict
    default: {}
  prune:
    description: With O(state=absent), whether models that no replica of the node uses any more are deleted.
    type: bool
    default: false
  stall_seconds:
    description:
      - How long a pull may stand still before it is begun anew. What has been pulled is kept.
      - After five times in a row without success the module fails.
    type: int
    default: 120
  pull:
    description: With V(false), nothing is pulled, and RV(pull_needed) says whether it would have to be.
    type: bool
    default: true
  server:
    description: URL of the node's store server.
    type: str
    default: http://127.0.0.1:11434
  store:
    description: Directory of the store server.
    type: path
    default: /var/lib/sdai/store
  replicas:
    description: Directory of the replicas' private stores.
    type: path
    default: /var/lib/sdai/replicas
  progress:
    description: File in which the state of a pull is kept. When empty, one in C(/run/sdai/pull).
    type: path
extends_documentation_fragment:
  - aivailable.sdai._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: A model is too large for one.
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Give the replica its model
  aivailable.sdai.ollama_model:
    id: llama3.1-8b--1
    name: llama3.1:8b
    parameters:
      num_ctx: 8192
      num_batch: 1024
      num_gpu: 999

- name: Take it away, and the weights too when nobody uses them
  aivailable.sdai.ollama_model:
    id: llama3.1-8b--1
    state: absent
    prune: true
"""

RETURN = r"""
done:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [pulled llama3.1:8b, "created sdai/llama3.1-8b--1:v1", "wrote the manifest of llama3.1:8b"]
digest:
  description: Digest of the replica's manifest as C(/api/ps) shows it. Empty while the model is not there.
  returned: O(state=present)
  type: str
size_bytes:
  description: Bytes of all blobs of the model. 0 while it is not there.
  returned: O(state=present)
  type: int
blob_bytes:
  description: Bytes of the weights' blob. 0 while it is not there.
  returned: O(state=present)
  type: int
pull_needed:
  description: Whether the model is not on the node, or another pull must be waited for.
  returned: O(state=present)
  type: bool
freed_bytes:
  description: Bytes that were deleted.
  returned: O(state=absent) or O(state=clean)
  type: int
"""

import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ollama_lock import Busy, store_lock, wait_for_store
from ..module_utils._ollama_pull import STALL_SECONDS, Progress, StoreError, write_progress
from ..module_utils._ollama_server import StoreServer
from ..module_utils._ollama_store import Name, PrivateStore, Store
from ..module_utils._ollama_variant import Outcome, Wanted, clean, ensure, retire

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "id": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent", "clean"], "default": "present"},
    "name": {"type": "str"},
    "source": {"type": "str", "default": ""},
    "registry": {"type": "str", "default": ""},
    "insecure": {"type": "bool", "default": False},
    "parameters": {"type": "dict", "default": {}},
    "prune": {"type": "bool", "default": False},
    "stall_seconds": {"type": "int", "default": STALL_SECONDS},
    "pull": {"type": "bool", "default": True},
    "server": {"type": "str", "default": "http://127.0.0.1:11434"},
    "store": {"type": "path", "default": "/var/lib/sdai/store"},
    "replicas": {"type": "path", "default": "/var/lib/sdai/replicas"},
    "progress": {"type": "path"},
}
REQUIRED_IF = [("state", "present", ["id", "name"]), ("state", "absent", ["id"])]


def reporter(path: str) -> t.Callable[[Progress], None]:
    """Writes a pull's progress once a second."""
    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1.0:
            last = now
            write_progress(path, progress)

    return report


def make_present(module: AnsibleModule, *, check: bool, report: t.Callable[[Progress], None]) -> Outcome:
    given = module.params
    store = Store(given["store"])
    return ensure(
        Wanted(
            id=given["id"],
            name=Name.parse(given["name"]),
            source=given["source"] or given["name"],
            registry=given["registry"],
            insecure=given["insecure"],
            parameters=given["parameters"],
            stall_seconds=given["stall_seconds"],
        ),
        StoreServer(given["server"]),
        store,
        PrivateStore(os.path.join(given["replicas"], given["id"], "models"), store),
        check=check,
        may_pull=given["pull"],
        report=report,
    )


def change(module: AnsibleModule) -> Outcome:
    """Alone with the store. Without leave to pull there is no time to wait for it either: Busy."""
    store = module.params["store"]
    progress = module.params["progress"] or f"/run/sdai/pull/{module.params['id']}.json"
    report = reporter(progress)
    with wait_for_store(store, progress, report) if module.params["pull"] else store_lock(store, progress):
        try:
            return make_present(module, check=False, report=report)
        finally:
            if os.path.exists(progress):
                os.unlink(progress)


def present(module: AnsibleModule) -> dict[str, t.Any]:
    # A look needs no lock, and most runs find all as it must be.
    outcome = make_present(module, check=True, report=lambda _progress: None)
    if outcome.done and not module.check_mode and (module.params["pull"] or not outcome.pull_needed):
        try:
            outcome = change(module)
        except Busy:
            outcome = Outcome((), None, pull_needed=True)
    manifest = outcome.manifest
    return {
        "changed": len(outcome.done) > 0,
        "done": list(outcome.done),
        "digest": manifest.digest if manifest else "",
        "size_bytes": manifest.size_bytes if manifest else 0,
        "blob_bytes": manifest.model_bytes if manifest else 0,
        "pull_needed": outcome.pull_needed,
    }


def absent(module: AnsibleModule) -> dict[str, t.Any]:
    given = module.params
    done, freed = retire(
        given["id"], Store(given["store"]), given["replicas"], with_models=given["prune"], check=module.check_mode
    )
    return {"changed": len(done) > 0, "done": list(done), "freed_bytes": freed}


def cleaned(module: AnsibleModule) -> dict[str, t.Any]:
    done, freed = clean(Store(module.params["store"]), module.params["replicas"], check=module.check_mode)
    return {"changed": len(done) > 0, "done": list(done), "freed_bytes": freed}


STATES = {"present": present, "absent": absent, "clean": cleaned}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=REQUIRED_IF,
        supports_check_mode=True,
    )
    try:
        result = STATES[module.params["state"]](module)
    except (StoreError, ValueError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"{exc}. See that {module.params['store']} can be written")
    module.exit_json(**result)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_library
short_description: Install the library of the node's tool
version_added: 0.1.0
author:
  - The aivailable.sdai contributors (@aivailable)
description:
  - Writes the Python files of which C(/opt/sdai/node/sdai-replica) is made, all in one go. They are those of the
    collection with which the modules look at GPUs and replicas, and come with this module.
  - Other Python files in O(dest), as an earlier release may have left them, are removed.
options:
  dest:
    description: The directory of the package. It is made where it is missing, with those above it.
    type: path
    required: true
extends_documentation_fragment:
  - aivailable.sdai._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Names the files. Thousands of lines of the collection's own code would hide what is configured.
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Install the library of the node's tool
  aivailable.sdai.node_library:
    dest: /opt/sdai/node/sdai_node
"""

RETURN = r"""
written:
  description: The files that were not there or differed.
  returned: success
  type: list
  elements: str
  sample: [/opt/sdai/node/sdai_node/_replica.py]
removed:
  description: The files that no longer belong there.
  returned: success
  type: list
  elements: str
  sample: []
"""

import os
import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.aivailable.sdai.plugins.module_utils import _replica_tool

PACKAGE = _replica_tool.__name__.rpartition(".")[0]


def sources() -> dict[str, bytes]:
    """The tool's own code and all of the collection's that it imports, by path within the package."""
    found = {}
    for name, loaded in sys.modules.items():
        if name.startswith(f"{PACKAGE}.") and loaded.__spec__ is not None:
            path = name.removeprefix(f"{PACKAGE}.").replace(".", "/")
            is_package = loaded.__spec__.submodule_search_locations is not None
            text = loaded.__spec__.loader.get_source(name)
            found[f"{path}/__init__.py" if is_package else f"{path}.py"] = text.encode()
    return found


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.write_bytes(content)
    scratch.chmod(0o644)
    scratch.replace(path)


def is_as_wanted(path: Path, content: bytes) -> bool:
    if not path.is_file() or path.read_bytes() != content:
        return False
    status = path.stat()
    return status.st_mode & 0o777 == 0o644 and status.st_uid == os.geteuid()


def main() -> None:
    module = AnsibleModule(argument_spec={"dest": {"type": "path", "required": True}}, supports_check_mode=True)
    dest = Path(module.params["dest"])
    wanted = {dest / path: content for path, content in sorted(sources().items())}
    try:
        written = [path for path, content in wanted.items() if not is_as_wanted(path, content)]
        removed = sorted(path for path in dest.rglob("*.py") if path not in wanted)
        if not module.check_mode:
            # Nobody's umask makes a directory that the service's user cannot enter.
            os.umask(0o022)
            for path in written:
                write(path, wanted[path])
            for path in removed:
                path.unlink()
    except OSError as error:
        module.fail_json(msg=f"{error}. See that {dest} can be written and its disk is not full")
    diff = {
        "before": "".join(f"{path}\n" for path in removed),
        "after": "".join(f"{path}\n" for path in written),
    }
    module.exit_json(
        changed=bool(written or removed), written=[*map(str, written)], removed=[*map(str, removed)], diff=diff
    )


if __name__ == "__main__":
    main()

# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the system's Python of the lab's hosts compile what it imports from a zip file once, not at each import.

Ansible sends each module as a zip file of sources: half of what a module takes on a host is the same compilation again.
A user's hosts do that at the same time, each on cores of its own; those of the lab share the cores of one machine.
"""

from __future__ import annotations

import marshal
import os
import sys
import zipimport
from importlib.util import source_hash

# Shared by all hosts (tests/lab/_hosts.py). Whoever may not write there compiles as usual.
CACHE = "/var/cache/sdai-lab-compiled"

_compile = zipimport._compile_source


def _compile_once(pathname, source):
    path = f"{CACHE}/{source_hash(source).hex()}.{sys.implementation.cache_tag}"
    try:
        with open(path, "rb") as file:
            return marshal.load(file)
    except (OSError, EOFError, ValueError, TypeError):
        code = _compile(pathname, source)
    scratch = f"{path}.{os.getpid()}"
    try:
        with open(scratch, "xb") as file:
            marshal.dump(code, file)
        os.replace(scratch, path)
    except OSError:
        pass
    return code


zipimport._compile_source = _compile_once

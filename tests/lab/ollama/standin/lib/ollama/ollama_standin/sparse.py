# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SHA-256 of a sparse file: holes are hashed from memory, which spares the kernel making pages of zeros."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)


def sha256(path: Path) -> str:
    """Hex digest of the whole content, holes as zeros."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        size, position = os.fstat(stream.fileno()).st_size, 0
        while position < size:
            data = _seek(stream.fileno(), position, os.SEEK_DATA, size)
            for offset in range(position, data, _BLOCK):
                digest.update(memoryview(_ZEROS)[: min(_BLOCK, data - offset)])
            position = _seek(stream.fileno(), data, os.SEEK_HOLE, size)
            stream.seek(data)
            for offset in range(data, position, _BLOCK):
                digest.update(stream.read(min(_BLOCK, position - offset)))
    return digest.hexdigest()


def _seek(descriptor: int, position: int, how: int, size: int) -> int:
    if position >= size:
        return size
    try:
        return os.lseek(descriptor, position, how)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole up to the end
            return size
        raise

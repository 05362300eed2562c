# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Request options: which exist, their types, and which of them the engine is started with."""

from __future__ import annotations

import sys
import typing as t

from .gojson import ApiError

_INTEGERS = {
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k",
    "repeat_last_n", "draft_num_predict",
}  # fmt: skip
_FLOATS = {"top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"}
RUNNER = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
_DEFAULTS: dict[str, t.Any] = {"num_ctx": None, "num_batch": 0, "num_gpu": -1, "main_gpu": -1, "use_mmap": None,
                               "num_thread": 0, "draft_num_predict": 0, "num_predict": -1}  # fmt: skip


def merge(*sources: dict[str, t.Any]) -> dict[str, t.Any]:
    """Defaults, then the model's parameters, then the request's options. Keys are case-sensitive."""
    merged = dict(_DEFAULTS)
    for source in sources:
        for key, value in source.items():
            if value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if key in _INTEGERS:
                if not number:
                    raise ApiError(500, f'option "{key}" must be of type integer')
                merged[key] = int(value)
            elif key in _FLOATS:
                if not number:
                    raise ApiError(500, f'option "{key}" must be of type float32')
                merged[key] = float(value)
            elif key == "use_mmap":
                if not isinstance(value, bool):
                    raise ApiError(500, f'option "{key}" must be of type boolean')
                merged[key] = value
            elif key == "stop":
                if not isinstance(value, list):
                    raise ApiError(500, f'option "{key}" must be of type array')
                merged[key] = value
            else:
                sys.stderr.write(f'level=WARN msg="invalid option provided" option={key}\n')
    return merged


class Launch(t.NamedTuple):
    """What an engine is started with; another one means a reload."""

    context: int
    batch: int
    num_gpu: int
    main_gpu: int
    use_mmap: bool | None
    num_thread: int
    draft: int
    shift: bool

    def reloads(self, wanted: Launch) -> bool:
        """A negative num_gpu means "as it is"."""
        return self._replace(num_gpu=wanted.num_gpu if wanted.num_gpu < 0 else self.num_gpu) != wanted


def launch(options: dict[str, t.Any], shift: bool, default_context: int, trained: int) -> Launch:
    context = options["num_ctx"] if options["num_ctx"] is not None else default_context
    # the real server takes 0 and less for "as small as it gets", which is 4
    context = max(4, context)
    if trained:
        context = min(context, trained)
    return Launch(
        context, options["num_batch"], options["num_gpu"], options["main_gpu"], options["use_mmap"],
        options["num_thread"], options["draft_num_predict"], shift,
    )  # fmt: skip

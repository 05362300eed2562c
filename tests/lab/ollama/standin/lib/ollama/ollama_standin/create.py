# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""POST /api/create: a new manifest from an old one (parameters are merged) or from an uploaded GGUF file."""

from __future__ import annotations

import json
import typing as t

from . import gguf, names
from .gojson import ApiError, dumps
from .names import Name
from .store import CONFIG, MODEL, PARAMS, SYSTEM, TEMPLATE, Model, Store

CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
CHATML_STOP = ["<|im_start|>", "<|im_end|>"]
_ORDER = [MODEL, TEMPLATE, SYSTEM, PARAMS]
Report = t.Callable[[dict[str, t.Any]], None]


def config_of(info: gguf.Gguf, digests: list[str]) -> dict[str, t.Any]:
    return {
        "model_format": "gguf",
        "model_family": info.architecture,
        "model_families": [info.architecture],
        "model_type": gguf.human_parameters(info.parameters),
        "file_type": info.quantization,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": digests},
    }


def _status(report: Report, text: str) -> None:
    report({"status": text})


def _layer(store: Store, report: Report, media: str, content: str) -> dict[str, t.Any]:
    layer, new = store.add_layer(media, content.encode())
    _status(report, f"{'creating new' if new else 'using existing'} layer {layer['digest']}")
    return layer


def _base_from(store: Store, report: Report, base: Model) -> list[dict[str, t.Any]]:
    layers = []
    for layer in base.layers:
        copied = dict(layer)
        if layer["mediaType"] == MODEL:
            copied["from"] = base.name.shortest
        layers.append(copied)
        if layer["mediaType"] in (MODEL, TEMPLATE, SYSTEM):
            store.touch(layer["digest"])
            _status(report, f"using existing layer {layer['digest']}")
    return layers


def _base_files(store: Store, report: Report, files: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    """One GGUF file. The real server rewrites the blob while it validates; here it is taken as it is."""
    digest = str(next(iter(files.values())))
    path = store.blob(digest)
    if not path.exists():
        raise ApiError(400, "invalid digest format" if ":" not in digest else f"open {path}: no such file or directory")
    _status(report, "parsing GGUF")
    _status(report, "verifying conversion")
    try:
        info = gguf.cached(path)
    except gguf.NotGguf:
        raise ApiError(400, "invalid file format") from None
    _status(report, f"creating new layer {digest}")
    layers = [{"mediaType": MODEL, "digest": digest, "size": path.stat().st_size}]
    if not info.embedding:
        _status(report, "using autodetected template chatml")
        template, _ = store.add_layer(TEMPLATE, CHATML.encode())
        layers += [template, _layer(store, report, PARAMS, dumps({"stop": CHATML_STOP}))]
    return layers


def create(store: Store, name: Name, request: dict[str, t.Any], report: Report) -> None:
    if request.get("from"):
        base = store.get(names.parse(request["from"]))
        if base is None:
            raise ApiError(404, f"model '{request['from']}' not found")  # the caller pulls before
        layers = _base_from(store, report, base)
    elif request.get("files"):
        layers = _base_files(store, report, request["files"])
    else:
        raise ApiError(400, "neither 'from' or 'files' was specified")
    for media, key in ((TEMPLATE, "template"), (SYSTEM, "system")):
        if request.get(key):
            layers = [layer for layer in layers if layer["mediaType"] != media]
            layers.append(_layer(store, report, media, request[key]))
    if request.get("parameters"):
        old = next((layer for layer in layers if layer["mediaType"] == PARAMS), None)
        merged = json.loads(store.blob(old["digest"]).read_text()) if old else {}
        merged.update(request["parameters"])
        layers = [layer for layer in layers if layer["mediaType"] != PARAMS]
        layers.append(_layer(store, report, PARAMS, dumps(dict(sorted(merged.items())))))
    layers.sort(key=lambda layer: _ORDER.index(layer["mediaType"]) if layer["mediaType"] in _ORDER else len(_ORDER))
    weights = next(layer for layer in layers if layer["mediaType"] == MODEL)
    info = gguf.cached(store.blob(weights["digest"]))
    config, _ = store.add_layer(CONFIG, dumps(config_of(info, [layer["digest"] for layer in layers])).encode())
    _status(report, "writing manifest")
    store.write_manifest(name, config, layers)
    _status(report, "success")

"""``python -m zero1toa.head.build``: measure, grow, sculpt, write the data file and the contact sheets."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.head.sculpt import identity
from zero1toa.head.sculpt.assemble import Head, assemble
from zero1toa.head.sculpt.expressions import JAW_ANGLE
from zero1toa.head.sculpt.parts import EYE_RADIUS, LID_CLEARANCE, SKIRT_DEPTH
from zero1toa.head.sculpt.skin import grow_skin
from zero1toa.head.sculpt.template import Template, measure

DATA = Path(__file__).parent.parent / "data" / "canonical.safetensors"


def main(arguments: list[str] | None = None) -> None:
    """Build the canonical head.

    Args:
        arguments: command line without the program's name; the process's own when absent.
    """
    parser = argparse.ArgumentParser(description="Build the embedded canonical head from nothing but drawn faces.")
    parser.add_argument("--drawings", type=int, default=200, help="drawn faces to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=DATA, help="data file to write")
    parser.add_argument("--template", type=Path, help="reuse (or write) the measured template as .npz")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets (PNG)")
    options = parser.parse_args(arguments)
    template = _template(options.template, options.drawings, options.seed)
    head = assemble(template, grow_skin(template))
    write(head, options.output, seed=options.seed, drawings=options.drawings)
    print(f"{options.output}: {len(head.template)} vertices, {len(head.faces)} faces")
    if options.sheets is not None:
        from zero1toa.head.sculpt.sheets import write_sheets

        write_sheets(options.output, options.sheets)


def write(head: Head, path: Path, **made_with: int) -> None:
    """Write the data file: metres, half precision for the bases (their steps are micrometres)."""
    from safetensors.numpy import save

    names = sorted(head.expressions)
    tensors: dict[str, NDArray[Any]] = {
        "template": (head.template / 1000).astype(np.float32),
        "faces": head.faces.astype(np.int32),
        # Millimetres: in metres the smallest steps would be subnormal in half precision.
        "shape_basis": head.shape_basis.astype(np.float16),
        "expression_basis": np.stack([head.expressions[n] for n in names]).astype(np.float16),
        "weights": head.weights.astype(np.float32),
        "joints": (head.joints / 1000).astype(np.float32),
        "joint_basis": (head.joint_basis / 1000).astype(np.float32),
        "eye_centres": (head.eye_centres / 1000).astype(np.float32),
        "eye_basis": (head.eye_basis / 1000).astype(np.float32),
        "lid_edges": head.lid_edges.astype(np.int32),
        "lid_vertices_left": head.lid_vertices[0].astype(np.int32),
        "lid_vertices_right": head.lid_vertices[1].astype(np.int32),
        "lid_weights_left": head.lid_weights[0].astype(np.float32),
        "lid_weights_right": head.lid_weights[1].astype(np.float32),
        "skirt_vertices": head.skirt_vertices.astype(np.int32),
        "skirt_loops": head.skirt_loops.astype(np.int32),
        "landmark_vertices": head.landmark_vertices.astype(np.int32),
        **{f"region.{k}": np.packbits(v) for k, v in sorted(head.regions.items())},
    }
    skull = head.template[(head.weights[:, 0] < 0.02) & (head.template[:, 1] > -110)]
    centre = 0.5 * (skull.min(0) + skull.max(0))
    meta = {
        "name": "canonical-1",
        "shape_names": list(identity.NAMES),
        "expression_names": names,
        "eye_radius": EYE_RADIUS / 1000,
        "lid_clearance": LID_CLEARANCE / 1000,
        "skirt_depth": SKIRT_DEPTH / 1000,
        "jaw_angle": float(JAW_ANGLE),
        "center": [float(c) / 1000 for c in centre],
        "height": float(np.ptp(head.template[:, 1])) / 1000,
        "made_with": made_with,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(save(tensors, {"canonical_head": json.dumps(meta, sort_keys=True)}))
    os.replace(partial, path)


def _template(path: Path | None, drawings: int, seed: int) -> Template:
    if path is not None and path.is_file():
        with np.load(path) as stored:
            return Template(**{name: stored[name] for name in ("points", "faces", "mirror", "spread")})
    template = measure(drawings, np.random.default_rng(seed))
    if path is not None:
        np.savez(path, points=template.points, faces=template.faces, mirror=template.mirror, spread=template.spread)
    return template

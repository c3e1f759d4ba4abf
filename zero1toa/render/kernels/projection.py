"""Projection of Gaussians to splats and its gradient (EWA splatting; formulas in ``reference.py``).

Scalars are float64 inside: memory, not arithmetic, sets the pace here. With A = J W R S (2 x 3) the covariance of a
splat is A A^T + eps2d I, so that both passes need A alone and never a 3 x 3 covariance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zero1toa.render.kernels.jit import kernel

_ALPHA_MIN = 1.0 / 255.0
_MAX_EXTENT = 3.33


@kernel
def _rotation(w: Any, x: Any, y: Any, z: Any) -> Any:
    return (
        1.0 - 2.0 * (y * y + z * z),
        2.0 * (x * y - w * z),
        2.0 * (x * z + w * y),
        2.0 * (x * y + w * z),
        1.0 - 2.0 * (x * x + z * z),
        2.0 * (y * z - w * x),
        2.0 * (x * z - w * y),
        2.0 * (y * z + w * x),
        1.0 - 2.0 * (x * x + y * y),
    )


@kernel
def _clamp(value: Any, low: Any, high: Any) -> Any:
    return min(high, max(low, value))


@kernel
def project_forward(
    start: Any,
    stop: Any,
    chunks: Any,
    means: Any,
    quats: Any,
    scales: Any,
    opacities: Any,
    viewmats: Any,
    Ks: Any,
    options: Any,
    antialiased: Any,
    radii: Any,
    means2d: Any,
    depths: Any,
    conics: Any,
    compensations: Any,
    splat_opacities: Any,
    extents: Any,
) -> None:
    """Items are (frame, chunk of Gaussians); frame f shows set f // C.

    ``options`` holds width, height, near plane, far plane, radius clip and eps2d. Fills radii ``[F, N, 2]`` int32 and,
    where these are not 0, means2d, depths, conics, compensations, compensated opacities and extents (how many standard
    deviations from its centre a splat is drawn).
    """
    frames, sets, count = viewmats.shape[0], means.shape[0], means.shape[1]
    cameras = frames // sets
    width, height, near, far, clip, eps = options[0], options[1], options[2], options[3], options[4], options[5]
    for item in range(start, stop):
        f, chunk = item // chunks, item % chunks
        b = f // cameras
        r00, r01, r02 = np.float64(viewmats[f, 0, 0]), np.float64(viewmats[f, 0, 1]), np.float64(viewmats[f, 0, 2])
        r10, r11, r12 = np.float64(viewmats[f, 1, 0]), np.float64(viewmats[f, 1, 1]), np.float64(viewmats[f, 1, 2])
        r20, r21, r22 = np.float64(viewmats[f, 2, 0]), np.float64(viewmats[f, 2, 1]), np.float64(viewmats[f, 2, 2])
        t0, t1, t2 = np.float64(viewmats[f, 0, 3]), np.float64(viewmats[f, 1, 3]), np.float64(viewmats[f, 2, 3])
        fx, fy = np.float64(Ks[f, 0, 0]), np.float64(Ks[f, 1, 1])
        cx, cy = np.float64(Ks[f, 0, 2]), np.float64(Ks[f, 1, 2])
        margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
        low_x, high_x = -(cx / fx + margin_x), (width - cx) / fx + margin_x
        low_y, high_y = -(cy / fy + margin_y), (height - cy) / fy + margin_y
        for g in range(chunk * count // chunks, (chunk + 1) * count // chunks):
            radii[f, g, 0] = 0
            radii[f, g, 1] = 0
            m0, m1, m2 = np.float64(means[b, g, 0]), np.float64(means[b, g, 1]), np.float64(means[b, g, 2])
            z = r20 * m0 + r21 * m1 + r22 * m2 + t2
            opacity = np.float64(opacities[b, g])
            if z < near or z > far or opacity < _ALPHA_MIN:
                continue
            x = r00 * m0 + r01 * m1 + r02 * m2 + t0
            y = r10 * m0 + r11 * m1 + r12 * m2 + t1
            rz = 1.0 / z
            u, v = fx * x * rz + cx, fy * y * rz + cy
            qw, qx = np.float64(quats[b, g, 0]), np.float64(quats[b, g, 1])
            qy, qz = np.float64(quats[b, g, 2]), np.float64(quats[b, g, 3])
            norm = 1.0 / math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
            q = _rotation(qw * norm, qx * norm, qy * norm, qz * norm)
            j00, j11 = fx * rz, fy * rz
            j02 = -fx * _clamp(x * rz, low_x, high_x) * rz
            j12 = -fy * _clamp(y * rz, low_y, high_y) * rz
            a0, a1, a2 = j00 * r00 + j02 * r20, j00 * r01 + j02 * r21, j00 * r02 + j02 * r22
            b0, b1, b2 = j11 * r10 + j12 * r20, j11 * r11 + j12 * r21, j11 * r12 + j12 * r22
            s0, s1, s2 = np.float64(scales[b, g, 0]), np.float64(scales[b, g, 1]), np.float64(scales[b, g, 2])
            u0 = (a0 * q[0] + a1 * q[3] + a2 * q[6]) * s0
            u1 = (a0 * q[1] + a1 * q[4] + a2 * q[7]) * s1
            u2 = (a0 * q[2] + a1 * q[5] + a2 * q[8]) * s2
            v0 = (b0 * q[0] + b1 * q[3] + b2 * q[6]) * s0
            v1 = (b0 * q[1] + b1 * q[4] + b2 * q[7]) * s1
            v2 = (b0 * q[2] + b1 * q[5] + b2 * q[8]) * s2
            xx, xy, yy = u0 * u0 + u1 * u1 + u2 * u2, u0 * v0 + u1 * v1 + u2 * v2, v0 * v0 + v1 * v1 + v2 * v2
            sharp = xx * yy - xy * xy
            xx += eps
            yy += eps
            blurred = xx * yy - xy * xy
            if blurred <= 0.0:
                continue
            if antialiased:
                compensation = math.sqrt(max(0.0, sharp / blurred))
                opacity *= compensation
                if opacity < _ALPHA_MIN:
                    continue
                compensations[f, g] = compensation
            extent = min(_MAX_EXTENT, math.sqrt(2.0 * math.log(opacity / _ALPHA_MIN)))
            radius_x, radius_y = math.ceil(extent * math.sqrt(xx)), math.ceil(extent * math.sqrt(yy))
            if radius_x <= clip and radius_y <= clip:
                continue
            if u + radius_x <= 0 or u - radius_x >= width or v + radius_y <= 0 or v - radius_y >= height:
                continue
            radii[f, g, 0] = radius_x
            radii[f, g, 1] = radius_y
            means2d[f, g, 0] = u
            means2d[f, g, 1] = v
            depths[f, g] = z
            conics[f, g, 0] = yy / blurred
            conics[f, g, 1] = -xy / blurred
            conics[f, g, 2] = xx / blurred
            splat_opacities[f, g] = opacity
            extents[f, g] = extent


@kernel
def project_backward(
    start: Any,
    stop: Any,
    chunks: Any,
    means: Any,
    quats: Any,
    scales: Any,
    opacities: Any,
    viewmats: Any,
    Ks: Any,
    options: Any,
    antialiased: Any,
    radii: Any,
    conics: Any,
    compensations: Any,
    v_means2d: Any,
    v_conics: Any,
    v_splat_opacities: Any,
    v_means: Any,
    v_quats: Any,
    v_scales: Any,
    v_opacities: Any,
) -> None:
    """Items are (set, chunk of Gaussians): each Gaussian sums over its cameras in order, so results repeat bitwise."""
    frames, sets, count = viewmats.shape[0], means.shape[0], means.shape[1]
    cameras = frames // sets
    width, height, eps = options[0], options[1], options[5]
    for item in range(start, stop):
        b, chunk = item // chunks, item % chunks
        for g in range(chunk * count // chunks, (chunk + 1) * count // chunks):
            g_m0 = g_m1 = g_m2 = 0.0
            g_s0 = g_s1 = g_s2 = 0.0
            g_o = np.float64(0.0)
            # Gradient of the rotation matrix, row by row.
            g0 = g1 = g2 = g3 = g4 = g5 = g6 = g7 = g8 = 0.0
            m0, m1, m2 = np.float64(means[b, g, 0]), np.float64(means[b, g, 1]), np.float64(means[b, g, 2])
            qw, qx = np.float64(quats[b, g, 0]), np.float64(quats[b, g, 1])
            qy, qz = np.float64(quats[b, g, 2]), np.float64(quats[b, g, 3])
            norm = 1.0 / math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
            qw *= norm
            qx *= norm
            qy *= norm
            qz *= norm
            q = _rotation(qw, qx, qy, qz)
            s0, s1, s2 = np.float64(scales[b, g, 0]), np.float64(scales[b, g, 1]), np.float64(scales[b, g, 2])
            for f in range(b * cameras, (b + 1) * cameras):
                if radii[f, g, 0] <= 0:
                    continue
                r00, r01, r02 = (
                    np.float64(viewmats[f, 0, 0]),
                    np.float64(viewmats[f, 0, 1]),
                    np.float64(viewmats[f, 0, 2]),
                )
                r10, r11, r12 = (
                    np.float64(viewmats[f, 1, 0]),
                    np.float64(viewmats[f, 1, 1]),
                    np.float64(viewmats[f, 1, 2]),
                )
                r20, r21, r22 = (
                    np.float64(viewmats[f, 2, 0]),
                    np.float64(viewmats[f, 2, 1]),
                    np.float64(viewmats[f, 2, 2]),
                )
                fx, fy = np.float64(Ks[f, 0, 0]), np.float64(Ks[f, 1, 1])
                cx, cy = np.float64(Ks[f, 0, 2]), np.float64(Ks[f, 1, 2])
                margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
                low_x, high_x = -(cx / fx + margin_x), (width - cx) / fx + margin_x
                low_y, high_y = -(cy / fy + margin_y), (height - cy) / fy + margin_y
                x = r00 * m0 + r01 * m1 + r02 * m2 + np.float64(viewmats[f, 0, 3])
                y = r10 * m0 + r11 * m1 + r12 * m2 + np.float64(viewmats[f, 1, 3])
                z = r20 * m0 + r21 * m1 + r22 * m2 + np.float64(viewmats[f, 2, 3])
                rz = 1.0 / z
                slope_x, slope_y = _clamp(x * rz, low_x, high_x), _clamp(y * rz, low_y, high_y)
                j00, j11, j02, j12 = fx * rz, fy * rz, -fx * slope_x * rz, -fy * slope_y * rz
                a0, a1, a2 = j00 * r00 + j02 * r20, j00 * r01 + j02 * r21, j00 * r02 + j02 * r22
                b0, b1, b2 = j11 * r10 + j12 * r20, j11 * r11 + j12 * r21, j11 * r12 + j12 * r22
                n00, n01, n02 = q[0] * s0, q[1] * s1, q[2] * s2
                n10, n11, n12 = q[3] * s0, q[4] * s1, q[5] * s2
                n20, n21, n22 = q[6] * s0, q[7] * s1, q[8] * s2
                u0, u1, u2 = (
                    a0 * n00 + a1 * n10 + a2 * n20,
                    a0 * n01 + a1 * n11 + a2 * n21,
                    a0 * n02 + a1 * n12 + a2 * n22,
                )
                v0, v1, v2 = (
                    b0 * n00 + b1 * n10 + b2 * n20,
                    b0 * n01 + b1 * n11 + b2 * n21,
                    b0 * n02 + b1 * n12 + b2 * n22,
                )
                # Inverse: d loss / d covariance = -P (d loss / d P) P, the off-diagonal element standing twice in P.
                p0, p1, p2 = np.float64(conics[f, g, 0]), np.float64(conics[f, g, 1]), np.float64(conics[f, g, 2])
                w0, w1, w2 = (
                    np.float64(v_conics[f, g, 0]),
                    0.5 * np.float64(v_conics[f, g, 1]),
                    np.float64(v_conics[f, g, 2]),
                )
                k00, k01 = p0 * w0 + p1 * w1, p0 * w1 + p1 * w2
                k10, k11 = p1 * w0 + p2 * w1, p1 * w1 + p2 * w2
                c_xx, c_xy, c_yy = -(k00 * p0 + k01 * p1), -(k00 * p1 + k01 * p2), -(k10 * p1 + k11 * p2)
                e_o = np.float64(v_splat_opacities[f, g])
                if antialiased:
                    # compensation^2 = det(covariance) / det(covariance + eps I)
                    compensation = np.float64(compensations[f, g])
                    scale = 0.5 * e_o * np.float64(opacities[b, g]) / (compensation + 1e-6)
                    e_o *= compensation
                    rest, inverse_determinant = 1.0 - compensation * compensation, p0 * p2 - p1 * p1
                    c_xx += scale * (rest * p0 - eps * inverse_determinant)
                    c_xy += scale * rest * p1
                    c_yy += scale * (rest * p2 - eps * inverse_determinant)
                g_o += e_o
                h0, h1, h2 = 2.0 * (c_xx * u0 + c_xy * v0), 2.0 * (c_xx * u1 + c_xy * v1), 2.0 * (c_xx * u2 + c_xy * v2)
                i0, i1, i2 = 2.0 * (c_xy * u0 + c_yy * v0), 2.0 * (c_xy * u1 + c_yy * v1), 2.0 * (c_xy * u2 + c_yy * v2)
                # d loss / d (R S), then split into rotation and scale.
                n00, n01, n02 = a0 * h0 + b0 * i0, a0 * h1 + b0 * i1, a0 * h2 + b0 * i2
                n10, n11, n12 = a1 * h0 + b1 * i0, a1 * h1 + b1 * i1, a1 * h2 + b1 * i2
                n20, n21, n22 = a2 * h0 + b2 * i0, a2 * h1 + b2 * i1, a2 * h2 + b2 * i2
                g_s0 += q[0] * n00 + q[3] * n10 + q[6] * n20
                g_s1 += q[1] * n01 + q[4] * n11 + q[7] * n21
                g_s2 += q[2] * n02 + q[5] * n12 + q[8] * n22
                g0 += n00 * s0
                g1 += n01 * s1
                g2 += n02 * s2
                g3 += n10 * s0
                g4 += n11 * s1
                g5 += n12 * s2
                g6 += n20 * s0
                g7 += n21 * s1
                g8 += n22 * s2
                # d loss / d (J W), then d loss / d J.
                x0, x1, x2 = (
                    h0 * q[0] * s0 + h1 * q[1] * s1 + h2 * q[2] * s2,
                    h0 * q[3] * s0 + h1 * q[4] * s1 + h2 * q[5] * s2,
                    h0 * q[6] * s0 + h1 * q[7] * s1 + h2 * q[8] * s2,
                )
                y0, y1, y2 = (
                    i0 * q[0] * s0 + i1 * q[1] * s1 + i2 * q[2] * s2,
                    i0 * q[3] * s0 + i1 * q[4] * s1 + i2 * q[5] * s2,
                    i0 * q[6] * s0 + i1 * q[7] * s1 + i2 * q[8] * s2,
                )
                d00, d02 = x0 * r00 + x1 * r01 + x2 * r02, x0 * r20 + x1 * r21 + x2 * r22
                d11, d12 = y0 * r10 + y1 * r11 + y2 * r12, y0 * r20 + y1 * r21 + y2 * r22
                e_u, e_v = np.float64(v_means2d[f, g, 0]), np.float64(v_means2d[f, g, 1])
                rz2 = rz * rz
                c_x, c_y = fx * rz * e_u, fy * rz * e_v
                c_z = -(fx * x * e_u + fy * y * e_v) * rz2 - fx * rz2 * d00 - fy * rz2 * d11
                if low_x <= x * rz <= high_x:
                    c_x -= fx * rz2 * d02
                    c_z += 2.0 * fx * slope_x * rz2 * d02
                else:
                    c_z += fx * slope_x * rz2 * d02
                if low_y <= y * rz <= high_y:
                    c_y -= fy * rz2 * d12
                    c_z += 2.0 * fy * slope_y * rz2 * d12
                else:
                    c_z += fy * slope_y * rz2 * d12
                g_m0 += r00 * c_x + r10 * c_y + r20 * c_z
                g_m1 += r01 * c_x + r11 * c_y + r21 * c_z
                g_m2 += r02 * c_x + r12 * c_y + r22 * c_z
            v_opacities[b, g] = g_o
            v_means[b, g, 0], v_means[b, g, 1], v_means[b, g, 2] = g_m0, g_m1, g_m2
            v_scales[b, g, 0], v_scales[b, g, 1], v_scales[b, g, 2] = g_s0, g_s1, g_s2
            l_w = 2.0 * (qx * (g7 - g5) + qy * (g2 - g6) + qz * (g3 - g1))
            l_x = 2.0 * (-2.0 * qx * (g4 + g8) + qy * (g1 + g3) + qz * (g2 + g6) + qw * (g7 - g5))
            l_y = 2.0 * (qx * (g1 + g3) - 2.0 * qy * (g0 + g8) + qz * (g5 + g7) + qw * (g2 - g6))
            l_z = 2.0 * (qx * (g2 + g6) + qy * (g5 + g7) - 2.0 * qz * (g0 + g4) + qw * (g3 - g1))
            # Normalisation passes only what is orthogonal to the quaternion.
            along = l_w * qw + l_x * qx + l_y * qy + l_z * qz
            v_quats[b, g, 0] = (l_w - along * qw) * norm
            v_quats[b, g, 1] = (l_x - along * qx) * norm
            v_quats[b, g, 2] = (l_y - along * qy) * norm
            v_quats[b, g, 3] = (l_z - along * qz) * norm

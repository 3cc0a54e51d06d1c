"""Point distribution model (PDM): 68 points in 3D with linear modes of variation, weak perspective.

    x_i = s R_2D (xbar_i + Phi_i q) + t

(Baltrusaitis, Robinson and Morency 2013, "Constrained Local Neural Fields", equation 2; Saragih, Lucey and
Cohn 2011, "Deformable model fitting by regularized landmark mean-shift", equation 1.)

Axes are right-handed: x to the right, y down, z away from the camera, so that the tip of the nose has a
negative z. Angles are Euler angles in radians with ``R = Rx(rx) @ Ry(ry) @ Rz(rz)``, as in OpenFace: a
positive ry rotates the nose to the left of the image, a positive rx down, a positive rz the face clockwise.
The unit of length is 1/90 of the mean shape's inter-ocular distance, about a millimetre; s is in pixels per
unit.

Parameters are one float64 vector ``[s, rx, ry, rz, tx, ty, q_1 .. q_m]``, (6 + m,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.files.npz import read_npz
from napari_face_landmarks.jit import exact_kernel, kernel

Floats = npt.NDArray[np.float64]

N_RIGID = 6
CLAMP = 3.0  # limit of non-rigid parameters, standard deviations
LARGEST_FILE = 4 << 20
LARGEST_MODEL = (1024, 256)  # points, components
FEWEST_POINTS = 6
SMALLEST_SCALE = 1e-6
SMALLEST_EXTENT = 1e-3
"""Minimum extent of a mean shape along each axis."""
LARGEST_COORDINATE = 1e6  # px
MAX_ITERATIONS = 40  # Gauss-Newton steps of each stage of a fit


@dataclass(frozen=True)
class PDM:
    """A point distribution model."""

    mean: Floats  # (3, n); mean shape xbar: rows x, y, z
    components: Floats  # (3, n, m); modes of variation Phi, orthonormal over the first two axes
    eigenvalues: Floats  # (m,); variance of each parameter q over faces, descending, squared units

    @property
    def n_points(self) -> int:
        """Number of landmarks, n."""
        return int(self.mean.shape[1])

    @property
    def n_modes(self) -> int:
        """Number of non-rigid parameters, m."""
        return int(self.eigenvalues.shape[0])


def rotation_matrix(angles: Floats) -> Floats:
    """Return ``Rx(rx) @ Ry(ry) @ Rz(rz)``, (3, 3), for Euler angles ``(rx, ry, rz)`` in radians."""
    (s1, s2, s3), (c1, c2, c3) = np.sin(angles), np.cos(angles)
    return np.array(
        [
            [c2 * c3, -c2 * s3, s2],
            [c1 * s3 + c3 * s1 * s2, c1 * c3 - s1 * s2 * s3, -c2 * s1],
            [s1 * s3 - c1 * c3 * s2, c3 * s1 + c1 * s2 * s3, c1 * c2],
        ]
    )


def euler_angles(rotation: Floats) -> Floats:
    """Return the Euler angles ``(rx, ry, rz)``, (3,) radians, of a rotation matrix; ry is within +-pi/2."""
    sine = min(1.0, max(-1.0, float(rotation[0, 2])))
    if abs(sine) > 1.0 - 1e-12:  # gimbal lock: set rz to 0
        return np.array([np.arctan2(rotation[2, 1], rotation[1, 1]), np.arcsin(sine), 0.0])
    return np.array(
        [
            np.arctan2(-rotation[1, 2], rotation[2, 2]),
            np.arcsin(sine),
            np.arctan2(-rotation[0, 1], rotation[0, 0]),
        ]
    )


def shape_3d(pdm: PDM, q: Floats) -> Floats:
    """Return the shape ``xbar + Phi q``, (3, n) float64, for non-rigid parameters `q`, (m,)."""
    return np.asarray(pdm.mean + pdm.components @ q)


def project(pdm: PDM, params: Floats) -> Floats:
    """Project the PDM with parameters (6 + m,) to the image, (n, 2) float64, pixels, x then y."""
    shape = shape_3d(pdm, params[N_RIGID:])
    return np.asarray((params[0] * rotation_matrix(params[1:4])[:2] @ shape).T + params[4:6])


def clamp(pdm: PDM, params: Floats) -> Floats:
    """Clamp each q to 3 standard deviations, ``+-3 sqrt(eigenvalue)``; return new parameters."""
    clamped = np.array(params, dtype=np.float64)
    clamp_kernel(pdm.eigenvalues, clamped)
    return clamped


def fit_rigid(pdm: PDM, landmarks: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None) -> Floats:
    """Fit the pose of the mean shape to 2D landmarks in closed form, to initialise `fit_pdm`.

    Finds the least-squares affine camera, then the nearest scaled rotation. Arrays: `landmarks` (n, 2),
    pixels, x then y; `weights` (n,). Returns (6 + m,) float64.
    """
    target, weight = _checked_target(pdm, landmarks, weights)
    total = weight.sum()
    centre_2d = weight @ target / total
    centre_3d = pdm.mean @ weight / total
    flat = (target - centre_2d).T * weight
    solid = pdm.mean - centre_3d[:, None]
    spread = (solid * weight) @ solid.T
    spread += 1e-3 * np.trace(spread) / 3 * np.eye(3)  # coplanar points do not determine the depth
    try:
        left, size, right = np.linalg.svd(flat @ solid.T @ np.linalg.inv(spread), full_matrices=False)
    except np.linalg.LinAlgError:
        raise ModelError("The mean shape of the PDM has no extent: use another model.") from None
    scale = float(size.mean())
    if not scale > SMALLEST_SCALE:
        raise ModelError("The landmarks to fit all coincide: give the landmarks of a whole face.")
    rows = left @ right
    rotation = np.vstack([rows, np.cross(rows[0], rows[1])])
    shift = centre_2d - scale * rows @ centre_3d
    return np.concatenate([[scale], euler_angles(rotation), shift, np.zeros(pdm.n_modes)])


def fit_pdm(
    pdm: PDM,
    landmarks: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None = None,
    params: Floats | None = None,
    *,
    noise: float = 1.0,
) -> Floats:
    """Fit the PDM to 2D landmarks by regularised Gauss-Newton, first the pose, then all parameters.

    Minimises ``sum_i w_i |x_i(p) - y_i|^2 / (s noise)^2 + sum_j q_j^2 / lambda_j``. Arrays: `landmarks`
    (n, 2), pixels, x then y, ignored if not finite; `weights` (n,), default 1; initial `params` (6 + m,),
    such as those of the previous frame, default `fit_rigid`. `noise` is the standard deviation of the
    landmarks in units of the PDM; larger values regularise more. Returns (6 + m,) float64, always finite,
    with q within 3 standard deviations. Raises a `ModelError` if fewer than six landmarks are usable, or all
    coincide.
    """
    target, weight = _checked_target(pdm, landmarks, weights)
    start = params
    if start is None or not np.isfinite(start).all() or start[0] <= SMALLEST_SCALE:
        start = fit_rigid(pdm, target, weight)
    fitted = np.array(start, dtype=np.float64)
    shape = pdm.mean, pdm.components, pdm.eigenvalues
    _fit_from(*shape, target, weight, False, noise, fitted)
    return fitted


def fit_pdm_again(
    pdm: PDM, landmarks: npt.NDArray[Any], sigma: npt.NDArray[Any], params: Floats
) -> Floats | None:
    """Fit the PDM like `fit_pdm` with `sigma_weights`, in one compiled call; None if inputs are not usable.

    Arrays: `landmarks` (n, 2) and `sigma` (n,), pixels; initial `params` (6 + m,). Returns (6 + m,) or None.
    """
    target, spread = np.array(landmarks, dtype=np.float64, order="C"), np.asarray(sigma, dtype=np.float64)
    n, m = pdm.n_points, pdm.n_modes
    if target.shape != (n, 2) or spread.shape != (n,) or params.shape != (N_RIGID + m,):
        return None
    fitted = params.copy()
    shape = pdm.mean, pdm.components, pdm.eigenvalues
    known = _fit_from(*shape, target, spread, True, 1.0, fitted)
    return fitted if known else None


@exact_kernel
def _fit_from(
    mean: Floats,
    components: Floats,
    eigenvalues: Floats,
    target: Floats,
    given: Floats,
    by_sigma: bool,
    noise: float,
    params: Floats,
) -> bool:
    """Fit `params` in place; False if too few landmarks are usable or the initial parameters are not.

    `given` are the weights of the landmarks, or their sigmas if `by_sigma`.
    """
    weight = sigma_weights(given) if by_sigma else given.copy()
    known = _clear_unusable(target, weight) >= FEWEST_POINTS and params[0] > SMALLEST_SCALE
    for value in params:
        known = known and math.isfinite(value)
    if known:
        fitted = _fit_kernel(mean, components, eigenvalues, target, weight, params, noise)
        for j in range(len(params)):
            params[j] = fitted[j]
    return known


def save_pdm(path: str | Path, pdm: PDM) -> None:
    """Write the PDM as an ``.npz`` file of float64 arrays.

    ``mean`` (3 n,): all x, all y, all z; ``components`` (3 n, m); ``eigenvalues`` (m,).
    """
    n, m = pdm.n_points, pdm.n_modes
    np.savez_compressed(
        path,
        mean=np.asarray(pdm.mean, dtype=np.float64).reshape(3 * n),
        components=np.asarray(pdm.components, dtype=np.float64).reshape(3 * n, m),
        eigenvalues=np.asarray(pdm.eigenvalues, dtype=np.float64),
    )


def load_pdm(path: str | Path) -> PDM:
    """Read a PDM written by `save_pdm`; float64 or float32."""
    n, m = LARGEST_MODEL
    arrays = read_npz(path, {"mean": (3 * n,), "components": (3 * n, m), "eigenvalues": (m,)}, LARGEST_FILE)
    mean, components, eigenvalues = arrays["mean"], arrays["components"], arrays["eigenvalues"]
    if (
        mean.size % 3
        or mean.size < 3 * FEWEST_POINTS
        or components.shape != (mean.size, eigenvalues.size)
        or eigenvalues.size < 1
    ):
        raise _malformed(
            path,
            f"the shapes of mean {mean.shape}, components {components.shape} and eigenvalues "
            f"{eigenvalues.shape} do not match",
        )
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise _malformed(path, f"{name} has values that are not finite numbers")
    if (eigenvalues <= 0).any() or (np.diff(eigenvalues) > 0).any():
        raise _malformed(path, "the eigenvalues are not positive and descending")
    if not (np.ptp(mean.reshape(3, -1), axis=1) > SMALLEST_EXTENT).all():
        raise _malformed(path, "the mean shape has no extent")
    return PDM(
        mean=np.ascontiguousarray(mean.reshape(3, -1), dtype=np.float64),
        components=np.ascontiguousarray(components.reshape(3, mean.size // 3, -1), dtype=np.float64),
        eigenvalues=np.ascontiguousarray(eigenvalues, dtype=np.float64),
    )


def _malformed(path: str | Path, reason: str) -> ModelError:
    return ModelError(f"{path} is not a valid point distribution model ({reason}): install the models again.")


def _checked_target(
    pdm: PDM, landmarks: npt.NDArray[Any], weights: npt.NDArray[Any] | None
) -> tuple[Floats, Floats]:
    target = np.array(landmarks, dtype=np.float64, order="C")
    weight = np.ones(pdm.n_points) if weights is None else np.array(weights, dtype=np.float64)
    if target.shape != (pdm.n_points, 2) or weight.shape != (pdm.n_points,):
        raise ModelError(
            f"Landmarks {target.shape} or weights {weight.shape} do not fit a PDM of {pdm.n_points} points: "
            f"give ({pdm.n_points}, 2) and ({pdm.n_points},)."
        )
    usable = _clear_unusable(target, weight)
    if usable < FEWEST_POINTS:
        raise ModelError(f"Only {usable} landmarks are usable: a fit needs at least {FEWEST_POINTS}.")
    return target, weight


@exact_kernel
def _clear_unusable(target: Floats, weight: Floats) -> int:
    """Set unusable landmarks, (n, 2), and their weights, (n,), to 0; return the number of usable ones."""
    usable = 0
    for i in range(len(weight)):
        known = abs(target[i, 0]) < LARGEST_COORDINATE and abs(target[i, 1]) < LARGEST_COORDINATE
        if known and math.isfinite(weight[i]) and weight[i] > 0:
            usable += 1
        else:
            target[i, 0] = target[i, 1] = weight[i] = 0.0
    return usable


@exact_kernel
def sigma_weights(sigma: npt.NDArray[np.floating]) -> Floats:
    """Return the weights of landmarks in a fit, (n,), from their standard deviations, (n,).

    ``2 median / (variance + median)`` with the median of the variances: from 2 to 0, and 1 at the median.
    """
    variance, ordered = np.empty(len(sigma)), np.empty(len(sigma))
    for i in range(len(sigma)):
        variance[i] = float(sigma[i]) ** 2
        j = i
        while j > 0 and not ordered[j - 1] <= variance[i]:
            ordered[j] = ordered[j - 1]
            j -= 1
        ordered[j] = variance[i]
    typical = max((ordered[(len(sigma) - 1) // 2] + ordered[len(sigma) // 2]) / 2, 1e-6)
    for i in range(len(sigma)):
        variance[i] = 2.0 * typical / (variance[i] + typical)
    return variance


@exact_kernel
def rotation_kernel(rx: float, ry: float, rz: float) -> Floats:
    """Compiled `rotation_matrix`, callable from other kernels."""
    s1, s2, s3 = np.sin(rx), np.sin(ry), np.sin(rz)
    c1, c2, c3 = np.cos(rx), np.cos(ry), np.cos(rz)
    rotation = np.empty((3, 3))
    rotation[0, 0], rotation[0, 1], rotation[0, 2] = c2 * c3, -c2 * s3, s2
    rotation[1, 0], rotation[1, 1], rotation[1, 2] = c1 * s3 + c3 * s1 * s2, c1 * c3 - s1 * s2 * s3, -c2 * s1
    rotation[2, 0], rotation[2, 1], rotation[2, 2] = s1 * s3 - c1 * c3 * s2, c3 * s1 + c1 * s2 * s3, c1 * c2
    return rotation


@kernel
def project_kernel(mean: Floats, components: Floats, params: Floats, shape: Floats, points: Floats) -> None:
    """Compiled `project`: fills the 3D shape, (3, n), and the projection, (2, n): all x, all y."""
    n, m = components.shape[1], components.shape[2]
    rotation = rotation_kernel(params[1], params[2], params[3])
    for i in range(n):
        for axis in range(3):
            total = mean[axis, i]
            for k in range(m):
                total += components[axis, i, k] * params[6 + k]
            shape[axis, i] = total
    for i in range(n):
        for axis in range(2):
            rotated = (
                rotation[axis, 0] * shape[0, i]
                + rotation[axis, 1] * shape[1, i]
                + rotation[axis, 2] * shape[2, i]
            )
            points[axis, i] = params[0] * rotated + params[4 + axis]


@kernel
def jacobian_kernel(components: Floats, params: Floats, shape: Floats, rigid: bool, slope: Floats) -> None:
    """Compiled `reference.jacobian`: fills the first 6 or all columns of `slope`, (2 n, 6 + m)."""
    n, m = components.shape[1], components.shape[2]
    scale = params[0]
    rotation = rotation_kernel(params[1], params[2], params[3])
    for axis in range(2):
        a, b, c = rotation[axis, 0], rotation[axis, 1], rotation[axis, 2]
        for i in range(n):
            row = slope[axis * n + i]
            x, y, z = shape[0, i], shape[1, i], shape[2, i]
            row[0] = a * x + b * y + c * z
            row[1] = scale * (c * y - b * z)
            row[2] = scale * (a * z - c * x)
            row[3] = scale * (b * x - a * y)
            row[4] = 1.0 - axis
            row[5] = 1.0 * axis
            if not rigid:
                for k in range(m):
                    row[6 + k] = scale * (
                        a * components[0, i, k] + b * components[1, i, k] + c * components[2, i, k]
                    )


@kernel
def normal_equations_kernel(
    slope: Floats, weight: Floats, error: Floats, count: int, hessian: Floats, right: Floats
) -> None:
    """Fill the upper triangle of ``J'WJ`` and ``J'W e`` for the first `count` parameters.

    `slope` is (2 n, 6 + m), `weight` (n,), `error` (2, n).
    """
    n = weight.shape[0]
    for a in range(count):
        right[a] = 0.0
        for b in range(a, count):
            hessian[a, b] = 0.0
    for first in range(0, 2 * n, 4):  # four rows at a time, for fewer reads and writes of the sums
        i, j, k = first, min(first + 1, 2 * n - 1), min(first + 2, 2 * n - 1)
        last = min(first + 3, 2 * n - 1)
        w0 = weight[i % n]
        w1 = weight[j % n] if first + 1 < 2 * n else 0.0
        w2 = weight[k % n] if first + 2 < 2 * n else 0.0
        w3 = weight[last % n] if first + 3 < 2 * n else 0.0
        e0, e1 = w0 * error[i // n, i % n], w1 * error[j // n, j % n]
        e2, e3 = w2 * error[k // n, k % n], w3 * error[last // n, last % n]
        for a in range(count):
            s0, s1, s2, s3 = slope[i, a], slope[j, a], slope[k, a], slope[last, a]
            right[a] += e0 * s0 + e1 * s1 + e2 * s2 + e3 * s3
            s0, s1, s2, s3 = w0 * s0, w1 * s1, w2 * s2, w3 * s3
            for b in range(a, count):
                hessian[a, b] += s0 * slope[i, b] + s1 * slope[j, b] + s2 * slope[k, b] + s3 * slope[last, b]


@kernel
def solve_kernel(hessian: Floats, right: Floats, count: int) -> bool:
    """Solve a symmetric system in place by Cholesky decomposition; False if not positive definite.

    Reads the upper triangle of the first `count` rows; the solution replaces `right`.
    """
    for a in range(count):
        pivot = hessian[a, a]
        if not pivot > 0.0:
            return False
        pivot = np.sqrt(pivot)
        for b in range(a, count):
            hessian[a, b] /= pivot
        for c in range(a + 1, count):
            factor = hessian[a, c]
            for b in range(c, count):
                hessian[c, b] -= factor * hessian[a, b]
    for a in range(count):
        right[a] /= hessian[a, a]
        for b in range(a + 1, count):
            right[b] -= hessian[a, b] * right[a]
    for a in range(count - 1, -1, -1):
        for b in range(a + 1, count):
            right[a] -= hessian[a, b] * right[b]
        right[a] /= hessian[a, a]
    return True


@exact_kernel
def clamp_kernel(eigenvalues: Floats, params: Floats) -> None:
    """Compiled `clamp`, in place."""
    for k in range(len(eigenvalues)):
        limit = CLAMP * np.sqrt(eigenvalues[k])
        if params[N_RIGID + k] > limit:  # NaN is kept
            params[N_RIGID + k] = limit
        elif params[N_RIGID + k] < -limit:
            params[N_RIGID + k] = -limit


@exact_kernel
def update_kernel(eigenvalues: Floats, params: Floats, delta: Floats, count: int, updated: Floats) -> None:
    """Compiled `reference.update` for a step of the first `count` parameters; fills `updated`.

    The small rotation is orthonormalised in closed form: ``I + [w]_x`` has the polar factor
    ``c I + (1 - c) u u' + (sin) [u]_x`` of angle atan(|w|) about u = w / |w|.
    """
    for k in range(params.shape[0]):
        updated[k] = params[k]
    updated[0] = max(params[0] + delta[0], SMALLEST_SCALE)
    wx, wy, wz = delta[1], delta[2], delta[3]
    length = np.sqrt(wx * wx + wy * wy + wz * wz)
    if length > 0.0:
        x, y, z = wx / length, wy / length, wz / length
        c = 1.0 / np.sqrt(1.0 + length * length)
        s = length * c
        small = np.empty((3, 3))
        small[0, 0] = c + (1 - c) * x * x
        small[0, 1] = (1 - c) * x * y - s * z
        small[0, 2] = (1 - c) * x * z + s * y
        small[1, 0] = (1 - c) * x * y + s * z
        small[1, 1] = c + (1 - c) * y * y
        small[1, 2] = (1 - c) * y * z - s * x
        small[2, 0] = (1 - c) * x * z - s * y
        small[2, 1] = (1 - c) * y * z + s * x
        small[2, 2] = c + (1 - c) * z * z
        before = rotation_kernel(params[1], params[2], params[3])
        rotated = np.zeros((3, 3))
        for a in range(3):
            for b in range(3):
                for k in range(3):
                    rotated[a, b] += before[a, k] * small[k, b]
        sine = min(1.0, max(-1.0, rotated[0, 2]))
        updated[2] = np.arcsin(sine)
        if abs(sine) > 1.0 - 1e-12:
            updated[1] = np.arctan2(rotated[2, 1], rotated[1, 1])
            updated[3] = 0.0
        else:
            updated[1] = np.arctan2(-rotated[1, 2], rotated[2, 2])
            updated[3] = np.arctan2(-rotated[0, 1], rotated[0, 0])
    for k in range(4, count):
        updated[k] = params[k] + delta[k]
    clamp_kernel(eigenvalues, updated)


@exact_kernel
def _fit_kernel(
    mean: Floats,
    components: Floats,
    eigenvalues: Floats,
    target: Floats,
    weight: Floats,
    start: Floats,
    noise: float,
) -> Floats:
    n, m = components.shape[1], components.shape[2]
    params, moved = start.copy(), start.copy()
    clamp_kernel(eigenvalues, params)
    shape, shape_moved = np.empty((3, n)), np.empty((3, n))
    points, points_moved = np.empty((2, n)), np.empty((2, n))
    error = np.empty((2, n))
    slope = np.empty((2 * n, N_RIGID + m))
    hessian, step = np.empty((N_RIGID + m, N_RIGID + m)), np.empty(N_RIGID + m)
    project_kernel(mean, components, params, shape, points)
    for stage in range(2):
        rigid = stage == 0
        count = N_RIGID if rigid else N_RIGID + m
        for _ in range(MAX_ITERATIONS):
            precision = 1.0 / (params[0] * noise) ** 2
            before = 0.0
            for axis in range(2):
                for i in range(n):
                    error[axis, i] = target[i, axis] - points[axis, i]
                    before += weight[i] * error[axis, i] ** 2 * precision
            jacobian_kernel(components, params, shape, rigid, slope)
            normal_equations_kernel(slope, weight, error, count, hessian, step)
            for a in range(count):
                step[a] *= precision
                for b in range(a, count):
                    hessian[a, b] *= precision
            for k in range(m):
                before += params[6 + k] ** 2 / eigenvalues[k]
                if not rigid:
                    hessian[6 + k, 6 + k] += 1.0 / eigenvalues[k]
                    step[6 + k] -= params[6 + k] / eigenvalues[k]
            if not solve_kernel(hessian, step, count):
                break
            update_kernel(eigenvalues, params, step, count, moved)
            project_kernel(mean, components, moved, shape_moved, points_moved)
            after, motion = 0.0, 0.0
            for axis in range(2):
                for i in range(n):
                    after += weight[i] * (target[i, axis] - points_moved[axis, i]) ** 2 * precision
                    motion = max(motion, abs(points_moved[axis, i] - points[axis, i]))
            for k in range(m):
                after += moved[6 + k] ** 2 / eigenvalues[k]
            if not after < before:
                break
            params, moved = moved, params
            shape, shape_moved = shape_moved, shape
            points, points_moved = points_moved, points
            if motion < 0.01 * params[0]:
                break
    return params

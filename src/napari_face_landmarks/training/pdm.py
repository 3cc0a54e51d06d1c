"""Train the PDM: ``python -m napari_face_landmarks.training pdm --data FOLDER --out FOLDER``.

The labels are two-dimensional, the model is three-dimensional. The depth is initialised from face meshes by
generalised Procrustes alignment. Mean and components are then refined by non-rigid structure from motion: EM
for a probabilistic PCA under the poses of the faces (Torresani, Hertzmann and Bregler 2008), with labels as
precise and the depth of meshes as imprecise measurements. Mirror images are included.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from napari_face_landmarks.clnf.pdm import PDM, euler_angles, fit_pdm, project, rotation_matrix, save_pdm
from napari_face_landmarks.ibug import MIRROR_68, OUTER_EYES, inter_ocular, nme
from napari_face_landmarks.training.augment import displaced, soft_tissue_bumps
from napari_face_landmarks.training.faces import NO_MESH, load_faces
from napari_face_landmarks.training.labels import MESH_68
from napari_face_landmarks.training.log import add_options, write_json

Floats = npt.NDArray[np.float64]

OUTER_EYE_DISTANCE = 90.0
JAW = np.arange(17)
INNER = np.arange(17, 68)


@dataclass(frozen=True)
class PdmPlan:
    """Parameters of a training run; lengths are in units of the PDM (outer eye corners 90 apart)."""

    modes: int = 34  # components kept, m
    rounds: int = 25  # rounds of expectation maximisation
    noise: float = 1.0  # standard deviation of a label
    depth_noise: float = 6.0  # standard deviation of the depth of meshes at inner landmarks
    jaw_depth_noise: float = 10.0  # the same at the jaw, whose labels follow the visible contour
    jaw_yaw: float = 15.0  # largest yaw, degrees, at which the depth of the jaw is used
    # weight of copies with weak muscles or strong expressions, for modes of asymmetry; 0 for no copies
    weakness_share: float = 0.3
    seed: int = 2026  # random seed of these copies


@dataclass(frozen=True)
class Observations:
    """F observed faces."""

    points: Floats  # (F, 3, 68); labelled x and y, and the mesh's depth (z away from the camera); pixels
    has_depth: npt.NDArray[np.bool_]  # (F,)
    weight: Floats  # (F,); weight of each face


def observe(landmarks: npt.NDArray[Any], mesh: npt.NDArray[Any], plan: PdmPlan) -> Observations:
    """Return the faces, copies of them with weak muscles, and mirror images of all."""
    depth = mesh[:, MESH_68, 2].astype(np.float64)
    has_depth = depth.min(axis=1) > NO_MESH / 2
    depth[~has_depth] = 0.0
    flat = landmarks.astype(np.float64)
    weight = np.ones(len(flat))
    if plan.weakness_share > 0:
        rng = np.random.default_rng(plan.seed)
        weak = [displaced(points, soft_tissue_bumps(points, rng)) for points in landmarks]
        flat = np.concatenate([flat, np.asarray(weak, dtype=np.float64)])
        depth, has_depth = np.concatenate([depth, depth]), np.concatenate([has_depth, has_depth])
        weight = np.concatenate([weight, np.full(len(weak), plan.weakness_share)])
    points = np.concatenate([flat.transpose(0, 2, 1), depth[:, None]], axis=1)
    mirrored = points[:, :, MIRROR_68] * np.array([[-1.0], [1.0], [1.0]])
    return Observations(
        np.concatenate([points, mirrored]),
        np.concatenate([has_depth, has_depth]),
        np.concatenate([weight, weight]),
    )


def align(shape: Floats, target: Floats, chosen: npt.NDArray[np.int64] = INNER) -> tuple[float, Floats]:
    """Return scale and rotation that align the points `chosen` of `shape` with `target`, both (3, n)."""
    a = shape[:, chosen] - shape[:, chosen].mean(axis=1, keepdims=True)
    b = target[:, chosen] - target[:, chosen].mean(axis=1, keepdims=True)
    left, size, right = np.linalg.svd(b @ a.T)
    turn = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return float((size * turn).sum() / (a * a).sum()), (left * turn) @ right


def lifted_model(observations: Observations, modes: int) -> tuple[PDM, Floats]:
    """Return the PDM of faces with depth by generalised Procrustes analysis, and parameters of all."""
    faces = observations.points[observations.has_depth]
    weight = observations.weight[observations.has_depth]
    mean = standardised(faces[np.argmin(np.abs(faces[:, 2, 36] - faces[:, 2, 45]))])
    for _ in range(10):
        aligned = np.empty_like(faces)
        for i, face in enumerate(faces):
            scale, rotation = align(face, mean)
            aligned[i] = scale * rotation @ (face - face[:, INNER].mean(axis=1, keepdims=True))
        mean = standardised(np.average(aligned, axis=0, weights=weight))
    difference = (aligned - np.average(aligned, axis=0, weights=weight)).reshape(len(faces), -1)
    covariance = (difference * weight[:, None]).T @ difference / weight.sum()
    model = pdm_of_covariance(mean, covariance, modes)
    params = np.zeros((len(observations.points), 6 + modes))
    for i, face in enumerate(observations.points):
        scale, rotation = align(mean, face) if observations.has_depth[i] else (1.0, np.eye(3))
        params[i, 0] = scale
        params[i, 1:4] = euler_angles(rotation)
        params[i, 4:6] = (face - scale * rotation @ mean)[:2, INNER].mean(axis=1)
        if not observations.has_depth[i]:
            params[i] = fit_pdm(model, face[:2].T)
    return model, params


def standardised(mean: Floats) -> Floats:
    """Return a shape centred, symmetric about x = 0, with outer eye corners 90 apart; pitch is kept."""
    mirrored = mean[:, MIRROR_68] * np.array([[-1.0], [1.0], [1.0]])
    _, rotation = align(mirrored, mean, np.arange(68))
    centred = mean - mean.mean(axis=1, keepdims=True)
    # half the rotation from the mirror image to the shape makes x = 0 the plane of symmetry
    half = _half_rotation(rotation)
    upright = half.T @ centred
    mirrored = upright[:, MIRROR_68] * np.array([[-1.0], [1.0], [1.0]])
    symmetric = (upright + mirrored) / 2
    return np.asarray(symmetric * OUTER_EYE_DISTANCE / _outer_eye_distance(symmetric))


def _half_rotation(rotation: Floats) -> Floats:
    values, vectors = np.linalg.eig(rotation)
    return np.real(vectors @ np.diag(np.sqrt(values.astype(np.complex128))) @ np.linalg.inv(vectors))


def _outer_eye_distance(shape: Floats) -> float:
    return float(np.linalg.norm(shape[:, OUTER_EYES[0]] - shape[:, OUTER_EYES[1]]))


def pdm_of_covariance(mean: Floats, covariance: Floats, modes: int) -> PDM:
    """Return the PDM of a covariance (204, 204) that is made symmetric and free of rigid motion and scale."""
    n = mean.shape[1]
    mirror = (np.arange(3)[:, None] * n + MIRROR_68[None]).ravel()
    sign = np.repeat([-1.0, 1.0, 1.0], n)
    covariance = (covariance + (covariance[mirror][:, mirror] * sign) * sign[:, None]) / 2
    x, y, z = mean
    nought, one = np.zeros(n), np.ones(n)
    rigid = np.array(
        [
            [one, nought, nought],
            [nought, one, nought],
            [nought, nought, one],
            [nought, -z, y],
            [z, nought, -x],
            [-y, x, nought],
            [x, y, z],
        ]
    ).reshape(7, 3 * n)
    basis = np.linalg.qr(rigid.T)[0]
    keep = np.eye(3 * n) - basis @ basis.T
    values, vectors = np.linalg.eigh(keep @ covariance @ keep)
    order = np.argsort(values)[::-1][:modes]
    return PDM(
        mean=np.ascontiguousarray(mean),
        components=np.ascontiguousarray(vectors[:, order].reshape(3, n, modes)),
        eigenvalues=np.maximum(values[order], 1e-6),
    )


def expectation_maximisation(
    pdm: PDM, params: Floats, observations: Observations, plan: PdmPlan
) -> tuple[PDM, Floats]:
    """Run one EM round; return the new model and the faces' parameters under the old one, (F, 6 + m)."""
    m, n_faces = pdm.n_modes, len(observations.points)
    params = np.stack(
        [
            fit_pdm(pdm, face[:2].T, params=start, noise=plan.noise)
            for face, start in zip(observations.points, params, strict=True)
        ]
    )
    rotation = np.stack([rotation_matrix(p[1:4]) for p in params])
    points = observations.points.copy()
    points[:, :2] -= params[:, 4:6, None]
    points /= params[:, :1, None]  # camera frame, units of the shape

    precision = np.full((n_faces, 3, 68), plan.noise**-2)  # of each measured coordinate
    precision[:, 2, INNER] = plan.depth_noise**-2
    precision[:, 2, JAW] = plan.jaw_depth_noise**-2
    precision[~observations.has_depth, 2] = 0.0
    turned = np.abs(params[:, 2]) > np.radians(plan.jaw_yaw)
    precision[turned, 2, : len(JAW)] = 0.0

    # the depth of a mesh has no origin: align it with the current fit
    fitted = pdm.mean[None] + np.einsum("aik,fk->fai", pdm.components, params[:, 6:])
    depth = np.einsum("fa,fai->fi", rotation[:, 2], fitted)
    offset = (precision[:, 2] * (points[:, 2] - depth)).sum(1) / np.maximum(precision[:, 2].sum(1), 1e-12)
    points[:, 2] -= offset[:, None]

    q_mean = np.empty((n_faces, m))
    q_second = np.empty((n_faces, m, m))
    for part in np.array_split(np.arange(n_faces), max(1, n_faces // 250)):
        basis = np.einsum("fab,bik->faik", rotation[part], pdm.components).reshape(len(part), 204, m)
        error = (points[part] - np.einsum("fab,bi->fai", rotation[part], pdm.mean)).reshape(len(part), 204)
        weighted = basis * precision[part].reshape(len(part), 204, 1)
        inverse = np.linalg.inv(weighted.transpose(0, 2, 1) @ basis + np.diag(1 / pdm.eigenvalues))
        q_mean[part] = np.einsum("fkl,fil,fi->fk", inverse, weighted, error, optimize=True)
        q_second[part] = inverse + q_mean[part, :, None] * q_mean[part, None, :]

    mean, components = _maximise(pdm, points, rotation, precision, q_mean, q_second, observations.weight)
    weight = observations.weight / observations.weight.sum()
    centre = weight @ q_mean
    mean = mean + components @ centre
    second = np.einsum("f,fkl->kl", weight, q_second) - np.outer(centre, centre)
    flat = components.reshape(204, m)
    size = OUTER_EYE_DISTANCE / _outer_eye_distance(mean)
    return pdm_of_covariance(standardised(mean), size**2 * flat @ second @ flat.T, m), params


def _maximise(
    pdm: PDM,
    points: Floats,
    rotation: Floats,
    precision: Floats,
    q_mean: Floats,
    q_second: Floats,
    weight: Floats,
) -> tuple[Floats, Floats]:
    """Return mean and components of maximum likelihood, solved for each group of landmarks."""
    m, n_faces = pdm.n_modes, len(points)
    one_q = np.concatenate([np.ones((n_faces, 1)), q_mean], axis=1)
    second = np.empty((n_faces, m + 1, m + 1))
    second[:, 0, 0] = 1.0
    second[:, 0, 1:] = second[:, 1:, 0] = q_mean
    second[:, 1:, 1:] = q_second
    present = np.concatenate([pdm.mean[:, :, None], pdm.components], axis=2)
    solution = np.empty((3, 68, m + 1))
    prior = 0.02 * weight.sum()  # towards the current model, for coordinates without measurements
    for group in (JAW, INNER):
        measured = precision[:, :, group[0]] * weight[:, None]
        gram = np.einsum("fca,fc,fcb->fab", rotation, measured, rotation)
        normal = gram.reshape(n_faces, 9).T @ second.reshape(n_faces, -1)
        normal = normal.reshape(3, 3, m + 1, m + 1).transpose(0, 2, 1, 3).reshape(3 * (m + 1), -1)
        back = np.einsum("fca,fc,fci->fai", rotation, measured, points[:, :, group], optimize=True)
        right = np.einsum("fai,fk->aki", back, one_q, optimize=True).reshape(3 * (m + 1), len(group))
        ridge = prior * np.tile(np.concatenate([[1.0], pdm.eigenvalues]), 3) * 1e-2
        before = present[:, group].transpose(0, 2, 1).reshape(3 * (m + 1), len(group))
        solved = np.linalg.solve(normal + np.diag(ridge), right + ridge[:, None] * before)
        solution[:, group] = solved.reshape(3, m + 1, len(group)).transpose(0, 2, 1)
    return solution[:, :, 0], solution[:, :, 1:]


def truncated(pdm: PDM, modes: int) -> PDM:
    """Return the model with only the first `modes` components."""
    return PDM(pdm.mean, np.ascontiguousarray(pdm.components[:, :, :modes]), pdm.eigenvalues[:modes].copy())


def residual(pdm: PDM, landmarks: npt.NDArray[Any], noise: float = 1.0) -> Floats:
    """Return the NME of the best fit of the model to each face, (N,)."""
    fitted = np.stack([project(pdm, fit_pdm(pdm, points, noise=noise)) for points in landmarks])
    return nme(fitted, landmarks)


def train_pdm(data: Path, out: Path, bundle: str = "research", plan: PdmPlan | None = None) -> dict[str, Any]:
    """Train the PDM; write ``pdm.npz`` and ``pdm.metrics.json``, return the metrics on the held-out faces."""
    plan = plan or PdmPlan()
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    faces = load_faces(data, bundle=bundle, held_out=False, machine_made=False)
    held_out = load_faces(data, bundle=bundle, held_out=True)
    observations = observe(faces.landmarks, faces.mesh, plan)
    pdm, params = lifted_model(observations, plan.modes)
    bar = tqdm(range(plan.rounds), desc="pdm", unit="round")
    for number in bar:
        pdm, params = expectation_maximisation(pdm, params, observations, plan)
        params[:, 6:] = 0.0  # the components have changed: only the poses initialise the next round
        if number % 5 == 4:
            bar.set_postfix(held_out=f"{100 * residual(pdm, held_out.landmarks).mean():.2f} %")
    save_pdm(out / "pdm.npz", pdm)
    rng = np.random.default_rng(plan.seed + 1)
    weak = np.stack([displaced(points, soft_tissue_bumps(points, rng)) for points in held_out.landmarks])
    counts = sorted({*range(10, plan.modes, 6), plan.modes})
    errors = {m: residual(truncated(pdm, m), held_out.landmarks) for m in counts}
    yaw = np.degrees([fit_pdm(pdm, points)[2] for points in held_out.landmarks])
    metrics = {
        "bundle": bundle,
        "faces": len(faces.names),
        "held_out_faces": len(held_out.names),
        "seconds": time.monotonic() - start,
        "plan": asdict(plan),
        "held_out_residual_nme": float(errors[plan.modes].mean()),
        "held_out_residual_nme_by_modes": {str(m): float(error.mean()) for m, error in errors.items()},
        "held_out_residual_nme_turned": float(errors[plan.modes][np.abs(yaw) > 20].mean()),
        "held_out_residual_nme_weakness": float(residual(pdm, weak).mean()),
        "held_out_outer_eye_px": float(inter_ocular(held_out.landmarks).mean()),
    }
    write_json(out / "pdm.metrics.json", metrics)
    return metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    add_options(parser, PdmPlan(), modes="components", rounds="EM rounds", seed="seed")


def run(args: argparse.Namespace) -> None:
    """Run this step of the training."""
    plan = PdmPlan(modes=args.modes, rounds=args.rounds, seed=args.seed)
    print(json.dumps(train_pdm(args.data, args.out, args.bundle, plan), indent=2))

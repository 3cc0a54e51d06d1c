"""Covariance of landmark errors, for the standard errors of measures.

The step ``python -m napari_face_landmarks.training errors`` measures it on held-out faces: second moments of
(predicted - labelled) / sigma along the axes of the face, mirror images included. Since errors have heavier
tails than a normal distribution, each measure also has a factor, which is checked on faces of other persons.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.evaluation.boxes import jittered_box
from napari_face_landmarks.evaluation.measures_report import error_ratios, measured_values
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.ibug import MIRROR_68, N_LANDMARKS
from napari_face_landmarks.measures import face_axes
from napari_face_landmarks.measures.uncertainty import ERRORS_FILE, with_irises
from napari_face_landmarks.models import Models, load_models
from napari_face_landmarks.priority import cores
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.training.faces import Faces, Pictures, load_measured

Floats = npt.NDArray[np.float64]
Factors = Mapping[str, float]
Shares = tuple[float, float]

MOST_OF_A_FILE, MOST_OF_A_PERSON = 150, 6
"""Largest numbers of faces from one file and of one person, so that none outweighs the others."""
INNER, OUTER = 0.73, 0.915
"""Least shares of a measure's errors within one and two standard errors, which determine its factor. A normal
distribution has 0.683 and 0.954; `INNER` is larger, since manual labels differ by more."""
ONE, TWO = (0.60, 0.76), 0.90
"""Accepted range of the share of errors within one standard error, and least share within two."""


@dataclass(frozen=True)
class Found:
    """Predicted landmarks, (N, 68, 2) pixels, their sigma, (N, 68), and the labels, (N, 68, 2)."""

    landmarks: Floats
    sigma: Floats
    labels: Floats

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Found:
        """Return the faces where `chosen`, (N,), is True."""
        return Found(self.landmarks[chosen], self.sigma[chosen], self.labels[chosen])


def pictures_of(faces: Faces) -> Pictures:
    """Return the images of faces loaded from training data, with the arrays of their files."""
    assert isinstance(faces.images, Pictures)
    return faces.images


def people_of(faces: Faces) -> list[str]:
    """Return the person of each face, or the part before the last underscore of the image's name."""
    return [
        str(arrays["person"][place]) if "person" in arrays else name.rsplit("_", 1)[0]
        for name, (arrays, place) in zip(faces.names, pictures_of(faces).places, strict=True)
    ]


def chosen_faces(faces: Faces, seed: int = 3) -> list[int]:
    """Choose faces at random, at most `MOST_OF_A_PERSON` and `MOST_OF_A_FILE`; return their rows."""
    files, people = [id(arrays) for arrays, _ in pictures_of(faces).places], people_of(faces)
    counts: Counter[object] = Counter()
    chosen = []
    for row in np.random.default_rng(seed).permutation(len(people)).tolist():
        keys = (files[row], (files[row], people[row]))
        if counts[keys[0]] < MOST_OF_A_FILE and counts[keys[1]] < MOST_OF_A_PERSON:
            counts.update(keys)
            chosen.append(row)
    return sorted(chosen)


def fitted(
    faces: Faces, rows: Sequence[int], models: Models, threads: int
) -> tuple[Found, npt.NDArray[np.bool_]]:
    """Fit the faces `rows` as the tracker does; return the successful fits, and which of `rows` succeeded."""
    tracker = FaceTracker(models, TrackerSettings())
    tracker.prepare()

    def work(row: int) -> tuple[Floats, Floats]:
        box = jittered_box(faces.landmarks[row].astype(np.float64), faces.names[row], 0)
        fit = tracker.fit(faces.images[row], box[None])
        return fit.landmarks[0].astype(np.float64), fit.sigma[0].astype(np.float64)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        landmarks, sigma = map(np.stack, zip(*pool.map(work, rows), strict=True))
    known = np.isfinite(landmarks).all(axis=(1, 2)) & np.isfinite(sigma).all(axis=1)
    return Found(landmarks, sigma, faces.landmarks[rows].astype(np.float64)).rows(known), known


def normalised_errors(found: Found) -> Floats:
    """Return errors over sigma along the axes of the faces, mirror images included, (2 N, 136)."""
    axes = face_axes(found.landmarks)
    x, y = (found.landmarks[:, 45] - found.landmarks[:, 36]).T
    u, v = axes.u[45] - axes.u[36], axes.v[45] - axes.v[36]
    square = x**2 + y**2
    cosine, sine = ((x * u + y * v) / square)[:, None], ((y * u - x * v) / square)[:, None]
    dx, dy = np.moveaxis((found.landmarks - found.labels) / found.sigma[..., None], -1, 0)
    errors = np.stack([dx * cosine + dy * sine, dy * cosine - dx * sine], axis=-1)
    mirrored = errors[:, MIRROR_68] * (-1, 1)
    return np.concatenate([errors, mirrored]).reshape(-1, 2 * N_LANDMARKS)


def moments(errors: Floats) -> Floats:
    """Return the second moments (136, 136) of normalised errors (N, 136)."""
    return np.asarray(errors.T @ errors / len(errors))


def ratios(found: Found, covariance: Floats, factors: Factors | None = None) -> dict[str, Floats]:
    """Return the errors of each measure over its standard errors."""
    ours = measured_values(found.landmarks, found.sigma, with_irises(covariance), factors)
    truth = measured_values(found.labels)
    return {name: error_ratios(ours[name], truth[name]) for name in ours}


def factors_of(found: Found, covariance: Floats) -> dict[str, float]:
    """Return the factor that calibrates the standard errors of each measure on these faces."""
    return {
        name: float(max(np.quantile(ratio, INNER), np.quantile(ratio, OUTER) / 2))
        for name, ratio in ratios(found, covariance).items()
    }


def coverage(found: Found, covariance: Floats, factors: Factors | None = None) -> dict[str, Shares]:
    """Return the shares of each measure's errors within one and two standard errors."""
    found_ratios = ratios(found, covariance, factors)
    return {name: (float((r <= 1).mean()), float((r <= 2).mean())) for name, r in found_ratios.items()}


def as_wanted(shares: tuple[float, float]) -> bool:
    """Return whether the shares within one and two standard errors are in the accepted range."""
    one, two = (round(share, 2) for share in shares)
    return ONE[0] <= one <= ONE[1] and two >= TWO


def on_other_persons(found: Found, half: npt.NDArray[np.bool_]) -> dict[str, Shares]:
    """Return the cross-validated coverage: the mean of both halves, each calibrated on the other half."""
    coverages = []
    for side in (half, ~half):
        other = found.rows(~side)
        covariance = moments(normalised_errors(other))
        coverages.append(coverage(found.rows(side), covariance, factors_of(other, covariance)))
    first, second = coverages
    return {
        name: ((one + second[name][0]) / 2, (two + second[name][1]) / 2) for name, (one, two) in first.items()
    }


def write_moments(path: Path, bundle: str, covariance: Floats, factors: Factors, origin: str) -> None:
    """Write the moments and factors of a bundle to a file; other bundles in the file are kept."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    if path.exists():
        with np.load(path, allow_pickle=False) as previous:
            arrays = {name: previous[name] for name in previous.files}
    arrays[bundle] = covariance[np.tril_indices(len(covariance))].astype(np.float32)
    arrays[f"{bundle} measures"] = np.array(list(factors))
    arrays[f"{bundle} factors"] = np.array(list(factors.values()), np.float32)
    arrays[f"{bundle} origin"] = np.array(origin)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument("--models", help="name or folder of the bundle (default: that of --bundle)")
    parser.add_argument("--file", type=Path, default=ERRORS_FILE, help="file to update (default %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), help="default: one per core")


def run(args: argparse.Namespace) -> None:
    """Run this step: update `ERRORS_FILE` and print the cross-validated coverage."""
    models = load_models(args.models or args.bundle)
    faces = load_measured(args.data, bundle=args.bundle)
    rows, people = chosen_faces(faces), people_of(faces)
    found, known = fitted(faces, rows, models, args.threads)
    digests = (hashlib.sha256(people[row].encode()).digest() for row in rows)
    half = np.array([digest[0] % 2 == 0 for digest in digests])  # all images of a person are in one half
    shares = on_other_persons(found, half[known])
    for name, (one, two) in shares.items():
        print(f"{name:32} {100 * one:4.0f} % {100 * two:4.0f} %{'' if as_wanted(shares[name]) else '  *'}")
    accepted = Counter(map(as_wanted, shares.values()))[True]
    origin = (
        f"bundle {args.bundle} {models.version}, {known.sum()} held-out faces; {accepted} of {len(shares)} "
        "measures as wanted on other persons"
    )
    covariance = moments(normalised_errors(found))
    write_moments(args.file, args.bundle, covariance, factors_of(found, covariance), origin)
    print(f"{args.file}: {origin}")

"""Loading models of any origin by name or folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from napari_face_landmarks.clnf.onnx_experts import onnx_experts
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.models.bundle import DEFAULT_BUNDLE, Models, check_name, load_bundle
from napari_face_landmarks.models.external import load_external

EXPERTS = ("numba", "onnx")
"""Implementations of the patch experts."""


def load_models(
    name_or_folder: str | Path = DEFAULT_BUNDLE,
    *,
    experts: str = EXPERTS[0],
    providers: Sequence[str] | None = None,
) -> Models:
    """Load a bundle and verify the SHA-256 of its files, or load external models.

    Parameters
    ----------
    name_or_folder : str or Path
        A name from `list_models`, or a folder with the same layout; "openface", "openface-cen" or
        "openface-ccnf" for OpenFace's models in their shared folder; a folder in OpenFace's layout; a folder
        with a ``pfld.json`` (see `custom_pfld`).
    experts : {"numba", "onnx"}
        Implementation of the patch experts: compiled kernels, or ONNX Runtime, which needs the package onnx.
    providers : sequence of str, optional
        Execution providers of ONNX Runtime for the patch experts, in order of preference, such as
        ``["CUDAExecutionProvider", "CPUExecutionProvider"]``; default: the first that is available.

    Returns
    -------
    Models
        Each session runs on one thread; the tracker runs several of them in parallel.

    Raises
    ------
    ModelError
        If a file is missing, modified or malformed, or the patch experts cannot be run in this way.

    Examples
    --------
    >>> load_models("open", experts="onnx", providers=["CPUExecutionProvider"]).name  # doctest: +SKIP
    'open'
    """
    check_name(name_or_folder)
    if experts not in EXPERTS:
        raise ModelError(f"experts is {experts!r:.60}: choose one of {', '.join(EXPERTS)}.")
    if providers and experts != "onnx":
        raise ModelError(
            "Execution providers apply to patch experts that run as ONNX: also give experts onnx."
        )
    models = load_external(name_or_folder) or load_bundle(name_or_folder)
    if experts == "onnx":
        models = replace(models, experts=onnx_experts(models.experts, providers))
    object.__setattr__(models, "loaded_as", (reload_models, str(name_or_folder), experts, providers))
    return models


def reload_models(name_or_folder: str, experts: str, providers: Sequence[str] | None) -> Models:
    """Load models as they were loaded before they were pickled."""
    return load_models(name_or_folder, experts=experts, providers=providers)

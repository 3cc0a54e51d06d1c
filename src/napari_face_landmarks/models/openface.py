"""Finding and loading OpenFace 2.2's models, which are not part of this package."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from napari_face_landmarks.clnf.openface_experts import OpenFaceExperts
from napari_face_landmarks.clnf.pdm import PDM
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.files.paths import check_inside
from napari_face_landmarks.models.openface_format import read_ccnf, read_cen, read_pdm_text

VERSION = "2.2.0"
NAMES = {"openface": "", "openface-cen": "cen", "openface-ccnf": "ccnf"}
"""Names for `load_models` that refer to the shared folder, and the patch experts that they select."""
LICENCE = "OpenFace's own: academic or non-profit research, no commercial use"

PDM_FILE = Path("pdms") / "In-the-wild_aligned_PDM_68.txt"
EXPERT_FILES = {
    "cen": [
        Path("patch_experts") / f"cen_patches_{scale}_of.dat" for scale in ("0.25", "0.35", "0.50", "1.00")
    ],
    "ccnf": [
        Path("patch_experts") / f"ccnf_patches_{scale}_general.txt" for scale in ("0.25", "0.35", "0.5")
    ],
}


def shared_folders(
    platform: str = sys.platform, environment: Mapping[str, str] | None = None, home: Path | None = None
) -> list[Path]:
    """Return the folders that may contain OpenFace's models on this machine, the most likely first."""
    variables = os.environ if environment is None else environment
    home = Path.home() if home is None else home
    if variables.get("OPENFACE_MODELS_DIR"):
        return [Path(variables["OPENFACE_MODELS_DIR"]) / VERSION]
    if platform == "win32":
        local = Path(variables.get("LOCALAPPDATA") or home / "AppData" / "Local")
        parents = [local / "OpenFaceModels", local / "OpenFaceModels" / "OpenFaceModels"]
    elif platform == "darwin":
        parents = [home / "Library" / "Application Support" / "OpenFaceModels"]
    else:
        parents = [Path(variables.get("XDG_DATA_HOME") or home / ".local" / "share") / "OpenFaceModels"]
    if platform != "win32":
        parents.append(home / ".local" / "share" / "OpenFaceModels")
    return list(dict.fromkeys(parent / VERSION for parent in parents))


def find_openface() -> Path:
    """Return the shared folder of OpenFace's models."""
    root = openface_folder()
    if root is not None:
        return root
    raise ModelError(
        f"OpenFace's models are not in {' or '.join(map(str, shared_folders()))}: get them with the download "
        "script of OpenFace 2.2 (github.com/TadasBaltrusaitis/OpenFace) and put its folders pdms and "
        "patch_experts there, or set OPENFACE_MODELS_DIR."
    )


def openface_folder() -> Path | None:
    """Return the shared folder of OpenFace's models, or None."""
    return next((root for each in shared_folders() if (root := openface_root(each)) is not None), None)


def openface_root(folder: Path) -> Path | None:
    """Return the folder with ``pdms`` and ``patch_experts``: `folder` or its subfolder ``model``; or None."""
    return next((root for root in (folder, folder / "model") if os.path.isfile(root / PDM_FILE)), None)


def openface_files(kind: str) -> list[Path]:
    """Return the relative paths of the files that `load_openface` reads for "cen" or "ccnf" experts."""
    return [PDM_FILE, *EXPERT_FILES[kind]]


def load_openface(root: Path, kind: str = "") -> tuple[PDM, OpenFaceExperts]:
    """Load PDM and patch experts, "cen" (the default if present) or "ccnf", from an `openface_root`."""
    present = [name for name, files in EXPERT_FILES.items() if any((root / file).is_file() for file in files)]
    chosen = kind or next(iter(present), "")
    if not chosen:
        raise ModelError(
            f"{root} has no patch experts: put {EXPERT_FILES['cen'][0]} and the other scales, or "
            f"{EXPERT_FILES['ccnf'][0]} and the other scales, there."
        )
    missing = [file for file in EXPERT_FILES[chosen] if not (root / file).is_file()]
    if missing:
        raise ModelError(f"{root / missing[0]} is missing: put all {len(EXPERT_FILES[chosen])} scales there.")
    for file in openface_files(chosen):
        check_inside(root / file, root)
    read = read_cen if chosen == "cen" else read_ccnf
    parts = sorted((read(root / file) for file in EXPERT_FILES[chosen]), key=lambda part: part.scale)
    for finer, coarser in zip(parts[1:], parts, strict=False):
        if finer.scale <= coarser.scale:
            raise ModelError(
                f"{root / EXPERT_FILES[chosen][0].parent} has two files of the scale {finer.scale:g}: "
                "download the files again."
            )
    return read_pdm_text(root / PDM_FILE), OpenFaceExperts(chosen.upper(), tuple(parts))

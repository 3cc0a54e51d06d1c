"""Model bundles: folders of model files with a model card, verified when they are loaded."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.clnf.fit import ClnfModel
from napari_face_landmarks.clnf.openface_experts import AnyExperts
from napari_face_landmarks.clnf.parameters import OPENFACE_CEN, TUNED, EngineConstants
from napari_face_landmarks.clnf.patch_experts import load_patch_experts
from napari_face_landmarks.clnf.pdm import PDM, load_pdm
from napari_face_landmarks.errors import ModelError, os_errors_as
from napari_face_landmarks.files.json_file import read_json
from napari_face_landmarks.files.onnx_safe import open_network
from napari_face_landmarks.files.paths import check_inside
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.parts.network import EYE_OUTPUTS, MOUTH_OUTPUTS, PartModels
from napari_face_landmarks.pfld.custom import CustomPfld

DEFAULT_BUNDLE = "open"
CARD = "model_card.json"
MODEL_FILES = ("detector.onnx", "pfld.onnx", "pdm.npz", "cen.npz")
PART_FILES = ("eye.onnx", "mouth.onnx")
"""Part models, which bundles made before version 0.4 do not have."""
_MAX_CARD_BYTES = 1 << 20
_MAX_FILE_BYTES = 64 << 20
BUNDLES_FOLDER = Path(__file__).parent

_log = logging.getLogger("napari_face_landmarks")
_reported: set[str] = set()


@dataclass(frozen=True)
class Models:
    """The loaded models of a bundle.

    Attributes
    ----------
    name : str
        Name of the bundle.
    folder : Path
        Its folder.
    card : dict
        The model card: training data, licence, measured error, sha256 of every file.
    detector : onnxruntime.InferenceSession
        The face detector.
    pfld : onnxruntime.InferenceSession, CustomPfld or None
        The landmark network; None for OpenFace's models.
    pdm : PDM
        The point distribution model.
    experts : PatchExperts or OpenFaceExperts
        The patch experts.
    constants, clnf_only_constants : EngineConstants
        Parameters of CLNF with these experts, starting from PFLD's landmarks and without PFLD.
    parts : PartModels or None
        Networks for eyes and mouth, if the bundle has them.
    """

    name: str
    folder: Path
    card: dict[str, Any]
    detector: onnxruntime.InferenceSession
    pfld: onnxruntime.InferenceSession | CustomPfld | None
    pdm: PDM
    experts: AnyExperts
    constants: EngineConstants = TUNED
    clnf_only_constants: EngineConstants = OPENFACE_CEN
    parts: PartModels | None = None
    loaded_as: tuple[Any, ...] | None = field(default=None, init=False, compare=False, repr=False)
    """Function that loads the models again, and its arguments; None for models assembled in Python."""

    def __repr__(self) -> str:
        """Return name, version and licence."""
        return f"<Models {self.name!r} {self.card.get('version', '')}, {self.card.get('licence', '')}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how to load the models, not their content."""
        if self.loaded_as is None:
            raise ModelError(
                "These models were assembled in Python and cannot be pickled: make a bundle of them, and "
                "load it."
            )
        return self.loaded_as[0], self.loaded_as[1:]

    def clnf(self, engine: ModuleType | SimpleNamespace = numba_engine, clnf_only: bool = False) -> ClnfModel:
        """Return the model for CLNF that starts from PFLD's landmarks or, with `clnf_only`, from a box."""
        constants = self.clnf_only_constants if clnf_only else self.constants
        return ClnfModel(self.pdm, self.experts, constants, engine)

    @property
    def version(self) -> str:
        """The version on the card."""
        return str(self.card["version"])

    @property
    def licence(self) -> str:
        """The short name of the weights' licence."""
        return str(self.card["licence"])


def list_models() -> list[str]:
    """Return the names of the bundles in this package, the default bundle first."""
    names = sorted(path.parent.name for path in BUNDLES_FOLDER.glob(f"*/{CARD}"))
    return sorted(names, key=lambda name: name != DEFAULT_BUNDLE)


def check_name(name_or_folder: object) -> None:
    """Raise a `ModelError` if an object cannot be the name or folder of models."""
    if not isinstance(name_or_folder, (str, Path)):
        raise ModelError(
            f"Models cannot be identified by an object of type {type(name_or_folder).__name__}: give their "
            "name or folder."
        )


def bundle_folder(name_or_folder: str | Path) -> Path:
    """Return the folder of a bundle in this package, or the given folder.

    Raises
    ------
    ModelError
        If there is neither a bundle nor a folder with that name.
    """
    if str(name_or_folder) in list_models():
        return BUNDLES_FOLDER / str(name_or_folder)
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise ModelError(
            f"There are no models named {str(name_or_folder)!r}: give {' or '.join(list_models())}, "
            f"openface, or a folder with a {CARD}, OpenFace's files or a pfld.json."
        )
    return folder


def load_card(name_or_folder: str | Path) -> dict[str, Any]:
    """Read a bundle's model card without loading its models.

    Raises
    ------
    ModelError
        If the card is missing or malformed.
    """
    path = bundle_folder(name_or_folder) / CARD
    check_inside(path, path.parent)
    if not path.exists():
        raise ModelError(f"{path} is missing: give the folder of a complete bundle.")
    card = read_json(path, "a model card", _MAX_CARD_BYTES, ModelError, "replace the file")
    _check_card(card, path)
    return dict(card)


def load_bundle(name_or_folder: str | Path = DEFAULT_BUNDLE) -> Models:
    """Load a bundle and verify the SHA-256 of its files."""
    folder = bundle_folder(name_or_folder)
    card = load_card(folder)
    names = [*MODEL_FILES, *(name for name in PART_FILES if name in card["files"])]
    contents = {name: _checked_bytes(folder, name, card["files"][name]) for name in names}
    pdm = load_pdm(folder / "pdm.npz")
    if pdm.n_points != N_LANDMARKS:
        raise ModelError(
            f"{folder / 'pdm.npz'} has {pdm.n_points} points, not {N_LANDMARKS}: install the models again."
        )
    notice = card.get("notice")
    if isinstance(notice, str) and notice not in _reported:  # reported once per process
        _reported.add(notice)
        _log.warning("%s", notice)
    detector = _session(contents["detector.onnx"], folder / "detector.onnx")
    pfld = _session(contents["pfld.onnx"], folder / "pfld.onnx")
    _check_names(detector, ["frames"], ["cells"], folder / "detector.onnx")
    _check_names(pfld, ["crops"], ["landmarks", "sigma", "score"], folder / "pfld.onnx")
    return Models(
        name=str(card["name"]),
        folder=folder,
        card=card,
        detector=detector,
        pfld=pfld,
        pdm=pdm,
        experts=load_patch_experts(folder / "cen.npz"),
        parts=_parts(contents, folder),
    )


def _parts(contents: dict[str, bytes], folder: Path) -> PartModels | None:
    """Open the part models of a bundle; return None if it does not have both."""
    if not all(name in contents for name in PART_FILES):
        return None
    eye, mouth = (_session(contents[name], folder / name) for name in PART_FILES)
    _check_names(eye, ["crops"], list(EYE_OUTPUTS), folder / PART_FILES[0])
    _check_names(mouth, ["crops"], list(MOUTH_OUTPUTS), folder / PART_FILES[1])
    return PartModels(eye, mouth)


def file_entry(path: Path) -> dict[str, Any]:
    """Return the entry of a file in a card: size in bytes and SHA-256."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": digest}


def _check_card(card: Any, path: Path) -> None:
    complete = (
        isinstance(card, dict)
        and all(isinstance(card.get(key), str) for key in ("name", "version", "licence"))
        and isinstance(card.get("files"), dict)
        and all(
            isinstance(card["files"].get(name), dict)
            and isinstance(card["files"][name].get("sha256"), str)
            and isinstance(card["files"][name].get("bytes"), int)
            for name in (*MODEL_FILES, *(name for name in PART_FILES if name in card["files"]))
        )
    )
    if not complete:
        raise ModelError(
            f"{path} lacks name, version, licence, or the size and sha256 of {', '.join(MODEL_FILES)}: "
            "replace the file."
        )


def _checked_bytes(folder: Path, name: str, entry: dict[str, Any]) -> bytes:
    path = folder / name
    check_inside(path, folder)
    with os_errors_as(ModelError, f"{path} cannot be read", "install the models again"):
        size = path.stat().st_size
        if size != entry["bytes"] or size > _MAX_FILE_BYTES:
            raise ModelError(
                f"{path} has {size} bytes, but {entry['bytes']} in its card: install the models again."
            )
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ModelError(
            f"{path} was modified (its SHA-256 differs from its card): install the models again."
        )
    return content


def _check_names(
    session: onnxruntime.InferenceSession, inputs: list[str], outputs: list[str], path: Path
) -> None:
    """Raise a `ModelError` if a network does not have these inputs and outputs."""
    actual = [item.name for item in session.get_inputs()]
    if actual != inputs or not set(outputs) <= {item.name for item in session.get_outputs()}:
        raise ModelError(
            f"{path} is a different network (its inputs are {', '.join(map(repr, actual))!s:.100}): install "
            "the models again."
        )


def _session(content: bytes, path: Path) -> onnxruntime.InferenceSession:
    in_package = path.parent.parent == BUNDLES_FOLDER
    return open_network(content, path, "install the models again", trusted=in_package)

"""Names and numbers of faces and frames.

Faces and frames are counted from 0. A face without a name is "face 0" in sentences, lists and images
(`face_label`) and ``face_0`` where files need an identifier (`face_identifier`). Only formats whose
specification counts from 1 do so: OpenFace's CSV files and the file names of 300-VW's ``.pts`` files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_face_landmarks.data.tracks import Tracks

NAMES = "face_names"
"""Entry of `Tracks.meta` with the names that the user gave to faces."""
MODELS = "models"
"""Entry of `Tracks.meta` with the name of the models: a bundle, OpenFace or a folder."""
LONGEST_NAME = 100
"""Maximum number of characters of a face's name."""
NEW_TRACKS = "new_tracks"
"""Entry of `Tracks.meta`: pairs of frame and face from which on a face is another person, until it is split
there."""
SEVERAL = "After scene cuts a face is another person"
MOST_NAMED = 5
RESERVED = ("single",)
"""Reserved names of individuals: DeepLabCut's for bodyparts that belong to no individual."""


def face_label(face: int) -> str:
    """Return the default name of a face in sentences and lists."""
    return f"face {face}"


def face_identifier(face: int) -> str:
    """Return the default name of a face in files."""
    return f"face_{face}"


def face_identifiers(n_faces: int) -> list[str]:
    """Return `face_identifier` of 0 to `n_faces` - 1."""
    return [face_identifier(face) for face in range(n_faces)]


def names_of_faces(tracks: Tracks) -> list[str]:
    """Return the name of each face: the user's, else `face_label`."""
    given = tracks.meta.get(NAMES, ())
    given = [str(name) for name in given] if isinstance(given, (list, tuple)) else []
    return [
        given[face] if face < len(given) and given[face] else face_label(face)
        for face in range(tracks.n_faces)
    ]


def names_in_files(given: Any, n_faces: int) -> list[str]:
    """Return unique, single-line names of faces for files, from ``meta["face_names"]``."""
    names = face_identifiers(n_faces)
    given = given if isinstance(given, (list, tuple)) else ()
    for face, name in enumerate(given[:n_faces]):
        text = str(name)[: 2 * LONGEST_NAME].encode("utf-8", "replace").decode()
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_NAME]
        names[face] = f"{text}_face" if text in RESERVED else text.strip() or names[face]
    for face, name in enumerate(names):
        others = names[:face] + names[face + 1 :]
        if name in others:
            names[face] = next(new for k in range(2, 10**6) if (new := f"{name}_{k}") not in others)
    return names


def people_in_words(new_tracks: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Return a warning, if necessary, about faces that are several persons, from ``meta["new_tracks"]``."""
    if not new_tracks:
        return ()
    return (
        f"{others_from(new_tracks)}: measure them separately, in napari after Split here in the panel Faces. "
        f"Tracks.meta[{NEW_TRACKS!r}] has all frames.",
    )


def others_from(new_tracks: Sequence[Sequence[int]]) -> str:
    """Return the beginning of a warning: the frames from which on faces are other persons."""
    first = ", ".join(f"face {face} from frame {frame} on" for frame, face in new_tracks[:MOST_NAMED])
    more = f" and {len(new_tracks) - MOST_NAMED} more" if len(new_tracks) > MOST_NAMED else ""
    return f"{SEVERAL} ({first}{more})"

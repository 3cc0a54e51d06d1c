"""How faces and frames are named and numbered.

Faces and frames are counted from 0. A face without a name is "face 0" in sentences, lists and images
(`face_label`) and ``face_0`` where files need an identifier (`face_identifier`). Only formats whose
specification counts from 1 do so: OpenFace's CSV files and the file names of 300-VW's ``.pts`` files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_face_landmarks.data.tracks import Tracks

NAMES = "face_names"
"""Entry of `Tracks.meta` with the names that faces were given."""
MODELS = "models"
"""Entry of `Tracks.meta` with the name of the models: a bundle's, OpenFace's or a folder's."""
LONGEST_NAME = 100
"""Characters of a face's name."""
NEW_TRACKS = "new_tracks"
"""Entry of `Tracks.meta`: frame and face from which on a face is another person, until it is split there."""
SEVERAL = "After scene cuts a face is another person"
MOST_NAMED = 5
RESERVED = ("single",)
"""Names of individuals that mean something else: DeepLabCut's bodyparts that belong to no individual."""


def face_label(face: int) -> str:
    """Return what a face without a given name is called in sentences and lists."""
    return f"face {face}"


def face_identifier(face: int) -> str:
    """Return what a face without a given name is called in files."""
    return f"face_{face}"


def face_identifiers(n_faces: int) -> list[str]:
    """Return `face_identifier` of 0 to `n_faces` - 1."""
    return [face_identifier(face) for face in range(n_faces)]


def names_of_faces(tracks: Tracks) -> list[str]:
    """Return the name of each face: the one it was given, else `face_label`."""
    given = given_names(tracks.meta)
    return [
        given[face] if face < len(given) and given[face] else face_label(face)
        for face in range(tracks.n_faces)
    ]


def given_names(meta: Mapping[str, Any]) -> list[str]:
    """Return the names that faces were given, in their order; none where `meta` has no list of them."""
    given = meta.get(NAMES, ())
    return [str(name) for name in given] if isinstance(given, (list, tuple)) else []


def names_in_files(given: Any, n_faces: int) -> list[str]:
    """Return the names of faces for pose files, unique and on one line, from ``meta["face_names"]``."""
    names = face_identifiers(n_faces)
    listed = given if isinstance(given, (list, tuple)) else ()
    for face, name in enumerate(listed[:n_faces]):
        text = str(name)[: 2 * LONGEST_NAME].encode("utf-8", "replace").decode()
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_NAME]
        names[face] = f"{text}_face" if text in RESERVED else text.strip() or names[face]
    for face, name in enumerate(names):
        others = names[:face] + names[face + 1 :]
        if name in others:
            names[face] = next(new for k in range(2, 10**6) if (new := f"{name}_{k}") not in others)
    return names


def people_in_words(new_tracks: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Return a sentence about faces that are several persons, by ``meta["new_tracks"]``, if any are."""
    if not new_tracks:
        return ()
    return (
        f"{others_from(new_tracks)}: measure them separately, in napari after Split here in the panel Faces. "
        f"Tracks.meta[{NEW_TRACKS!r}] has all frames.",
    )


def others_from(new_tracks: Sequence[Sequence[int]]) -> str:
    """Return the beginning of a sentence about the frames from which faces are other persons."""
    first = ", ".join(f"face {face} from frame {frame} on" for frame, face in new_tracks[:MOST_NAMED])
    more = f" and {len(new_tracks) - MOST_NAMED} more" if len(new_tracks) > MOST_NAMED else ""
    return f"{SEVERAL} ({first}{more})"

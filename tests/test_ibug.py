"""The 68-point scheme: mirror, outlines, normaliser."""

from __future__ import annotations

import numpy as np

from napari_face_landmarks.ibug import MIRROR_68, OUTLINES, REGIONS, inter_ocular, nme


def test_mirror_is_its_own_inverse_and_keeps_the_midline() -> None:
    np.testing.assert_array_equal(MIRROR_68[MIRROR_68], np.arange(68))
    assert np.flatnonzero(np.arange(68) == MIRROR_68).tolist() == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_mirror_takes_each_region_to_its_partner() -> None:
    partners = {"right brow": "left brow", "right eye": "left eye"}
    for name, region in REGIONS.items():
        partner = partners.get(name, {v: k for k, v in partners.items()}.get(name, name))
        assert sorted(MIRROR_68[list(region)]) == list(REGIONS[partner])


def test_outlines_visit_every_landmark_once_and_close_eyes_and_lips() -> None:
    assert sorted(np.unique(np.concatenate(OUTLINES))) == list(range(68))
    closed = [name for name, line in zip(REGIONS, OUTLINES, strict=True) if line[0] == line[-1]]
    assert closed == ["right eye", "left eye", "outer lip", "inner lip"]


def test_nme_is_the_mean_distance_over_the_outer_eye_distance() -> None:
    truth = np.random.default_rng(0).uniform(0, 100, (3, 68, 2))
    truth[:, 36], truth[:, 45] = (10, 50), (90, 50)
    assert np.allclose(inter_ocular(truth), 80)
    assert np.allclose(nme(truth + (3, 4), truth), 5 / 80)

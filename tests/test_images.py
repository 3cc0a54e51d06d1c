"""Frames of every kind become the same RGB uint8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.video.pixels import LARGEST_SIDE, halve, pixel_range_of, resize, to_grey, to_rgb8

GREY = np.arange(200, dtype=np.uint8).reshape(10, 20)


@pytest.mark.parametrize(
    "image",
    [
        GREY,
        GREY[:, :, None],
        np.stack([GREY] * 3, axis=-1),
        np.stack([GREY, GREY, GREY, np.full_like(GREY, 7)], axis=-1),
        GREY.astype(np.uint16) * 257,
        GREY.astype(np.float32) / 255,
        GREY.astype(np.float64),
        GREY.astype(np.uint32) * 16843009,
    ],
)
def test_every_kind_gives_the_same_picture(image: Any) -> None:
    rgb = to_rgb8(image)
    assert rgb.shape == (10, 20, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, np.stack([GREY] * 3, axis=-1))


def test_bool_and_signed_types() -> None:
    assert to_rgb8(GREY > 100).max() == 255
    assert to_rgb8(np.array([[-5, 32767]], dtype=np.int16)).tolist() == [[[0] * 3, [255] * 3]]


SCENE = np.arange(65536).reshape(256, 256)


@pytest.mark.parametrize(
    ("image", "black", "white"),
    [
        *(((SCENE // 256).astype(kind), 0, 255) for kind in (np.int16, np.uint16, np.int32, np.uint32)),
        ((SCENE // 64).astype(np.uint16), 0, 1023),
        ((SCENE // 16).astype(np.uint16), 0, 4095),
        ((SCENE // 4).astype(np.uint16), 0, 16383),
        (SCENE // 16 - 2048, -4096, 4095),
        (np.dstack([SCENE // 256] * 3 + [np.full_like(SCENE, 65535)]).astype(np.uint16), 0, 255),
        (SCENE / 257, 0, 255),
        (SCENE.astype(np.float32) / 16, 0, 4095),
        (SCENE.astype(np.float32), 0, 65535),
        (SCENE / 32768 - 1, -1, 1),
    ],
)
def test_the_range_of_pixels_is_found_from_them(image: Any, black: float, white: float) -> None:
    found, sentence = pixel_range_of([image])
    assert (found.black, found.white) == (black, white)
    assert sentence is not None
    assert f"{white:g} as white" in sentence
    assert str(image.dtype) in sentence


@pytest.mark.parametrize(
    ("image", "white"),
    [
        (SCENE.astype(np.uint16), 65535),
        (np.zeros((4, 5), np.uint16), 65535),
        (np.full((4, 5), -7, np.int16), 32767),
        ((SCENE // 256).astype(np.uint8), 255),
        (np.zeros((4, 5)), 1),
        (SCENE / 65535, 1),
        (SCENE / 65535 * 1.02, 1),  # a filter's overshoot
        (np.where(SCENE < 10, 900.0, SCENE / 65535), 1),  # a hot pixel in a thousand
    ],
)
def test_pixels_that_use_the_range_of_their_type_need_no_warning(image: Any, white: float) -> None:
    found, sentence = pixel_range_of([image])
    assert found.white == white
    assert sentence is None


def test_frames_of_12_bits_and_signed_floats_are_the_picture_of_8_bits() -> None:
    plain = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    plain[0, :2] = 0, 255
    wide = plain.astype(np.uint16) * 16 + 8
    signed = plain / 127.5 - 1
    for image in (wide, signed):
        rgb = to_rgb8(image, pixel_range=pixel_range_of([image])[0])
        assert np.abs(rgb[..., 0].astype(int) - plain).max() <= 1


def test_what_is_already_right_is_not_copied() -> None:
    rgb = np.zeros((4, 5, 3), np.uint8)
    assert to_rgb8(rgb).base is rgb or to_rgb8(rgb) is rgb


@pytest.mark.parametrize(
    "image",
    [
        np.zeros(5),
        np.zeros((2, 3, 2)),
        np.zeros((2, 3, 3, 3)),
        np.zeros((0, 4, 3)),
        np.zeros((1, LARGEST_SIDE + 1)),
        np.full((3, 3), np.nan),
        np.full((3, 3, 3), np.inf, np.float32),
        np.zeros((3, 3), complex),
        np.array([["a"]]),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(image: Any) -> None:
    with pytest.raises(ImageError, match=r"^Frame 12 has .*: [^\n]*\.$"):
        to_rgb8(image, "Frame 12")


def test_grey_is_luma() -> None:
    rgb = np.zeros((1, 3, 3), np.uint8)
    rgb[0, 0, 0] = rgb[0, 1, 1] = rgb[0, 2, 2] = 255
    assert to_grey(rgb).tolist() == [[76, 150, 29]]


def test_grey_is_the_luma_to_the_nearest_whole_number() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (37, 41, 3), dtype=np.uint8)
    expected = rgb.astype(np.float64) @ (0.299, 0.587, 0.114)
    assert np.abs(to_grey(rgb) - expected).max() < 0.52
    np.testing.assert_array_equal(to_grey(rgb[:, ::-1]), to_grey(rgb)[:, ::-1])


@pytest.mark.parametrize("shape", [(8, 6), (9, 7), (2, 3)])
def test_halves_are_means_of_four(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    even = rgb[: shape[0] // 2 * 2, : shape[1] // 2 * 2].astype(np.float64)
    expected = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    assert np.abs(halve(rgb) - expected).max() <= 0.5


@pytest.mark.parametrize("size", [(20, 30), (33, 47), (7, 5), (1, 1)])
def test_resizing_is_bilinear_about_pixel_centres(size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    step = (20 / size[0], 30 / size[1])
    found = resize(rgb, *size, step)
    assert found.shape == (*size, 3)
    y = np.clip((np.arange(size[0]) + 0.5) * step[0] - 0.5, 0, 19)
    x = np.clip((np.arange(size[1]) + 0.5) * step[1] - 0.5, 0, 29)
    rows = np.stack([np.interp(y, np.arange(20), rgb[:, c, k]) for c in range(30) for k in range(3)], axis=1)
    rows = rows.reshape(-1, 30, 3)
    for r in range(size[0]):
        for k in range(3):
            expected = np.interp(x, np.arange(30), rows[r, :, k])
            assert np.abs(found[r, :, k] - expected).max() <= 0.51

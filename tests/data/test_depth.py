from __future__ import annotations

import numpy as np
import pytest

from fullyconv.data.depth import (
    FINE_PX,
    NYUD_CAMERA,
    Intrinsics,
    angle_deg,
    gravity,
    height_cm,
    hha,
    normals,
    points,
    rays,
)

CAMERA = Intrinsics(fx=110.0, fy=115.0, cx=61.3, cy=44.8)
SHAPE = (90, 120)
CAMERA_HEIGHT_M, CEILING_M, WALL_M, SIDE_M = 1.4, 1.3, 3.5, 1.7  # the ceiling is this far above the camera


def turned(pitch_deg: float, roll_deg: float = 0.0) -> np.ndarray:
    """Give the rotation from the room's axes (x right, y down, z ahead) to those of a camera looking down by pitch."""
    pitch, roll = np.deg2rad((pitch_deg, roll_deg))
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return about_z @ about_x


def room(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cast the rays of a camera in a box of a room; gives depth in metres and which surface each pixel shows."""
    directions = rays(SHAPE, CAMERA) @ rotation  # H x W x 3, in the room's axes
    planes = [
        (np.array([0, 1, 0]), CAMERA_HEIGHT_M),  # floor
        (np.array([0, -1, 0]), CEILING_M),
        (np.array([0, 0, 1]), WALL_M),
        (np.array([-1, 0, 0]), SIDE_M),
        (np.array([1, 0, 0]), SIDE_M),
    ]
    with np.errstate(divide="ignore"):
        reach = np.stack([distance / np.maximum(directions @ normal, 1e-12) for normal, distance in planes])
    return reach.min(0), reach.argmin(0)


def inside(surface: np.ndarray, kind: int, *, margin_px: int = FINE_PX + 1) -> np.ndarray:
    """Tell the pixels whose whole window shows one surface."""
    same = surface == kind
    for axis in (0, 1):
        same = np.logical_and.reduce([np.roll(same, shift, axis) for shift in range(-margin_px, margin_px + 1)])
    return same


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (12, 0), (-8, 0), (20, 6), (5, -9)])
def test_a_room_is_measured_from_a_tilted_camera(pitch: float, roll: float) -> None:
    rotation = turned(pitch, roll)
    depth, surface = room(rotation)
    found = normals(depth, CAMERA, half_px=FINE_PX)
    down = gravity(normals(depth, CAMERA, half_px=10))
    true_down = rotation @ [0, 1, 0]
    assert np.rad2deg(np.arccos(min(1.0, down @ true_down))) < 1
    angles = angle_deg(found, true_down)
    for kind, expected in ((0, 0), (1, 180), (2, 90), (3, 90), (4, 90)):
        where = inside(surface, kind)
        if where.any():
            assert np.abs(angles[where] - expected).max() < 0.01
    if (surface == 0).any():
        heights = height_cm(depth, CAMERA, true_down)
        assert np.abs(heights[surface == 0]).max() < 1e-6
        assert np.allclose(heights[surface == 1], 100 * (CAMERA_HEIGHT_M + CEILING_M))


def test_channels_are_disparity_height_and_angle() -> None:
    depth, surface = room(turned(10))
    picture = hha(depth, CAMERA)
    assert picture.shape == (*SHAPE, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[..., 0], np.clip(np.rint(31000 / np.maximum(100 * depth, 100)), 0, 255))
    for kind, expected in ((0, 38), (2, 128), (3, 128)):
        assert abs(int(np.median(picture[inside(surface, kind), 2])) - expected) <= 1
    true_heights = 100 * (CAMERA_HEIGHT_M - (points(depth, CAMERA) @ turned(10))[..., 1])
    assert np.abs(picture[..., 1] - np.clip(true_heights, 0, 255)).max() <= 6  # gravity is found to within a degree


def test_without_a_floor_the_camera_is_taken_to_be_at_130_cm() -> None:
    depth = np.full(SHAPE, 0.9)  # a wall so near that nothing 90 cm below is seen
    picture = hha(depth, CAMERA)
    row = round(CAMERA.cy)
    assert abs(int(picture[row, 60, 1]) - 130) <= 1
    assert set(np.unique(picture[..., 2])) == {128}
    assert set(np.unique(picture[..., 0])) == {255}


def test_pixels_without_depth_are_zero_and_disturb_nothing() -> None:
    depth, surface = room(turned(10))
    holes = np.random.default_rng(0).random(SHAPE) < 0.2
    picture, whole = hha(np.where(holes, 0, depth), CAMERA), hha(depth, CAMERA)
    assert (picture[holes] == 0).all()
    flat = ~holes & (inside(surface, 0) | inside(surface, 2))
    assert np.abs(picture[flat].astype(int) - whole[flat]).max() <= 2
    nan = hha(np.where(holes, np.nan, depth), CAMERA)
    np.testing.assert_array_equal(nan, picture)


def test_lonely_pixels_have_no_normal_and_count_as_upright() -> None:
    depth = np.zeros(SHAPE)
    depth[20, 30] = 2
    depth[60, 10:90] = 2  # a line: no plane either
    assert np.isnan(normals(depth, CAMERA, half_px=3)).all()
    picture = hha(depth, CAMERA)
    assert picture[20, 30].tolist()[2] == 128
    with pytest.raises(ValueError, match="some depth"):
        hha(np.zeros(SHAPE), CAMERA)


def test_normals_are_unit_and_point_away() -> None:
    depth = 2 + np.random.default_rng(1).random(SHAPE)
    found = normals(depth, CAMERA, half_px=3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1)
    assert ((found * rays(SHAPE, CAMERA)).sum(2) >= 0).all()


def test_nyud_pictures_fit_their_camera() -> None:
    depth = np.full((425, 560), 3.0)
    assert np.median(hha(depth, NYUD_CAMERA)[..., 2]) == 128

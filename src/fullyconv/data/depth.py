"""HHA pictures from depth: horizontal disparity, height above ground, angle with gravity (Gupta et al., ECCV 2014).

Written anew from the published definitions. Where it approximates:

- normals come from one least-squares plane per square window of inverse depth (a plane is linear there),
  all pixels of the window alike, whatever depth edge runs through it;
- gravity is found from the normals alone, as the direction to which floors are parallel and walls are
  perpendicular, starting from the picture's vertical: a picture without either, or rolled by more than
  45 degrees, keeps about the vertical;
- the ground is the lowest point of the picture; if that is less than 90 cm below the camera, no floor is
  seen, and the camera is taken to be 130 cm above it;
- pixels without depth are 0 in all three channels; the published pictures had their depth in-filled first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera, in pixels: focal lengths, and the pixel (counted from 0) the camera looks at."""

    fx: float
    fy: float
    cx: float
    cy: float


NYUD_CAMERA = Intrinsics(fx=518.857901, fy=519.469611, cx=284.582449, cy=208.736166)
"""NYUDv2's colour camera, for the pictures of 560 x 425 pixels (columns 41 to 600, rows 46 to 470 of the whole)."""

DISPARITY_CM = 31_000.0  # the disparity channel times the distance
NEAREST_CM = 100.0  # nearer is taken as this near: the channel ends at 255
ANGLE_SHIFT_DEG = 38.0  # keeps 0..180 degrees within 38..218
FINE_PX, COARSE_PX = 3, 10  # half windows of the normals: for the angle channel, and for gravity
GRAVITY_STEPS = ((45.0, 5), (15.0, 5))  # degrees within which a normal is of a floor (or wall), times repeated
DOWN = np.array([0.0, 1.0, 0.0])  # of an upright camera: x right, y down, z ahead
FLOOR_SEEN_CM, CAMERA_CM = 90.0, 130.0


def hha(depth_m: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Compute an HHA picture, H x W x 3 uint8, from H x W depth in metres (0 or not finite: none).

    Channels: ``31000 / max(depth in cm, 100)``; height above ground in cm; angle between the surface's
    normal (pointing away from the camera) and gravity in degrees, plus 38: floors 38, walls 128, ceilings
    218. All are rounded and clipped to 0..255.

    Args:
        depth_m: Depth along the camera's axis.
        camera: In the pixels of this picture.

    Raises:
        ValueError: If no pixel has depth.
    """
    depth_m = np.asarray(depth_m, np.float64)
    known = np.isfinite(depth_m) & (depth_m > 0)
    if depth_m.ndim != 2 or not known.any():
        raise ValueError(f"a depth picture is H x W with some depth in it, not {depth_m.shape} without")
    depth_m = np.where(known, depth_m, 0.0)
    coarse = normals(depth_m, camera, half_px=COARSE_PX)
    down = gravity(coarse)
    fine = normals(depth_m, camera, half_px=FINE_PX)
    fine = np.where(np.isnan(fine), coarse, fine)
    channels = (
        DISPARITY_CM / np.maximum(100 * depth_m, NEAREST_CM),
        height_cm(depth_m, camera, down),
        angle_deg(fine, down) + ANGLE_SHIFT_DEG,
    )
    picture = np.clip(np.rint(np.stack(channels, axis=2)), 0, 255)  # H x W x 3
    blanked: np.ndarray = np.where(known[..., None], picture, 0).astype(np.uint8)
    return blanked


def points(depth_m: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Place every pixel in space, H x W x 3 metres: x right, y down, z ahead."""
    placed: np.ndarray = rays(depth_m.shape, camera) * depth_m[..., None]
    return placed


def rays(shape: tuple[int, ...], camera: Intrinsics) -> np.ndarray:
    """Return the direction each pixel looks in, H x W x 3, one metre ahead."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    return np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones(shape)], axis=2)


def normals(depth_m: np.ndarray, camera: Intrinsics, *, half_px: int) -> np.ndarray:
    """Fit a plane around every pixel, H x W x 3 unit normals away from the camera; NaN where none can be fitted.

    A point ``z * ray`` of the plane ``n . point = 1`` has ``n . ray = 1 / z``: linear least squares over the
    window of ``2 * half_px + 1`` pixels a side, cut at the picture's edge.
    """
    known = depth_m > 0
    ray = rays(depth_m.shape, camera)
    weighted = ray * known[..., None]
    inverse = np.divide(1.0, depth_m, out=np.zeros_like(depth_m), where=known)
    products = weighted[..., :, None] * ray[..., None, :]  # H x W x 3 x 3
    left = _window_sums(products, half_px)
    right = _window_sums(weighted * inverse[..., None], half_px)  # H x W x 3
    count = np.maximum(left[..., 2, 2], 1)
    spread = np.linalg.det(left) / count**3  # the variance across times the variance along, of the rays
    solid = known & (spread > 1e-3 / (camera.fx * camera.fy) ** 2)
    found = np.full(ray.shape, np.nan)
    plane = np.linalg.solve(left[solid], right[solid][..., None])[..., 0]
    plane /= np.maximum(np.linalg.norm(plane, axis=1, keepdims=True), np.finfo(float).tiny)
    away = np.where((plane * ray[solid]).sum(1, keepdims=True) < 0, -1.0, 1.0)
    found[solid] = plane * away
    return found


def gravity(surface: np.ndarray) -> np.ndarray:
    """Find which way is down from H x W x 3 normals: a unit vector, (3,), in the camera's axes.

    Floors (normals nearly parallel to the present guess) pull it towards them, walls (nearly perpendicular)
    push it out of them: the eigenvector of the least eigenvalue of their scatter's difference.
    """
    normal = surface[np.isfinite(surface).all(axis=-1)]  # N x 3
    down = DOWN
    for degrees, times in GRAVITY_STEPS:
        for _ in range(times):
            along = np.abs(normal @ down)
            floors = normal[along > np.cos(np.deg2rad(degrees))]
            walls = normal[along < np.sin(np.deg2rad(degrees))]
            if not len(floors) + len(walls):
                return down
            _, axes = np.linalg.eigh(walls.T @ walls - floors.T @ floors)
            down = axes[:, 0] if axes[:, 0] @ down >= 0 else -axes[:, 0]
    return down


def height_cm(depth_m: np.ndarray, camera: Intrinsics, down: np.ndarray) -> np.ndarray:
    """Return the height of every pixel above the ground, H x W cm."""
    height: np.ndarray = -100 * (points(depth_m, camera) @ down)
    lowest = float(height[depth_m > 0].min())
    return height - (lowest if lowest <= -FLOOR_SEEN_CM else -CAMERA_CM)


def angle_deg(surface: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return the angle of every normal with gravity, H x W degrees; 90 where there is no normal."""
    cosine = np.clip(np.nan_to_num(surface @ down, nan=0.0), -1, 1)
    angle: np.ndarray = np.rad2deg(np.arccos(cosine))
    return angle


def _window_sums(values: np.ndarray, half_px: int) -> np.ndarray:
    """Sum H x W x … values over the window around every pixel, by differences of running sums."""
    for axis in (0, 1):
        length = values.shape[axis]
        running = np.concatenate([np.zeros_like(values.take([0], axis)), values.cumsum(axis)], axis)
        last = np.minimum(np.arange(length) + half_px + 1, length)
        first = np.maximum(np.arange(length) - half_px, 0)
        values = running.take(last, axis) - running.take(first, axis)
    return values

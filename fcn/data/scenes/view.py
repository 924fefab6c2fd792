"""One frame of a generated street: the ground, the things on it from far to near, and the camera's faults."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw

from fcn.data.scenes.ground import BUILDING, CAR, PERSON, POLE, VEGETATION, View, draw_flat
from fcn.data.scenes.street import LOOK_AHEAD, STATION_STEP, Colour, Floats, Street, Thing

SUPERSAMPLE = 2  # drawn at twice the size and averaged: edges as soft as a lens makes them
NEAR = 1.5  # metres: nothing is drawn nearer to the camera

Point = tuple[float, float]


def draw_frame(
    street: Street, number: int, size: tuple[int, int], noise: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Frame `number` of a street: image HxWx3 RGB and class indices HxW, for size (H, W) in pixels."""
    height, width = size
    view = View(street, number * street.step, height * SUPERSAMPLE, width * SUPERSAMPLE)
    colours, labels = draw_flat(view)
    canvas = _Canvas(view, colours, labels)
    for thing in sorted(street.things, key=lambda thing: -(thing.station + thing.speed * number)):
        ahead = thing.station + thing.speed * number - view.station
        if NEAR - thing.length < ahead < LOOK_AHEAD * 0.95:
            _DRAW[thing.kind](canvas, thing, ahead)
    return _expose(canvas, street, size, noise), np.asarray(canvas.labels)[::SUPERSAMPLE, ::SUPERSAMPLE].copy()


class _Canvas:
    """An image and its labels that are drawn on together, through one frame's camera."""

    def __init__(self, view: View, colours: Floats, labels: npt.NDArray[np.uint8]) -> None:
        self.view = view
        self.image = PillowImage.fromarray((np.clip(colours, 0, 1) * 255).astype(np.uint8))
        self.labels = PillowImage.fromarray(labels)
        self._pen = ImageDraw.Draw(self.image, "RGBA")
        self._label_pen = ImageDraw.Draw(self.labels)
        # Every corner of every window goes through point(): plain floats, looked up once.
        self._line: list[float] = view.centre_line().tolist()
        self._focal, self._horizon, self._middle = view.focal, view.horizon, view.width / 2
        self._eye, self._roll = view.street.camera.height, view.street.camera.roll
        self._haze, self._haze_colour = view.street.light.haze, view.street.light.haze_colour

    def point(self, side: float, up: float, ahead: float) -> Point:
        """Pixel (column, row) of a point beside the centre line, above the ground, ahead of the camera."""
        index = min(max(int(ahead / STATION_STEP), 0), len(self._line) - 1)
        scale = self._focal / max(ahead, NEAR)
        right = (self._line[index] + side) * scale
        return self._middle + right, self._horizon + self._roll * right + (self._eye - up) * scale

    def fill(self, colour: Colour, shade: float, ahead: float, opacity: float = 1.0) -> tuple[int, int, int, int]:
        """The colour seen through the haze from `ahead` metres away, in the light's shade."""
        clear = math.exp(-self._haze * max(ahead, 0.0))
        veil, clear = 255 * (1 - clear), 255 * clear * shade
        red, green, blue = (min(255, int(c * clear + h * veil)) for c, h in zip(colour, self._haze_colour, strict=True))
        return red, green, blue, int(opacity * 255)

    def polygon(self, points: Sequence[Point], fill: tuple[int, int, int, int], label: int | None) -> None:
        self._pen.polygon(points, fill=fill)
        if label is not None:
            self._label_pen.polygon(points, fill=label)

    def ellipse(
        self, box: tuple[float, float, float, float], fill: tuple[int, int, int, int], label: int | None
    ) -> None:
        self._pen.ellipse(box, fill=fill)
        if label is not None:
            self._label_pen.ellipse(box, fill=label)

    def wall(self, sides: tuple[float, float], ups: tuple[float, float], aheads: tuple[float, float]) -> list[Point]:
        """Corners of an upright rectangle from (side, ahead) to (side, ahead)."""
        near, far = (max(ahead, NEAR) for ahead in aheads)
        return [
            self.point(sides[0], ups[0], near),
            self.point(sides[1], ups[0], far),
            self.point(sides[1], ups[1], far),
            self.point(sides[0], ups[1], near),
        ]


def _side_shade(canvas: _Canvas, side: float) -> float:
    """How bright a wall beside the street is: one side faces the sun, the other doesn't."""
    light = canvas.view.street.light
    faces_sun = side * light.sun_side < 0
    return 1.0 + light.sun * (0.15 if faces_sun else -0.45)


def _building(canvas: _Canvas, thing: Thing, ahead: float) -> None:
    hand = 1 if thing.side > 0 else -1
    near, far = max(ahead, NEAR), ahead + thing.length
    if far <= NEAR:
        return
    shade = _side_shade(canvas, thing.side)
    if ahead > NEAR:
        back = thing.side + hand * thing.width
        front = canvas.wall((thing.side, back), (0, thing.height), (near, near))
        canvas.polygon(front, canvas.fill(thing.colour, 0.8, near), BUILDING)
    # A long wall bends with the street, so it is drawn in pieces.
    pieces = max(1, min(6, int((far - near) / 4)))
    cuts = np.linspace(near, far, pieces + 1)
    for start, end in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
        face = canvas.wall((thing.side, thing.side), (0, thing.height), (float(start), float(end)))
        canvas.polygon(face, canvas.fill(thing.colour, shade, float(start)), BUILDING)
        base = canvas.wall((thing.side, thing.side), (0, 0.5), (float(start), float(end)))
        canvas.polygon(base, canvas.fill(thing.colour, shade * 0.7, float(start)), BUILDING)
    if near < 50:
        _windows(canvas, thing, ahead, shade)


def _windows(canvas: _Canvas, thing: Thing, ahead: float, shade: float) -> None:
    rng = np.random.default_rng(thing.variant)
    across, storey = float(rng.uniform(1.8, 3.2)), float(rng.uniform(2.7, 3.4))
    wide, tall = across * float(rng.uniform(0.4, 0.7)), storey * float(rng.uniform(0.4, 0.6))
    glass: Colour = (0.16, 0.19, 0.23) if rng.random() < 0.7 else (0.38, 0.45, 0.52)
    for floor in range(int((thing.height - 0.6) / storey)):
        low = 1.0 + floor * storey
        for start in np.arange(ahead + 0.5, ahead + thing.length - wide, across):
            if start > NEAR:
                pane = canvas.wall((thing.side,) * 2, (low, low + tall), (float(start), float(start) + wide))
                canvas.polygon(pane, canvas.fill(glass, shade, float(start)), None)


def _tree(canvas: _Canvas, thing: Thing, ahead: float) -> None:
    if ahead < NEAR + 1:
        return
    rng = np.random.default_rng(thing.variant)
    shade = 0.75 + 0.35 * canvas.view.street.light.sun
    scale = canvas.view.focal / ahead
    trunk = 0.05 * thing.height
    stem = canvas.wall((thing.side - trunk / 2, thing.side + trunk / 2), (0, thing.height * 0.6), (ahead, ahead))
    canvas.polygon(stem, canvas.fill((0.22, 0.17, 0.13), shade, ahead), VEGETATION)
    blobs = 16 if scale * thing.height > 40 else 6
    offsets = rng.normal(0, 0.27, size=(blobs, 2)).clip(-0.5, 0.5)
    sizes = rng.uniform(0.28, 0.5, size=blobs)
    # Lower leaves first: the upper ones catch the light and lie over them.
    for (sideways, up), size in sorted(zip(offsets.tolist(), sizes.tolist(), strict=True), key=lambda blob: blob[0][1]):
        x, y = canvas.point(thing.side + sideways * thing.width, thing.height * (0.68 + up * 0.5), ahead)
        reach = size * thing.width * 0.62 * scale
        fill = canvas.fill(thing.colour, shade * (0.9 + 0.75 * up + 0.1 * sideways), ahead)
        canvas.ellipse((x - reach, y - reach * 0.85, x + reach, y + reach * 0.85), fill, VEGETATION)


def _hedge(canvas: _Canvas, thing: Thing, ahead: float) -> None:
    shade = _side_shade(canvas, thing.side)
    end = ahead + thing.length
    while end > max(ahead, NEAR):
        start = max(end - 3.0, ahead, NEAR)
        face = canvas.wall((thing.side, thing.side), (0, thing.height), (start, end))
        canvas.polygon(face, canvas.fill(thing.colour, shade, start), VEGETATION)
        crest = canvas.wall((thing.side, thing.side), (thing.height * 0.72, thing.height), (start, end))
        canvas.polygon(crest, canvas.fill(thing.colour, shade * 1.2, start), VEGETATION)
        end = start


def _pole(canvas: _Canvas, thing: Thing, ahead: float) -> None:
    if ahead < NEAR + 1:
        return
    half = thing.width / 2
    post = canvas.wall((thing.side - half, thing.side + half), (0, thing.height), (ahead, ahead))
    canvas.polygon(post, canvas.fill(thing.colour, 1.0, ahead), POLE)
    if thing.variant == 0:  # a lamp that hangs over the road
        arm = thing.side - np.sign(thing.side) * 1.6
        beam = canvas.wall((thing.side, float(arm)), (thing.height - 0.18, thing.height), (ahead, ahead))
        canvas.polygon(beam, canvas.fill(thing.colour, 1.0, ahead), POLE)
    elif thing.variant == 1:  # a road sign
        plate = canvas.wall((thing.side - 0.35, thing.side + 0.35), (2.0, 2.8), (ahead, ahead))
        canvas.polygon(plate, canvas.fill((0.13, 0.25, 0.6), 1.0, ahead), POLE)


def _person(canvas: _Canvas, thing: Thing, ahead: float) -> None:
    if ahead < NEAR + 1:
        return
    side, height = thing.side, thing.height
    legs = canvas.wall((side - 0.15, side + 0.15), (0, height * 0.5), (ahead, ahead))
    canvas.polygon(legs, canvas.fill((0.13, 0.14, 0.2), 1.0, ahead), PERSON)
    trunk = canvas.wall((side - 0.24, side + 0.24), (height * 0.45, height * 0.86), (ahead, ahead))
    canvas.polygon(trunk, canvas.fill(thing.colour, 1.0, ahead), PERSON)
    x, y = canvas.point(side, height * 0.93, ahead)
    reach = 0.13 * canvas.view.focal / ahead
    canvas.ellipse((x - reach, y - reach, x + reach, y + reach), canvas.fill((0.7, 0.52, 0.42), 1.0, ahead), PERSON)


def _car(canvas: _Canvas, thing: Thing, ahead: float) -> None:
    """Seen from behind or ahead, with the flank that shows; a van is a car with a straight back."""
    if ahead < NEAR + 1:
        return
    van, far = thing.variant == 1, ahead + thing.length
    left, right = thing.side - thing.width / 2, thing.side + thing.width / 2
    waist, roof = thing.height * (0.62 if not van else 0.55), thing.height
    flank = left if canvas.point(left, 0, far)[0] > canvas.point(left, 0, ahead)[0] + 0.5 else right
    shadow = [canvas.point(s, 0, a) for s, a in ((left - 0.15, ahead - 0.3), (right + 0.15, ahead - 0.3))]
    shadow += [canvas.point(s, 0, a) for s, a in ((right + 0.2, far), (left - 0.2, far))]
    canvas.polygon(shadow, (8, 8, 12, 150), None)
    lit = _side_shade(canvas, -flank if flank == left else flank)
    canvas.polygon(canvas.wall((flank, flank), (0.28, waist), (ahead, far)), canvas.fill(thing.colour, lit, ahead), CAR)
    cabin = ((0.12, 0.2), (0.88, 0.75)) if not van else ((0.0, 0.0), (0.95, 0.85))
    (low_start, high_start), (low_end, high_end) = cabin
    glasshouse = [
        canvas.point(flank, waist, ahead + low_start * thing.length),
        canvas.point(flank, waist, ahead + low_end * thing.length),
        canvas.point(flank, roof, ahead + high_end * thing.length),
        canvas.point(flank, roof, ahead + high_start * thing.length),
    ]
    canvas.polygon(glasshouse, canvas.fill((0.1, 0.12, 0.14), lit, ahead), CAR)
    for axle in (0.2, 0.8):
        wheel = canvas.wall(
            (flank, flank), (0, 0.62), (ahead + axle * thing.length - 0.3, ahead + axle * thing.length + 0.3)
        )
        canvas.polygon(wheel, canvas.fill((0.05, 0.05, 0.05), 1.0, ahead), CAR)
    for tyre in (left + 0.16, right - 0.16):
        canvas.polygon(
            canvas.wall((tyre - 0.13, tyre + 0.13), (0, 0.4), (ahead, ahead)),
            canvas.fill((0.04,) * 3, 1.0, ahead),
            CAR,
        )
    canvas.polygon(
        canvas.wall((left, right), (0.25, waist), (ahead, ahead)), canvas.fill(thing.colour, 0.85, ahead), CAR
    )
    inset, deep = (0.16, high_start * thing.length) if not van else (0.03, 0.0)
    back = [
        canvas.point(left + 0.04, waist, ahead),
        canvas.point(right - 0.04, waist, ahead),
        canvas.point(right - inset, roof, ahead + deep),
        canvas.point(left + inset, roof, ahead + deep),
    ]
    canvas.polygon(back, canvas.fill(thing.colour, 0.9, ahead), CAR)
    pane = [
        canvas.point(left + 0.14, waist + 0.05, ahead + 0.02),
        canvas.point(right - 0.14, waist + 0.05, ahead + 0.02),
        canvas.point(right - inset - 0.1, roof - 0.12, ahead + deep),
        canvas.point(left + inset + 0.1, roof - 0.12, ahead + deep),
    ]
    canvas.polygon(pane, canvas.fill((0.13, 0.16, 0.2), 1.0, ahead), CAR)
    tail = thing.side * canvas.view.street.surface.drives_on > 0
    lamp: Colour = (0.75, 0.08, 0.06) if tail else (0.95, 0.95, 0.85)
    for start in (left + 0.06, right - 0.36):
        light = canvas.wall((start, start + 0.3), (waist - 0.28, waist - 0.1), (ahead, ahead))
        canvas.polygon(light, canvas.fill(lamp, 1.0, ahead), CAR)
    plate = canvas.wall((thing.side - 0.26, thing.side + 0.26), (0.45, 0.57), (ahead, ahead))
    canvas.polygon(plate, canvas.fill((0.85, 0.85, 0.8), 1.0, ahead), CAR)


_DRAW = {
    "building": _building, "tree": _tree, "hedge": _hedge, "pole": _pole, "car": _car, "person": _person,
}  # fmt: skip


def _expose(
    canvas: _Canvas, street: Street, size: tuple[int, int], noise: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """What the sensor makes of the light: average, expose, tint, vignette, noise."""
    height, width = size
    drawing = np.asarray(canvas.image.reduce(SUPERSAMPLE), dtype=np.float32)
    across = np.linspace(-1, 1, width, dtype=np.float32)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    falloff = 1 - np.float32(street.camera.vignette) * 0.5 * (across**2 + down**2)
    drawing *= falloff[..., None] * np.array(street.light.tint, dtype=np.float32) * street.light.exposure
    grain = noise.standard_normal((height, width, 1), dtype=np.float32)
    drawing += np.float32(street.camera.grain) * grain
    # Highlights roll off instead of clipping: a bright sky keeps some of its colour.
    knee = 200.0
    drawing = np.where(drawing > knee, knee + 55 * np.tanh((drawing - knee) / 55), drawing)
    return np.asarray(np.clip(drawing, 0, 255), dtype=np.uint8)

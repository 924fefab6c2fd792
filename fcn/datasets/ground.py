"""Sky, road and all that lies flat of a generated street, as the camera sees them: one ray a pixel.

H W pixels of the drawing, RGB in 0..1, lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fcn.datasets.street import STATION_STEP, Colour, Floats, Street

SKY, BUILDING, ROAD, PAVEMENT, VEGETATION, CAR, POLE, PERSON = range(8)
CLASSES = ("sky", "building", "road", "pavement", "vegetation", "car", "pole", "person")

FAR = 400.0  # metres to the horizon


@dataclass(frozen=True)
class View:
    """One frame's camera: where it is on the street, and how metres become pixels."""

    street: Street
    station: float
    height: int
    width: int

    @property
    def focal(self) -> float:
        return self.street.camera.focal * self.width

    @property
    def horizon(self) -> float:
        return self.street.camera.horizon * self.height

    def centre_line(self) -> Floats:
        """Metres from the camera's axis to the centre line, right positive, each STATION_STEP ahead of the camera.

        The camera looks along the street where it stands, so the course is the curvature ahead, summed twice.
        """
        start = round(self.station / STATION_STEP)
        heading = np.cumsum(self.street.curvature[start:]) * STATION_STEP
        return np.asarray(np.cumsum(heading) * STATION_STEP - self.street.wander, dtype=np.float32)

    def project(self, across: float, up: float, ahead: float) -> tuple[float, float]:
        """Pixel (column, row) of a point `across` metres right of the camera, `up` above the ground, `ahead` of it."""
        column = self.width / 2 + self.focal * across / ahead
        rise = self.focal * (self.street.camera.height - up) / ahead
        return column, self.horizon + self.street.camera.roll * (column - self.width / 2) + rise


@lru_cache(maxsize=4)
def _noise_tile(roughness: float) -> Floats:
    """256x256 noise that tiles, zero mean and unit deviation, smoother as `roughness` falls."""
    rng = np.random.default_rng(20_180_101)
    frequency = np.fft.fftfreq(256) * 256
    radius = np.maximum(np.hypot(frequency[:, None], frequency[None, :]), 1.0)
    spectrum = np.fft.fft2(rng.standard_normal((256, 256))) * radius**-roughness
    tile = np.real(np.fft.ifft2(spectrum))
    return np.asarray((tile - tile.mean()) / tile.std(), dtype=np.float32)


def _sample(tile: Floats, rows: Floats, columns: Floats) -> Floats:
    return tile[rows.astype(np.int32) & 255, columns.astype(np.int32) & 255]


def draw_flat(view: View) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Colours HxWx3 and class indices HxW of everything that has no height."""
    column = np.arange(view.width, dtype=np.float32) + 0.5
    row = np.arange(view.height, dtype=np.float32)[:, None] + 0.5
    slope = np.float32(view.street.camera.roll) * (column - view.width / 2)
    below_horizon_HW = row - np.float32(view.horizon) - slope
    colours, labels = _sky(view, below_horizon_HW, column)
    first = int(max(0, np.floor(view.horizon - np.abs(slope).max())))
    if first >= view.height:
        return colours, labels
    drop = below_horizon_HW[first:]
    ground = drop > 0.3
    ahead = np.minimum(np.float32(view.focal * view.street.camera.height) / np.maximum(drop, 0.3), FAR)
    ahead = np.asarray(ahead, dtype=np.float32)
    across = (column - view.width / 2) * ahead / np.float32(view.focal)
    line = view.centre_line()
    table = np.concatenate([line[:1], line])
    index = np.minimum((ahead / STATION_STEP).astype(np.int32), len(table) - 1)
    side = across - table[index]
    ground_colours, ground_labels = _surface(view, ahead + np.float32(view.station), side, ahead)
    colours[first:][ground] = ground_colours[ground]
    labels[first:][ground] = ground_labels[ground]
    return colours, labels


def _sky(view: View, drop: Floats, column: Floats) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Sky, and a line of far woods and houses that stands before it."""
    light = view.street.light
    origin = view.street.surface.texture_origin
    height_HW = np.clip(-drop / max(view.horizon, 1.0), 0, 1)[..., None]
    haze, zenith = np.float32(light.haze_colour), np.float32(light.zenith)
    colours = haze + (zenith - haze) * height_HW**0.6
    scale = 300.0 / view.width
    depth = 30.0 / (0.12 + height_HW[..., 0])
    bearing = (column - view.width / 2) * np.float32(scale * 0.4)
    cloud = _sample(_noise_tile(1.6), depth + origin[0], bearing * depth / 60 + origin[1] + 512)
    cover = np.clip(cloud * 0.5 + light.clouds - 0.4, 0, 1)[..., None] * 0.8
    colours = colours + (np.float32((0.93, 0.94, 0.95)) - colours) * cover
    ridge = _noise_tile(1.6)[origin[0], (column * np.float32(scale)).astype(np.int32) + origin[1] & 255]
    woods = -drop < view.height * np.clip(0.035 + 0.025 * ridge, 0.004, 0.12)
    leaf = np.float32((0.2, 0.28, 0.16)) * (0.6 + 0.4 * light.sun)
    veil = 1 - np.exp(-light.haze * 160)
    colours[woods] = leaf + (haze - leaf) * veil
    labels = np.where(woods, np.uint8(VEGETATION), np.uint8(SKY))
    return np.asarray(colours, dtype=np.float32), labels


def _surface(
    view: View, station: Floats, side: Floats, ahead: Floats
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    street = view.street
    surface, light = street.surface, street.light
    distance = np.abs(side)
    right = side > 0
    origin = surface.texture_origin
    fine, coarse = _noise_tile(0.4), _noise_tile(1.4)
    # Detail finer than a pixel would only flicker: its contrast falls with the distance.
    sharp = np.clip(14.0 / ahead, 0, 1)
    grain = _sample(fine, side * 14 + origin[0] + 4096, station * 9 + origin[1]) * sharp
    stain = _sample(coarse, side * 3 + origin[1] + 4096, station * 0.9 + origin[0])

    is_road = distance < surface.half_width
    if surface.crossing is not None:
        is_road |= (np.abs(station - surface.crossing) < 4.2) & (distance < 60)
    pavement_width = np.where(right, surface.pavement[1], surface.pavement[0])
    kerb_end = surface.half_width + surface.kerb
    is_pavement = ~is_road & (distance < kerb_end + pavement_width)
    paved_verge = np.where(right, surface.verge_is_paved[1], surface.verge_is_paved[0])
    is_yard = ~is_road & ~is_pavement & paved_verge & (distance < 40)

    labels = np.full(side.shape, VEGETATION, dtype=np.uint8)
    labels[is_road] = ROAD
    labels[is_pavement | is_yard] = PAVEMENT
    colours = (
        np.broadcast_to(np.float32(surface.verge_colour), (*side.shape, 3))
        * (1 + 0.16 * grain + 0.2 * stain)[..., None]
    )
    asphalt = np.float32(surface.road_colour) * (1 + 0.06 * grain + 0.07 * stain)[..., None]
    slabs = np.where((np.mod(station, 0.9) < 0.07) | (np.mod(distance, 0.9) < 0.07), 1 - 0.2 * sharp, 1.0)
    paving = np.float32(surface.pavement_colour) * ((1 + 0.05 * grain + 0.06 * stain) * slabs)[..., None]
    colours = np.where(is_road[..., None], asphalt, colours)
    colours = np.where((is_pavement & (distance >= kerb_end))[..., None], paving, colours)
    yard = np.float32(surface.road_colour) * (1.06 + 0.09 * stain + 0.06 * grain)[..., None]
    colours = np.where(is_yard[..., None], yard, colours)
    is_kerb = is_pavement & (distance < kerb_end)
    colours = np.where(
        is_kerb[..., None], np.float32((0.58, 0.57, 0.55)) * (1 + 0.1 * grain)[..., None], colours
    )
    for start, length, middle, width, brightness in surface.patches:
        hit = is_road & (np.abs(station - start) < length) & (np.abs(side - middle) < width / 2)
        colours[hit] *= np.float32(brightness)
    wheels = np.minimum(
        np.abs(distance - surface.half_width * 0.3), np.abs(distance - surface.half_width * 0.72)
    )
    colours *= np.where(is_road, 1 - 0.1 * np.exp(-((wheels / 0.3) ** 2)), 1.0)[..., None]
    gutter = np.clip((distance - surface.half_width + 0.5) / 0.5, 0, 1) * is_road
    colours *= (1 - 0.16 * gutter)[..., None]
    _paint(view, colours, station, side, is_road, stain)
    _shade(view, colours, station, side, coarse)
    veil = (1 - np.exp(-light.haze * ahead))[..., None]
    colours += (np.float32(light.haze_colour) - colours) * veil
    return np.asarray(colours, dtype=np.float32), labels


def _paint(
    view: View, colours: Floats, station: Floats, side: Floats, is_road: npt.NDArray[np.bool_], stain: Floats
) -> None:
    """Lane lines, edge lines and zebra crossings, in place, as worn as the street's paint is."""
    surface = view.street.surface
    paint = np.zeros(side.shape, dtype=bool)
    dashes = np.mod(station, surface.dash * 2.4) < surface.dash
    for lane in range(1, surface.lanes):
        line = (2 * lane / surface.lanes - 1) * surface.half_width
        if surface.double_line and abs(line) < 0.1:
            paint |= np.abs(np.abs(side - line) - 0.12) < 0.06
        else:
            paint |= (np.abs(side - line) < 0.08) & dashes
    if surface.edge_lines:
        paint |= np.abs(np.abs(side) - surface.half_width + 0.35) < 0.07
    if surface.crossing is not None:
        paint &= np.abs(station - surface.crossing) > 5.5
        stop = (np.abs(station - surface.crossing + 5.8) < 0.3) & (side > 0) & (side < surface.half_width)
        paint |= stop
    if surface.zebra is not None:
        inside = np.abs(station - surface.zebra) < 1.7
        paint = np.where(inside, np.mod(side + 60, 1.0) < 0.5, paint)
    strength = (paint & is_road) * np.clip(surface.paint + 0.22 * stain, 0.05, 1)
    white: Colour = (0.86, 0.86, 0.83)
    colours += (np.float32(white) - colours) * strength[..., None]


def _shade(view: View, colours: Floats, station: Floats, side: Floats, coarse: Floats) -> None:
    """Shadows of what stands on the sun's side, in place: blue-ish, as only the sky lights them."""
    light = view.street.light
    if light.sun < 0.15:
        return
    toward_sun = side * light.sun_side
    table = _shadow_reach(view.street)
    where = np.clip((station + light.shear * toward_sun + 20) / STATION_STEP, 0, len(table) - 1).astype(
        np.int32
    )
    shadow = (toward_sun > table[where]).astype(np.float32)
    dapple = _sample(coarse, side * 9 + 4096, station * 5)
    trees = [t for t in view.street.things if t.kind == "tree" and t.side * light.sun_side > 0]
    for tree in trees:
        along = station + light.shear * toward_sun - tree.station
        reach = abs(tree.side) - light.shadow_length * tree.height * 0.7
        crown = (along / (tree.width * 0.75)) ** 2 + ((toward_sun - reach) / (tree.height * 0.35)) ** 2
        shadow = np.maximum(shadow, (crown + 0.35 * dapple < 1.0) * np.float32(0.95))
    keep = 1 - light.sun * 0.62 * shadow
    colours *= keep[..., None] * np.float32((1, 1, 1)) + (1 - keep)[..., None] * np.float32((0.0, 0.03, 0.09))


def _shadow_reach(street: Street) -> Floats:
    """How near to the centre line, toward the sun positive, buildings' shadows begin, by station from -20 m on."""
    light = street.light
    entries = len(street.curvature) + int(40 / STATION_STEP)
    reach = np.full(entries, np.inf, dtype=np.float32)
    for thing in street.things:
        if thing.kind in ("building", "hedge", "car") and thing.side * light.sun_side > 0 and not thing.speed:
            first = max(0, int((thing.station + 20) / STATION_STEP))
            last = max(first, int((thing.station + thing.length + 20) / STATION_STEP))
            edge = abs(thing.side) - light.shadow_length * thing.height
            reach[first:last] = np.minimum(reach[first:last], edge)
    return reach

"""Sky, road and all that lies flat of a generated street, as the camera sees them: one ray a pixel.

H W pixels of the drawing, RGB in 0..1, lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fcn.data.dataset import Pixels
from fcn.data.scenes.street import STATION_STEP, Colour, Floats, Street, Surface

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
        """Metres from the camera's axis to the centre line, right positive, each STATION_STEP ahead of
        the camera.

        The course is the curvature ahead, summed twice, from the direction that the camera has to the
        street.
        """
        start = round(self.station / STATION_STEP)
        heading = np.cumsum(self.street.curvature[start:]) * STATION_STEP
        bend = np.cumsum(heading + self.street.camera.yaw) * STATION_STEP
        return np.asarray(bend - self.street.wander, dtype=np.float32)


@lru_cache(maxsize=3)
def _noise_tile(roughness: float) -> Floats:
    """256x256 noise that tiles, zero mean and unit deviation, smoother as `roughness` falls."""
    rng = np.random.default_rng(20_180_101)
    frequency = np.fft.fftfreq(256) * 256
    radius = np.maximum(np.hypot(frequency[:, None], frequency[None, :]), 1.0)
    spectrum = np.fft.fft2(rng.standard_normal((256, 256))) * radius**-roughness
    tile = np.real(np.fft.ifft2(spectrum))
    return np.asarray((tile - tile.mean()) / tile.std(), dtype=np.float32)


def _sample(tile: Floats, rows: Floats, columns: Floats) -> Floats:
    sampled: Floats = tile[rows.astype(np.int32) & 255, columns.astype(np.int32) & 255]
    return sampled


def _rgb(colour: Colour) -> Floats:
    return np.array(colour, dtype=np.float32)


def draw_flat(view: View) -> tuple[Floats, Pixels]:
    """Colours HxWx3 and class indices HxW of everything that has no height."""
    column = np.arange(view.width, dtype=np.float32) + np.float32(0.5)
    row = np.arange(view.height, dtype=np.float32)[:, None] + np.float32(0.5)
    slope = np.float32(view.street.camera.roll) * (column - np.float32(view.width / 2))
    drop = np.asarray(row - np.float32(view.horizon) - slope, dtype=np.float32)  # pixels below the horizon
    colours = np.empty((view.height, view.width, 3), dtype=np.float32)
    labels = np.empty((view.height, view.width), dtype=np.uint8)
    tilt = float(np.abs(slope).max())
    first = int(np.clip(np.floor(view.horizon - tilt), 0, view.height - 1))  # row that may show ground
    last = int(np.clip(np.ceil(view.horizon + tilt) + 1, 0, view.height))  # row that shows no more sky
    colours[:last], labels[:last] = _sky(view, drop[:last], column)

    drop = drop[first:]
    reach = np.float32(view.focal * view.street.camera.height)
    ahead = np.minimum(reach / np.maximum(drop, np.float32(0.3)), np.float32(FAR))
    across = (column - np.float32(view.width / 2)) * ahead / np.float32(view.focal)
    line = view.centre_line()
    side = across - line[np.minimum((ahead / np.float32(STATION_STEP)).astype(np.int32), len(line) - 1)]
    ground_colours, ground_labels = _surface(view, ahead + np.float32(view.station), side, ahead)
    ground = drop > 0.3
    colours[first:][ground] = ground_colours[ground]
    labels[first:][ground] = ground_labels[ground]
    return colours, labels


def _sky(view: View, drop: Floats, column: Floats) -> tuple[Floats, Pixels]:
    """Sky, and a line of far woods that stands before it."""
    light = view.street.light
    origin = view.street.surface.texture_origin
    height_HW = np.clip(-drop / np.float32(max(view.horizon, 1.0)), 0, 1)
    haze, zenith = _rgb(light.haze_colour), _rgb(light.zenith)
    colours = haze + (zenith - haze) * (height_HW ** np.float32(0.6))[..., None]
    scale = np.float32(300.0 / view.width)  # textures keep their size whatever the image's
    depth = np.float32(30.0) / (np.float32(0.12) + height_HW)
    bearing = (column - np.float32(view.width / 2)) * scale * np.float32(0.4 / 60)
    cloud = _sample(_noise_tile(1.6), depth + origin[0], bearing * depth + (origin[1] + 512))
    cover = np.clip(cloud * np.float32(0.5) + np.float32(light.clouds - 0.4), 0, 1) * np.float32(0.8)
    colours += (_rgb((0.93, 0.94, 0.95)) - colours) * cover[..., None]
    ridge = _noise_tile(1.6)[origin[0], ((column * scale).astype(np.int32) + origin[1]) & 255]
    woods = -drop < view.height * np.clip(0.035 + 0.025 * ridge, 0.004, 0.12)
    leaf = _rgb((0.2, 0.28, 0.16)) * np.float32(0.6 + 0.4 * light.sun)
    colours[woods] = leaf + (haze - leaf) * np.float32(1 - np.exp(-light.haze * 160))
    return colours, np.where(woods, np.uint8(VEGETATION), np.uint8(SKY))


# What the ground is made of, how much of the fine and the coarse noise it shows, and the class that it is.
_VERGE, _ASPHALT, _PAVING, _YARD, _KERB = range(5)
_GRAIN = np.array([0.16, 0.06, 0.05, 0.06, 0.10], dtype=np.float32)
_STAIN = np.array([0.20, 0.07, 0.06, 0.09, 0.00], dtype=np.float32)
_CLASS = np.array([VEGETATION, ROAD, PAVEMENT, PAVEMENT, PAVEMENT], dtype=np.uint8)


def _surface(view: View, station: Floats, side: Floats, ahead: Floats) -> tuple[Floats, Pixels]:
    surface, light = view.street.surface, view.street.light
    distance = np.abs(side)
    origin = surface.texture_origin
    # Detail finer than a pixel would only flicker: its contrast falls with the distance.
    sharp = np.minimum(np.float32(14.0) / ahead, np.float32(1))
    grain = _sample(_noise_tile(0.4), side * 14 + (origin[0] + 4096), station * 9 + origin[1]) * sharp
    stain = _sample(_noise_tile(1.4), side * 3 + (origin[1] + 4096), station * np.float32(0.9) + origin[0])
    stuff = _stuff(surface, station, side, distance)
    is_road = stuff == _ASPHALT

    bright = 1 + _GRAIN[stuff] * grain + _STAIN[stuff] * stain
    joints = (np.mod(station, 0.9) < 0.07) | (np.mod(distance, 0.9) < 0.07)
    bright *= 1 - np.float32(0.2) * sharp * (joints & (stuff == _PAVING))
    for start, length, middle, width, brightness in surface.patches:
        if view.station - length < start < view.station + 60:
            hit = is_road & (np.abs(station - start) < length) & (np.abs(side - middle) < width / 2)
            bright[hit] *= np.float32(brightness)
    half = np.float32(surface.half_width)
    wheels = np.minimum(np.abs(distance - half * np.float32(0.3)), np.abs(distance - half * np.float32(0.72)))
    gutter = np.clip((distance - half + np.float32(0.5)) * 2, 0, 1)
    bright *= 1 - is_road * (np.float32(0.1) * np.exp(-((wheels / np.float32(0.3)) ** 2)) + np.float32(0.16) * gutter)

    road = surface.road_colour
    yard = (road[0] * 1.06, road[1] * 1.06, road[2] * 1.06)
    palette = np.array(
        [surface.verge_colour, road, surface.pavement_colour, yard, (0.58, 0.57, 0.55)], dtype=np.float32
    )
    colours = palette[stuff] * bright[..., None]
    paint = _paint(surface, station, side, stain) * is_road
    colours += (_rgb((0.86, 0.86, 0.83)) - colours) * paint[..., None]
    dark = _shadow(view.street, station, side)[..., None]
    # What lies in shadow is lit by the sky alone, and so a little blue.
    colours += (_rgb((0.0, 0.03, 0.09)) - colours) * dark
    veil = 1 - np.exp(np.float32(-light.haze) * ahead)
    colours += (_rgb(light.haze_colour) - colours) * veil[..., None]
    return colours, _CLASS[stuff]


def _stuff(surface: Surface, station: Floats, side: Floats, distance: Floats) -> Pixels:
    """What each point of the ground is made of, as an index into _CLASS."""
    kerb_end = surface.half_width + surface.kerb
    stuff = np.full(side.shape, _VERGE, dtype=np.uint8)
    for of_side, paved, width in zip((side < 0, side >= 0), surface.verge_is_paved, surface.pavement, strict=True):
        if paved:
            stuff[of_side & (distance < 40)] = _YARD
        stuff[of_side & (distance < kerb_end + width)] = _PAVING
    stuff[distance < kerb_end] = _KERB
    stuff[distance < surface.half_width] = _ASPHALT
    if surface.crossing is not None:
        stuff[(np.abs(station - surface.crossing) < 4.2) & (distance < 60)] = _ASPHALT
    return stuff


def _paint(surface: Surface, station: Floats, side: Floats, stain: Floats) -> Floats:
    """How much of lane lines, edge lines and zebra crossings is left: 0 bare, 1 new."""
    paint = np.zeros(side.shape, dtype=bool)
    dashes = np.mod(station, np.float32(surface.dash * 2.4)) < surface.dash
    for lane in range(1, surface.lanes):
        line = np.float32((2 * lane / surface.lanes - 1) * surface.half_width)
        if surface.double_line and abs(line) < 0.1:
            paint |= np.abs(np.abs(side - line) - np.float32(0.12)) < 0.06
        else:
            paint |= (np.abs(side - line) < 0.08) & dashes
    if surface.edge_lines:
        paint |= np.abs(np.abs(side) - np.float32(surface.half_width - 0.35)) < 0.07
    if surface.crossing is not None:
        to_crossing = station - np.float32(surface.crossing)
        paint &= np.abs(to_crossing) > 5.5
        paint |= (np.abs(to_crossing + np.float32(5.8)) < 0.3) & (side * surface.drives_on > 0)
    if surface.zebra is not None:
        stripes = np.mod(side + 60, 1) < 0.5
        paint = np.where(np.abs(station - np.float32(surface.zebra)) < 1.7, stripes, paint)
    left = np.clip(np.float32(surface.paint) + np.float32(0.22) * stain, 0.05, 1)
    return np.asarray(left * paint, dtype=np.float32)


def _shadow(street: Street, station: Floats, side: Floats) -> Floats:
    """Share of the light that what stands on the sun's side takes away."""
    light = street.light
    if light.sun < 0.15:
        return np.zeros(side.shape, dtype=np.float32)
    toward_sun = side * light.sun_side
    slanted = station + np.float32(light.shear) * toward_sun
    table = _shadow_reach(street)
    where = np.clip((slanted + 20) / np.float32(STATION_STEP), 0, len(table) - 1).astype(np.int32)
    shadow = toward_sun > table[where]
    leaves = np.float32(0.35) * _sample(_noise_tile(1.4), side * 9 + 4096, station * 5)
    nearest, farthest = float(slanted.min()), float(station.min()) + 70
    for tree in street.things:
        if tree.kind == "tree" and tree.side * light.sun_side > 0 and nearest - 8 < tree.station < farthest:
            reach = abs(tree.side) - light.shadow_length * tree.height * 0.7
            crown = ((slanted - np.float32(tree.station)) / np.float32(tree.width * 0.75)) ** 2
            crown += ((toward_sun - np.float32(reach)) / np.float32(tree.height * 0.35)) ** 2
            shadow |= crown + leaves < 1
    return shadow * np.float32(light.sun * 0.45)


def _shadow_reach(street: Street) -> Floats:
    """Side, positive toward the sun, where walls' shadows begin, by station from -20 m on."""
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

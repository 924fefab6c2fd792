"""A generated street: its course, surface, light and camera, and the things beside it.

A street is drawn once a sequence; the frames of a sequence drive along it. Lengths are metres, angles
radians, colours RGB in 0..1. `station` is the distance along the street from its first frame; `side` is the signed
distance from the centre line, positive to the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Colour = tuple[float, float, float]

LOOK_AHEAD = 130.0  # metres: nothing farther away than this is drawn as a thing of its own
STATION_STEP = 0.5  # metres between two entries of the tables by station


@dataclass(frozen=True)
class Camera:
    focal: float  # in image widths
    horizon: float  # in image heights from the top
    height: float  # metres above the ground
    roll: float  # slope of the horizon
    yaw: float  # how far the street turns right of the camera's axis, a metre ahead
    vignette: float
    grain: float  # standard deviation of the sensor's noise, of 255


@dataclass(frozen=True)
class Light:
    sun: float  # 0: overcast, no shadows; 1: clear
    sun_side: int  # -1 or 1: side of the street that the sun stands on
    shadow_length: float  # metres of shadow a metre of height
    shear: float  # metres along the street a metre of shadow
    exposure: float
    tint: Colour
    haze: float  # share of the light lost a metre
    haze_colour: Colour
    zenith: Colour
    clouds: float


@dataclass(frozen=True)
class Surface:
    half_width: float  # of the road
    kerb: float  # width in metres; 0: the road's edge is bare
    pavement: tuple[float, float]  # width left, right; 0: none
    road_colour: Colour
    pavement_colour: Colour
    verge_colour: Colour
    verge_is_paved: tuple[bool, bool]  # a yard of road-like colour instead of grass
    lanes: int
    drives_on: int  # side that traffic keeps to: -1 left, 1 right
    edge_lines: bool
    double_line: bool
    paint: float  # 0: worn off, 1: new
    dash: float  # metres
    crossing: float | None  # station of a street that crosses
    zebra: float | None  # station of a pedestrian crossing
    patches: tuple[tuple[float, float, float, float, float], ...]  # station, length, side, width, brightness
    texture_origin: tuple[int, int]


@dataclass(frozen=True)
class Thing:
    """Something that stands on the ground. kind: building, tree, hedge, pole, car or person."""

    kind: str
    station: float
    side: float
    length: float  # along the street
    width: float  # across the street
    height: float
    colour: Colour
    variant: int
    speed: float = 0.0  # metres a frame, for cars that drive


@dataclass(frozen=True)
class Street:
    curvature: Floats  # 1/m by station, one entry every STATION_STEP metres
    wander: float  # metres that the camera is right of the centre line
    step: float  # metres between two frames
    surface: Surface
    light: Light
    camera: Camera
    things: tuple[Thing, ...]


def draw_street(seed: int, number: int, frames: int) -> Street:
    """The street of sequence `number`, long enough for `frames` frames; the same for the same arguments."""
    rng = np.random.default_rng((seed, number))
    step = float(rng.uniform(7.0, 13.0))
    length = LOOK_AHEAD + step * frames
    surface = _surface(rng, length)
    lane = surface.half_width * (0.5 if surface.lanes > 1 else 0.15)
    return Street(
        curvature=_curvature(rng, length),
        wander=float(surface.drives_on * lane * rng.uniform(0.6, 1.2)),
        step=step,
        surface=surface,
        light=_light(rng),
        camera=Camera(
            focal=float(rng.uniform(0.5, 0.68)),
            horizon=float(rng.uniform(0.35, 0.48)),
            height=float(rng.uniform(1.3, 1.8)),
            roll=float(rng.normal(0, 0.015)),
            yaw=float(rng.uniform(-0.12, 0.12)),
            vignette=float(rng.uniform(0.0, 0.35)),
            grain=float(rng.uniform(1.0, 3.0)),
        ),
        things=tuple(_things(rng, surface, length)),
    )


def _curvature(rng: np.random.Generator, length: float) -> Floats:
    station = np.arange(0.0, length + 2 * STATION_STEP, STATION_STEP)
    bend = rng.normal(0, 0.005) + rng.normal(0, 0.007) * np.sin(station / rng.uniform(18, 45) + rng.uniform(0, 6.3))
    return np.asarray(bend, dtype=np.float32)


def _grey(rng: np.random.Generator, low: float, high: float, tint: float) -> Colour:
    level = rng.uniform(low, high)
    warm = rng.normal(0, tint)
    return (float(level * (1 + warm)), float(level), float(level * (1 - warm)))


def _surface(rng: np.random.Generator, length: float) -> Surface:
    half_width = float(rng.uniform(2.8, 5.8))
    road = _grey(rng, 0.27, 0.44, 0.025)
    town = rng.random() < 0.7
    # Pavement of nearly the road's own colour: what tells them apart is the kerb, the place and the light.
    likeness = rng.uniform(0.66, 0.82) if rng.random() < 0.25 else rng.uniform(1.2, 1.55)
    pavement = (
        road[0] * likeness * (1 + float(rng.normal(0, 0.04))),
        road[1] * likeness,
        road[2] * likeness * (1 + float(rng.normal(0, 0.04))),
    )
    grass = (float(rng.uniform(0.22, 0.33)), float(rng.uniform(0.34, 0.42)), float(rng.uniform(0.12, 0.18)))
    widths = tuple(float(rng.uniform(1.4, 3.8)) if town and rng.random() < 0.85 else 0.0 for _ in range(2))
    patches = [
        (
            float(rng.uniform(4, length)),
            float(rng.uniform(1, 9)),
            float(rng.uniform(-half_width, half_width)),
            float(rng.uniform(0.4, 2.6)),
            float(rng.choice([rng.uniform(0.68, 0.9), rng.uniform(1.08, 1.25)])),
        )
        for _ in range(int(length / 22))
    ]
    return Surface(
        half_width=half_width,
        kerb=float(rng.uniform(0.12, 0.3)) if town else 0.0,
        pavement=(widths[0], widths[1]),
        road_colour=road,
        pavement_colour=pavement,
        verge_colour=grass,
        verge_is_paved=(bool(town and rng.random() < 0.12), bool(town and rng.random() < 0.12)),
        lanes=int(1 if half_width < 3.2 else rng.choice([2, 2, 3, 4] if half_width > 4.6 else [2])),
        drives_on=int(rng.choice([-1, 1])),
        edge_lines=bool(rng.random() < (0.35 if town else 0.8)),
        double_line=bool(rng.random() < 0.2),
        paint=float(rng.uniform(0.25, 1.0)),
        dash=float(rng.uniform(2.5, 5.0)),
        crossing=float(rng.uniform(18, length)) if rng.random() < 0.15 else None,
        zebra=float(rng.uniform(12, length)) if town and rng.random() < 0.3 else None,
        patches=tuple(patches),
        texture_origin=(int(rng.integers(256)), int(rng.integers(256))),
    )


def _light(rng: np.random.Generator) -> Light:
    sun = float(np.clip(rng.uniform(-0.35, 1.1), 0, 1))
    evening = rng.random() < 0.1
    warm = float(rng.uniform(0.05, 0.16) if evening else rng.normal(0, 0.035))
    zenith = np.array([0.32, 0.5, 0.8]) * sun + np.array([0.68, 0.72, 0.77]) * (1 - sun)
    haze = np.array([0.78, 0.82, 0.86]) + np.array([0.12, 0.0, -0.2]) * (warm * 4 if evening else 0.0)
    return Light(
        sun=sun,
        sun_side=int(rng.choice([-1, 1])),
        shadow_length=float(rng.uniform(0.35, 1.4)),
        shear=float(rng.normal(0, 0.5)),
        exposure=float(rng.uniform(0.62, 0.85) if evening else rng.uniform(0.85, 1.2)),
        tint=(1 + warm, 1.0, 1 - warm),
        haze=float(rng.choice([0.002, 0.004, 0.007, 0.013]) * rng.uniform(0.7, 1.3)),
        haze_colour=(float(haze[0]), float(haze[1]), float(haze[2])),
        zenith=(float(zenith[0]), float(zenith[1]), float(zenith[2])),
        clouds=float(rng.uniform(0, 0.9)),
    )


WALLS: tuple[Colour, ...] = (
    (0.46, 0.44, 0.42), (0.60, 0.56, 0.50), (0.62, 0.40, 0.31), (0.72, 0.66, 0.54),
    (0.36, 0.37, 0.39), (0.53, 0.53, 0.55), (0.70, 0.69, 0.66), (0.50, 0.33, 0.28),
)  # fmt: skip
PAINTS: tuple[Colour, ...] = (
    (0.08, 0.08, 0.09), (0.30, 0.31, 0.33), (0.55, 0.56, 0.58), (0.82, 0.82, 0.83),
    (0.50, 0.08, 0.07), (0.10, 0.17, 0.38), (0.38, 0.38, 0.36), (0.16, 0.28, 0.22),
)  # fmt: skip


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    base = np.asarray(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.85, 1.15)
    return (float(base[0]), float(base[1]), float(base[2]))


def _things(rng: np.random.Generator, surface: Surface, length: float) -> list[Thing]:
    things: list[Thing] = []
    for hand in (-1, 1):
        pavement = surface.pavement[0 if hand < 0 else 1]
        edge = surface.half_width + surface.kerb + pavement
        things += _frontage(rng, surface, hand, edge, length)
        things += _kerbside(rng, surface, hand, edge, pavement, length)
    return things + _traffic(rng, surface, length)


def _clear_of_crossing(surface: Surface, station: float, length: float) -> bool:
    return surface.crossing is None or not surface.crossing - 5 - length < station < surface.crossing + 5


def _frontage(rng: np.random.Generator, surface: Surface, hand: int, edge: float, length: float) -> list[Thing]:
    """Buildings, hedges and trees along one side."""
    things = []
    built = rng.uniform(0.75, 1.0) if surface.pavement[0 if hand < 0 else 1] else rng.uniform(0.0, 0.35)
    setback = float(rng.choice([0.2, 1.5, 6.0]))
    station = float(rng.uniform(-8, 4))
    while station < length + 10:
        extent = float(rng.uniform(7, 20))
        clear = _clear_of_crossing(surface, station, extent)
        if clear and rng.random() < built:
            height = float(rng.uniform(4, 16))
            at = hand * (edge + setback + float(rng.uniform(0, 1)))
            wall = _pick(rng, WALLS)
            things.append(Thing("building", station, at, extent, 9.0, height, wall, int(rng.integers(1 << 16))))
        elif clear:
            for _ in range(int(rng.integers(1, 4))):
                at = hand * (edge + float(rng.uniform(0.8, 9)))
                height = float(rng.uniform(3, 9))
                green = _green(rng)
                where = station + float(rng.uniform(0, extent))
                things.append(
                    Thing(
                        "tree",
                        where,
                        at,
                        height * 0.5,
                        height * 0.5,
                        height,
                        green,
                        int(rng.integers(1 << 16)),
                    )
                )
            if rng.random() < 0.4:
                at = hand * (edge + 0.8)
                things.append(Thing("hedge", station, at, extent, 1.0, float(rng.uniform(0.7, 2.0)), _green(rng), 0))
        station += extent
    return things


def _green(rng: np.random.Generator) -> Colour:
    return (float(rng.uniform(0.15, 0.3)), float(rng.uniform(0.23, 0.34)), float(rng.uniform(0.09, 0.17)))


def _kerbside(
    rng: np.random.Generator, surface: Surface, hand: int, edge: float, pavement: float, length: float
) -> list[Thing]:
    """Lamp posts, people, street trees and parked cars along one side."""
    things = []
    spacing = float(rng.uniform(16, 32))
    at = hand * (surface.half_width + surface.kerb + 0.35)
    for station in np.arange(float(rng.uniform(0, spacing)), length, spacing):
        things.append(Thing("pole", float(station), at, 0.14, 0.14, 6.0, (0.25, 0.26, 0.27), int(rng.integers(3))))
    if pavement:
        for station in rng.uniform(4, length, size=int(rng.integers(0, 7))):
            where = hand * (edge - pavement * float(rng.uniform(0.1, 0.8)))
            cloth = _pick(rng, PAINTS + WALLS)
            things.append(Thing("person", float(station), where, 0.4, 0.5, float(rng.uniform(1.5, 1.9)), cloth, 0))
        if rng.random() < 0.4:
            for station in np.arange(float(rng.uniform(2, 12)), length, float(rng.uniform(9, 18))):
                height = float(rng.uniform(3.5, 6.5))
                variant = int(rng.integers(1 << 16))
                things.append(Thing("tree", float(station), at * 1.05, 2.4, 2.4, height, _green(rng), variant))
    if surface.half_width > 3.6 and rng.random() < 0.5:
        crowd = rng.uniform(0.2, 0.8)
        for station in np.arange(float(rng.uniform(6, 14)), length, 6.2):
            if rng.random() < crowd and _clear_of_crossing(surface, float(station), 4.5):
                things.append(_car(rng, float(station), hand * (surface.half_width - 1.0), 0.0))
    return things


def _traffic(rng: np.random.Generator, surface: Surface, length: float) -> list[Thing]:
    lane = surface.half_width * 0.5 * surface.drives_on
    cars = []
    if rng.random() < 0.55:
        cars.append(_car(rng, float(rng.uniform(9, 40)), lane * 0.8, float(rng.uniform(6, 12))))
    for station in rng.uniform(10, length, size=int(rng.integers(0, 4))):
        cars.append(_car(rng, float(station), -lane * 0.9, -float(rng.uniform(2, 8))))
    return cars


def _car(rng: np.random.Generator, station: float, side: float, speed: float) -> Thing:
    tall = rng.random() < 0.18
    height, length = (2.3, 5.2) if tall else (float(rng.uniform(1.4, 1.7)), float(rng.uniform(3.8, 4.6)))
    return Thing("car", station, side, length, 1.9 if tall else 1.75, height, _pick(rng, PAINTS), int(tall), speed)

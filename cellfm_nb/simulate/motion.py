"""How puncta move, split, merge, blink and bleach: the exact tables of a scene, before any light is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellfm_nb.seeds import rng
from cellfm_nb.simulate.cell import Cell
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.confinement import anchor, confined_step, direction
from cellfm_nb.simulate.truth import Truth

REST = 3  # frames after birth in which a punctum neither splits nor merges
CAPTURE_UM = 1.6  # partners of a merge are looked for within this distance
PATIENCE = 8  # frames after which partners that have not met give up


@dataclass
class Punctum:
    """One punctum while it lives: where it is (um), how it moves and shines."""

    id: int
    position: np.ndarray
    mass: float  # without bleaching
    radius: float
    born: int
    heading: np.ndarray | None = None  # unit direction of a directed run
    anchor: np.ndarray | None = None  # middle of the domain of a confined one
    leaving: np.ndarray | None = None  # unit direction away from the sibling, for REST frames
    partner: int = -1
    waiting: int = 0  # frames spent walking to the partner
    dark: int = 0  # frames still dark


def simulate_tracks(config: SceneConfig, seed: int = 0) -> Truth:
    """Simulate the puncta of a scene, without light.

    Parameters: config; seed, the run's one seed.
    Returns: Truth with masses relative to the median punctum. Puncta begin and end by splitting or merging, and by
    appearing anywhere in the cell or vanishing, at the rates set; walls reflect. A split's children share its mass
    (Beta(2, 2)) and appear at opposite sides of where it would have been; a merge's child carries both masses and
    appears at their centre of mass. Mass is conserved exactly, but for the bleaching between the two frames. With
    drift the positions are those in the field; what has drifted out of it is not visible.
    Raises InputError when the field is too small to hold a cell.
    """
    cell = Cell.make(config.size_um, config.envelope, seed)
    return _Colony(config, cell, seed).run()


class _Colony:
    """Carry the state of all puncta from frame to frame and write down what happens."""

    def __init__(self, config: SceneConfig, cell: Cell, seed: int) -> None:
        self.config, self.cell = config, cell
        # generators of their own: switching one thing on does not change the others
        generator, self.confining, self.turnover = (rng(seed, "simulate", what)
                                                    for what in ("motion", "confined", "turnover"))
        self.rng = generator
        self.alive: dict[int, Punctum] = {}
        self.rows: list[tuple] = []
        self.tracks: list[dict] = []
        self.events: list[dict] = []
        # events fall at even steps of their expected count: a short movie has as many as its rates promise
        self.due = {"split": generator.uniform(), "merge": generator.uniform()}
        n = config.n_puncta if config.density_per_um3 is None else \
            max(1, round(config.density_per_um3 * cell.volume_um3()))
        self.n_start = n
        masses = np.exp(config.brightness_spread * generator.standard_normal(n))
        radii = generator.uniform(*config.radius_um, n)
        for position, mass, radius in zip(cell.sample(n, generator), masses, radii, strict=True):
            heading = direction(self.rng) if generator.uniform() < config.directed_share else None
            self._birth(0, position, mass, radius, heading=heading)
        for punctum in self.alive.values():
            punctum.born = -REST

    def run(self) -> Truth:
        for frame in range(self.config.shape[0]):
            if frame:
                self._move()
                self._finish_merges(frame)
                self._vanish(frame)
                self._split(frame)
                self._pair(frame)
                self._appear(frame)
            self._write(frame)
        last = self.config.shape[0] - 1
        for track in self.tracks:
            track["end"] = last if track["end"] is None else track["end"]
        columns = ["track_id", "frame", "t_s", "z", "y", "x", "z_um", "y_um", "x_um", "mass", "radius_um", "visible"]
        events = pd.DataFrame(self.events, columns=["event_id", "kind", "frame", "z_um", "y_um", "x_um", "parents",
                                                    "children"])
        return Truth(self.config, pd.DataFrame(self.rows, columns=columns), pd.DataFrame(self.tracks), events)

    # one frame

    def _move(self) -> None:
        config, puncta = self.config, list(self.alive.values())
        old = np.array([p.position for p in puncta]).reshape(-1, 3)
        step = np.sqrt(2 * config.diffusion_um2_s * config.dt_s) * self.rng.standard_normal(old.shape)
        stop, start = self._switching()
        chance = self.rng.uniform(size=len(puncta))
        for i, punctum in enumerate(puncta):
            if punctum.partner >= 0:  # walk to the partner, not past it
                way = self.alive[punctum.partner].position - punctum.position
                far = np.linalg.norm(way)
                step[i] = 0.5 * step[i] + way * min(config.separation_um_s * config.dt_s, far / 2) / max(far, 1e-9)
            elif punctum.leaving is not None:
                step[i] += punctum.leaving * config.separation_um_s * config.dt_s
            elif punctum.anchor is not None:
                step[i] = confined_step(punctum.position - punctum.anchor, step[i], config, self.confining)
            elif punctum.heading is not None:
                step[i] += punctum.heading * config.speed_um_s * config.dt_s
                punctum.heading = None if chance[i] < stop else punctum.heading
            elif chance[i] < start:
                punctum.heading = direction(self.rng)
        new = self.cell.reflect(old, old + step)
        bounced = np.linalg.norm(new - old - step, axis=1) > 1e-9
        for punctum, position, hit in zip(puncta, new, bounced, strict=True):
            punctum.position = position
            if punctum.anchor is not None and (punctum.partner >= 0 or punctum.leaving is not None):
                punctum.anchor = anchor(position, self.config, self.confining)  # its domain is where it is left
            if hit and punctum.heading is not None:
                punctum.heading = direction(self.rng)

    def _switching(self) -> tuple[float, float]:
        """Return the chances, per frame, to end and to begin a directed run: stationary at the set share."""
        share, stop = self.config.directed_share, min(1.0, self.config.dt_s / self.config.run_s)
        return stop, min(1.0, stop * share / (1 - share))

    def _finish_merges(self, frame: int) -> None:
        for one in list(self.alive.values()):
            other = self.alive.get(one.partner)
            if one.id not in self.alive or other is None or one.id > other.id:
                continue
            one.waiting = other.waiting = one.waiting + 1
            if np.linalg.norm(one.position - other.position) <= self.config.contact_um:
                mass = one.mass + other.mass
                place = (one.mass * one.position + other.mass * other.position) / mass
                place = place if self.cell.depth_um(place[None])[0] > 0 else max((one, other), key=_mass).position
                radius = min(0.5, float(np.cbrt(one.radius**3 + other.radius**3)))
                self._end(one, frame), self._end(other, frame)
                child = self._birth(frame, place, mass, radius, parent=max((one, other), key=_mass).id)
                self._event("merge", frame, place, [one.id, other.id], [child.id])
            elif one.waiting >= PATIENCE:
                one.partner = other.partner = -1

    def _split(self, frame: int) -> None:
        config = self.config
        able = [p for p in self.alive.values() if p.partner < 0 and frame - p.born >= REST]
        for parent in self._choose("split", able, config.split_rate_s):
            share = float(np.clip(self.rng.beta(2, 2), 0.2, 0.8))
            axis = direction(self.rng)
            gap = 1.2 * config.contact_um
            self._end(parent, frame)
            children = []
            for part, side in ((share, 1 - share), (1 - share, -share)):  # the centre of mass stays where it was
                wanted = parent.position + side * gap * axis
                place = self.cell.reflect(parent.position[None], wanted[None])[0]
                radius = parent.radius * float(np.cbrt(part))
                children.append(self._birth(frame, place, part * parent.mass, radius, parent=parent.id,
                                            leaving=np.sign(side) * axis))
            self._event("split", frame, parent.position, [parent.id], [c.id for c in children])

    def _pair(self, frame: int) -> None:
        """Send some puncta, and the free one nearest to each, towards each other."""
        able = [p for p in self.alive.values() if p.partner < 0 and p.leaving is None and frame - p.born >= REST]
        for one in self._choose("merge", able, self.config.merge_rate_s):
            others = [p for p in able if p.partner < 0 and p is not one]
            if one.partner >= 0 or not others:
                continue
            away = np.linalg.norm([p.position - one.position for p in others], axis=1)
            if away.min() <= CAPTURE_UM:
                other = others[int(away.argmin())]
                one.partner, other.partner, one.waiting, other.waiting = other.id, one.id, 0, 0
            else:
                self.due["merge"] += 1  # nobody near: the next frame tries with another

    def _vanish(self, frame: int) -> None:
        if not self.config.vanish_rate_s:
            return
        chance = -np.expm1(-self.config.vanish_rate_s * self.config.dt_s)
        old = [p for p in self.alive.values() if p.born < frame]
        for punctum, drawn in zip(old, self.turnover.uniform(size=len(old)), strict=True):
            if drawn < chance:
                self._end(punctum, frame)
                if punctum.partner in self.alive:
                    self.alive[punctum.partner].partner = -1

    def _appear(self, frame: int) -> None:
        config, draw = self.config, self.turnover
        if not config.appear_rate_s:
            return
        for position in self.cell.sample(draw.poisson(config.appear_rate_s * self.n_start * config.dt_s), draw):
            heading = direction(draw) if draw.uniform() < config.directed_share else None
            self._birth(frame, position, np.exp(config.brightness_spread * draw.standard_normal()),
                        draw.uniform(*config.radius_um), heading=heading)

    def _choose(self, kind: str, able: list[Punctum], rate: float) -> list[Punctum]:
        self.due[kind] += rate * len(able) * self.config.dt_s
        n = min(int(self.due[kind]), len(able))
        self.due[kind] -= n
        return [able[i] for i in self.rng.permutation(len(able))[:n]]

    def _write(self, frame: int) -> None:
        config = self.config
        fade = np.exp(-frame * config.dt_s / config.bleach_s)
        drift = np.multiply(config.drift_um_s, frame * config.dt_s)
        for punctum in self.alive.values():
            if punctum.leaving is not None and frame - punctum.born >= REST:
                punctum.leaving = None
            if punctum.dark:
                punctum.dark -= 1
            elif self.rng.uniform() < config.blink_probability and frame > max(punctum.born, 0):
                punctum.dark = int(self.rng.integers(1, config.blink_frames + 1))
            place = punctum.position + drift
            seen = punctum.dark == 0 and bool(np.all((place >= 0) & (place < config.size_um)))
            voxel = place / np.asarray(config.spacing_um) - 0.5  # 0 is the centre of the first voxel
            where = voxel * np.asarray(config.spacing_um)
            self.rows.append((punctum.id, frame, frame * config.dt_s, *voxel, *where, punctum.mass * fade,
                              punctum.radius, seen))

    # births, ends, events

    def _birth(self, frame: int, position: np.ndarray, mass: float, radius: float, parent: int = -1,
               **state: np.ndarray | None) -> Punctum:
        punctum = Punctum(len(self.tracks), np.array(position), float(mass), float(radius), frame, **state)
        if self.config.confined_share and self.confining.uniform() < self.config.confined_share:
            punctum.anchor, punctum.heading = anchor(punctum.position, self.config, self.confining), None
        self.alive[punctum.id] = punctum
        self.tracks.append({"track_id": punctum.id, "start": frame, "end": None, "parent_id": parent})
        return punctum

    def _end(self, punctum: Punctum, frame: int) -> None:
        del self.alive[punctum.id]
        self.tracks[punctum.id]["end"] = frame - 1

    def _event(self, kind: str, frame: int, place: np.ndarray, parents: list[int], children: list[int]) -> None:
        drift = np.multiply(self.config.drift_um_s, frame * self.config.dt_s)
        z_um, y_um, x_um = place + drift - np.asarray(self.config.spacing_um) / 2
        self.events.append({"event_id": len(self.events), "kind": kind, "frame": frame, "z_um": z_um, "y_um": y_um,
                            "x_um": x_um, "parents": ";".join(map(str, parents)),
                            "children": ";".join(map(str, children))})


def _mass(punctum: Punctum) -> float:
    return punctum.mass

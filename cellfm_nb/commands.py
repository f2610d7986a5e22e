"""What each command of `cellfm` does with its options."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfm_nb.errors import InputError

if TYPE_CHECKING:
    from cellfm_nb.movie import Movie


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def run(args: argparse.Namespace) -> int:
    from cellfm_nb import notebooks, profiles
    from cellfm_nb.kernel import NotebookFailed
    from cellfm_nb.movie import Movie, parse_spacing
    from cellfm_nb.workspace import Workspace, pick_device, recorded_movie, resolve

    # everything that can be wrong is looked at before anything is written
    profiles.check(args.profile)
    if args.device != "auto":
        pick_device(args.device)
    overrides = _settings(args.sets)
    books = notebooks.select(args.first, args.last)
    notebooks.check_overrides(list(notebooks.listing().values()), overrides)
    spacing = list(parse_spacing(args.spacing)) if args.spacing else None
    dt = _positive(args.dt, "--dt") if args.dt else None
    movies = args.movie or [None]
    if not args.movie and args.workspace:  # go on with the movie it has
        movies = [recorded_movie(args.workspace)]
    said = [f"--{name}" for name in ("spacing", "dt", "axes", "frames") if getattr(args, name)]
    if said and movies == [None]:
        raise InputError(f"{' and '.join(said)} without a movie.", got="no --movie", expected="--movie PATH",
                         do="The simulated movie is changed by --set, such as --set n_frames=10.")
    if args.workspace and len(movies) > 1:
        raise InputError("One workspace can't hold several movies.", got=f"{len(movies)} movies and --workspace",
                         expected="one movie per folder", do="Leave --workspace out: each gets runs/<its name>.")
    plan = []
    for movie in movies:
        own_books = books
        if movie:
            opened = Movie.open(resolve(movie), spacing_um=spacing, dt_s=dt, axes=args.axes)
            own_books = _books_for(opened, books, args, overrides)
        plan.append((movie, args.workspace or (f"runs/{_stem(movie)}" if movie else "runs/demo"), own_books))
    if len({folder for _, folder, _ in plan}) < len(plan):
        raise InputError("Two movies have the same name.", got=", ".join(m for m, *_ in plan),
                         expected="names that differ", do="Run them one by one with --workspace.")
    for movie, folder, own_books in plan:
        ws = Workspace.open(folder, profile=args.profile, seed=args.seed, device=args.device)
        ws.claim_movie(movie)
        if movie:
            overrides |= {"movie_path": movie, "spacing_um": spacing, "dt_s": dt, "axes": args.axes,
                          "frames": args.frames}
        with notebooks.exclusive(ws):
            try:
                notebooks.run_notebooks(own_books, folder, profile=args.profile, device=args.device, seed=args.seed,
                                        **overrides)
            except NotebookFailed as failure:
                print(f"cellfm: {failure}", file=sys.stderr)
                return failure.status
            finally:
                notebooks.finish(ws)
        print(f"{folder}: summary.json, report.html, executed/", file=sys.stderr)
    return 0


def _books_for(movie: Movie, books: list[Path], args: argparse.Namespace, overrides: dict[str, Any]) -> list[Path]:
    """Say what was understood of a movie, guesses included, and return the notebooks that can take it."""
    from cellfm_nb import notebooks, profiles
    from cellfm_nb.movie import parse_frames

    frames = parse_frames(args.frames, movie.n_frames, movie.source)
    deep = profiles.trainable(args.profile, movie.shape[2:], movie.source)
    print(movie, file=sys.stderr)
    if args.frames:
        print(f"  {len(frames)} frames of it are taken", file=sys.stderr)
    if movie.n_channels > 1 and "channel" not in overrides:
        print(f"  of {movie.n_channels} channels the first is used; another: --set channel=1", file=sys.stderr)
    if deep:
        return books
    rest = [book for book in books if book.name[:2] not in notebooks.TRAINING]
    if not rest:
        raise InputError("The volume is smaller than a crop.", where=movie.source, got=f"{movie.shape[2]} planes",
                         expected="planes enough to train on", do="Leave --from and --to out: the other notebooks take "
                         "the small encoder of the package.")
    print(f"  {movie.shape[2]} planes are too few to train on: notebooks {' and '.join(notebooks.TRAINING)} are left "
          "out, the small encoder of the package is used", file=sys.stderr)
    return rest


def _stem(movie: str) -> str:
    name = Path(movie).name
    for suffix in (".ome.zarr", ".ome.tif", ".ome.tiff", ".zarr", ".tif", ".tiff"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _positive(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise InputError(f"Malformed {option}.", got=text, expected="a positive number", do=f"For example {option} 2.5")
    return value


def deskew(args: argparse.Namespace) -> int:
    from cellfm_nb.curate.deskew import deskew_command

    return deskew_command(args.raw, args.to, pixel=args.pixel, step=args.step, angle=args.angle, axis=args.axis,
                          direction=args.direction, rotate=args.rotate, spacing_out=args.voxel, dt=args.dt,
                          accept_doubtful=args.accept_doubtful)


def curate(args: argparse.Namespace) -> int:
    from cellfm_nb.curate.many import curate_command

    return curate_command(args.movies, args.to, dask=args.dask, workers=args.workers, spacing=args.spacing, dt=args.dt,
                          target=args.target, profile=args.profile, n_crops=args.crops, crop_shape=args.crop_shape,
                          validation=args.validation, raw_ok=args.raw_ok, seed=args.seed)


def pretrain(args: argparse.Namespace) -> int:
    """Train as notebook 03 does; `torchrun --nproc_per_node 8 -m cellfm_nb.cli pretrain ...` trains on many devices."""
    from dataclasses import fields

    from cellfm_nb.curate import ShardIndex, ShardLoader
    from cellfm_nb.encoder import EncoderConfig
    from cellfm_nb.here import pick_device, resolve
    from cellfm_nb.pretrain import PretrainSettings, ranks, write_pretrained
    from cellfm_nb.profiles import settings

    data, to = resolve(args.data), resolve(args.to)
    index = ShardIndex.load(data / "index.json")
    index = index.split("train") if any("split" in shard for shard in index.shards) else index
    loader = ShardLoader(index, data, seed=args.seed)
    spacing = index_spacing(loader)
    given = _settings(args.sets)
    names = {kind: {f.name for f in fields(kind)} for kind in (PretrainSettings, EncoderConfig)}
    if odd := sorted(set(given) - names[PretrainSettings] - names[EncoderConfig]):
        raise InputError("Unknown setting.", got=", ".join(odd), do="Check the spelling.",
                         expected=", ".join(sorted(names[PretrainSettings] | names[EncoderConfig])))
    size = settings(args.profile, "pretrain")
    chosen = {kind: {k: v for k, v in given.items() if k in known} for kind, known in names.items()}
    config = EncoderConfig(**{"spacing_um": spacing, **{n: getattr(size, n) for n in names[EncoderConfig]
                                                        if hasattr(size, n)}, **chosen[EncoderConfig]})
    how, device = PretrainSettings.of(size, **chosen[PretrainSettings]), pick_device(args.device)
    with ranks.joined(device) as device:
        files = [to / name for name in ("encoder.safetensors", "config.json", "log.csv", "checkpoint")]
        to.mkdir(parents=True, exist_ok=True)
        write_pretrained(*files, loader, config, how, args.seed, device)
    return 0


def index_spacing(loader: Any) -> tuple[float, ...]:
    """Return the spacing (z, y, x) in um of a data set's samples; raise InputError when they differ."""
    spacings = {tuple(loader[i][1]["spacing_um"]) for i in range(len(loader))}
    low, high = (tuple(map(pick, zip(*spacings, strict=True))) for pick in (min, max))
    if any(h > 1.02 * lo for lo, h in zip(low, high, strict=True)):
        raise InputError("The movies of this data set have different spacings.", got=f"{low} to {high} um",
                         expected="one spacing for one encoder", do="Curate them again with --target Z,Y,X.")
    return tuple(loader[0][1]["spacing_um"])


def _settings(sets: Sequence[str]) -> dict[str, Any]:
    found = {}
    for item in sets:
        name, sign, text = item.partition("=")
        if not sign:
            raise InputError("Malformed --set.", got=item, expected="NAME=VALUE", do="For example --set steps=20")
        found[name] = _value(text)
    return found


QUIET = ["--LabApp.news_url=None",  # JupyterLab asks nobody beyond this machine for news or newer versions
         "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate"]


def lab(args: argparse.Namespace) -> int:
    import subprocess

    from cellfm_nb.notebooks import folder

    env = {**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    options = [o for o in args.options if o != "--"]
    return subprocess.call([sys.executable, "-m", "jupyter", "lab", f"--notebook-dir={folder().parent}",
                            "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb", *QUIET, *options], env=env)


def doctor(args: argparse.Namespace) -> int:
    from cellfm_nb.doctor import report

    table = report()
    for row in table.itertuples():
        mark = "ok  " if row.ok else "look"
        print(f"{mark}  {row.check:22s} {row.value}" + (f"\n      what to do: {row.what_to_do}" if not row.ok else ""))
    return 0 if table[table.needed].ok.all() else 1


def data(args: argparse.Namespace) -> int:
    from cellfm_nb import manifest

    if args.action == "list":
        table = manifest.listing().astype(object).where(lambda t: t.notna(), "").astype(str)
        table = table.map(lambda text: text if len(text) <= 60 else text[:57] + "...")
        widths = {name: max(len(name), table[name].str.len().max()) for name in table}
        for row in [table.columns, *table.itertuples(index=False)]:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths.values(), strict=True)).rstrip())
        return 0
    for name in args.names or ["llsm_pycudadecon"]:
        found = manifest.fetch(name) if args.action == "fetch" else manifest.verify(name)
        for member, path in found.items():
            checked = manifest.dataset(name).fetchable or manifest.dataset(name).members
            print(f"{name}  {member}  {path}  " + ("sha256 ok" if checked else "here; no checksum is published"))
    return 0


def bench(args: argparse.Namespace) -> int:
    from cellfm_nb import bench

    return bench.main(args.name, args.json)

"""The command `cellfm`: run, deskew, curate, lab, doctor, data, bench."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_nb import __version__
from cellfm_nb.errors import InputError, Unreachable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns: 0 when all went well, 1 when a notebook or check failed, 2 on bad input (one message on stderr).
    """
    args = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    os.environ.setdefault("CELLFM_HOME", os.getcwd())
    try:
        return args.do(args) or 0
    except InputError as error:
        print(f"cellfm: {error}", file=sys.stderr)
        return 2
    except Unreachable as error:
        print(f"cellfm: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\ncellfm: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def _joined(argv: Sequence[str]) -> list[str]:
    """Join an option and a negative value ("--spacing -1,1,1"): argparse would take it for another option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1].startswith("--") and word[:1] == "-" and word[1:2].isdigit():
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="cellfm", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="run | deskew | curate | lab | doctor | data | bench")

    run = commands.add_parser("run", help="execute the notebooks headless")
    run.add_argument("--profile", default="tiny", help="tiny | workshop | full (default tiny)")
    run.add_argument("--movie", nargs="+", default=None, metavar="PATH",
                     help="your movie(s): TIFF, OME-TIFF, OME-Zarr, CZI, ND2 or a folder of per-frame stacks")
    run.add_argument("--spacing", metavar="Z,Y,X", help="voxel spacing in um; wins over the file's")
    run.add_argument("--dt", metavar="S", help="seconds between frames; wins over the file's")
    run.add_argument("--axes", metavar="LETTERS", help="axes of a TIFF that does not name them, such as tzyx")
    run.add_argument("--workspace", metavar="DIR", help="folder of the run (default runs/demo, or runs/<movie>)")
    run.add_argument("--from", dest="first", metavar="NN", help="first notebook")
    run.add_argument("--to", dest="last", metavar="NN", help="last notebook")
    run.add_argument("--device", default="auto", help="auto | cpu | cuda (default auto)")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE",
                     help="override a notebook parameter; may be repeated")
    run.set_defaults(do=_run)

    deskew = commands.add_parser("deskew", help="bring a raw stage scan into real space")
    deskew.add_argument("raw", metavar="RAW")
    deskew.add_argument("--to", required=True, metavar="FILE", help="a new .ome.zarr")
    deskew.add_argument("--pixel", type=float, required=True, metavar="UM", help="camera pixel in the sample")
    deskew.add_argument("--step", type=float, metavar="UM", help="of the stage (default: measured, given the angle)")
    deskew.add_argument("--angle", type=float, metavar="DEG", help="between sheet and stage (default: measured)")
    deskew.add_argument("--axis", choices=["x", "y"], help="along which the picture moves (default: measured)")
    deskew.add_argument("--direction", type=int, choices=[1, -1], help="of that move")
    deskew.add_argument("--rotate", action="store_true", help="turn it to the coverslip, on cubic voxels")
    deskew.add_argument("--voxel", type=float, metavar="UM", help="edge of those voxels (default: the pixel)")
    deskew.add_argument("--dt", type=float, metavar="S", help="seconds between frames")
    deskew.add_argument("--accept-doubtful", action="store_true", help="write even where the measure is doubtful")
    deskew.set_defaults(do=_deskew)

    curate = commands.add_parser("curate", help="turn a folder of movies into one data set to train on")
    curate.add_argument("movies", nargs="+", metavar="MOVIE_OR_FOLDER")
    curate.add_argument("--to", required=True, metavar="DIR", help="folder of the data set")
    curate.add_argument("--dask", metavar="ADDRESS", help="join this Dask scheduler (tcp://...); else workers here")
    curate.add_argument("--workers", type=int, default=2, help="processes here (default 2; 0: this one alone)")
    curate.add_argument("--spacing", metavar="Z,Y,X", help="voxel spacing in um of all movies; wins over the files'")
    curate.add_argument("--dt", metavar="S", help="seconds between frames of all movies; wins over the files'")
    curate.add_argument("--target", metavar="Z,Y,X", help="bring every movie to this spacing in um")
    curate.add_argument("--profile", default="tiny", help="tiny | workshop | full: crop size and number per movie")
    curate.add_argument("--crops", type=int, metavar="N", help="crops per movie (default: the profile's)")
    curate.add_argument("--crop-shape", metavar="Z,Y,X", help="voxels of a crop (default: the profile's)")
    curate.add_argument("--validation", type=float, default=0.1, metavar="SHARE", help="of the movies (default 0.1)")
    curate.add_argument("--raw-ok", action="store_true", help="take raw stage scans as they are")
    curate.add_argument("--seed", type=int, default=0)
    curate.set_defaults(do=_curate)

    lab = commands.add_parser("lab", help="open the notebooks in JupyterLab")
    lab.add_argument("options", nargs=argparse.REMAINDER, help="passed on to jupyter lab")
    lab.set_defaults(do=_lab)

    doctor = commands.add_parser("doctor", help="what works on this machine, and what to do about what does not")
    doctor.set_defaults(do=_doctor)

    data = commands.add_parser("data", help="list, fetch or verify datasets of the manifest")
    data.add_argument("action", choices=["list", "fetch", "verify"])
    data.add_argument("names", nargs="*", metavar="NAME")
    data.set_defaults(do=_data)

    bench = commands.add_parser("bench", help="ours and the named peers side by side")
    bench.add_argument("name", help="a bench, or 'list'")
    bench.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    bench.set_defaults(do=_bench)
    return top


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _run(args: argparse.Namespace) -> int:
    from cellfm_nb import notebooks, profiles
    from cellfm_nb.movie import Movie, parse_spacing
    from cellfm_nb.workspace import Workspace, pick_device, resolve

    # everything that can be wrong is looked at before anything is written
    profiles.check(args.profile)
    if args.device != "auto":
        pick_device(args.device)
    overrides = {}
    for item in args.sets:
        name, sign, text = item.partition("=")
        if not sign:
            raise InputError("Malformed --set.", got=item, expected="NAME=VALUE", do="For example --set steps=20")
        overrides[name] = _value(text)
    books = notebooks.select(args.first, args.last)
    notebooks.check_overrides(list(notebooks.listing().values()), overrides)
    spacing = list(parse_spacing(args.spacing)) if args.spacing else None
    dt = _positive(args.dt, "--dt") if args.dt else None
    movies = args.movie or [None]
    if not args.movie and args.workspace and resolve(args.workspace).is_dir():  # go on with the movie it has
        movies = [Workspace.open(args.workspace, profile=args.profile, seed=args.seed).movie_path]
    if args.workspace and len(movies) > 1:
        raise InputError("One workspace can't hold several movies.", got=f"{len(movies)} movies and --workspace",
                         expected="one movie per folder", do="Leave --workspace out: each gets runs/<its name>.")
    plan = []
    for movie in movies:
        if movie:
            opened = Movie.open(resolve(movie), spacing_um=spacing, dt_s=dt, axes=args.axes)
            profiles.check_volume(args.profile, opened.shape[2:], movie)
            print(opened, file=sys.stderr)  # what was understood, guesses included
            if opened.n_channels > 1 and "channel" not in overrides:
                print(f"  of {opened.n_channels} channels the first is used; another: --set channel=1", file=sys.stderr)
        plan.append((movie, args.workspace or (f"runs/{_stem(movie)}" if movie else "runs/demo")))
    if len({folder for _, folder in plan}) < len(plan):
        raise InputError("Two movies have the same name.", got=", ".join(m for m, _ in plan),
                         expected="names that differ", do="Run them one by one with --workspace.")
    for movie, folder in plan:
        ws = Workspace.open(folder, profile=args.profile, seed=args.seed, device=args.device)
        ws.claim_movie(movie)
        given = {**overrides, **({"movie_path": movie, "spacing_um": spacing, "dt_s": dt, "axes": args.axes}
                              if movie else {})}
        with notebooks.exclusive(ws):
            try:
                notebooks.run_notebooks(books, folder, profile=args.profile, device=args.device, seed=args.seed,
                                        **given)
            except notebooks.NotebookFailed as failure:
                print(f"cellfm: {failure}", file=sys.stderr)
                return failure.status
            finally:
                notebooks.finish(ws)
        print(f"{folder}: summary.json, report.html, executed/", file=sys.stderr)
    return 0


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


def _deskew(args: argparse.Namespace) -> int:
    from cellfm_nb.curate.deskew import deskew_command

    return deskew_command(args.raw, args.to, pixel=args.pixel, step=args.step, angle=args.angle, axis=args.axis,
                          direction=args.direction, rotate=args.rotate, spacing_out=args.voxel, dt=args.dt,
                          accept_doubtful=args.accept_doubtful)


def _curate(args: argparse.Namespace) -> int:
    from cellfm_nb.curate.many import curate_command

    return curate_command(args.movies, args.to, dask=args.dask, workers=args.workers, spacing=args.spacing, dt=args.dt,
                          target=args.target, profile=args.profile, n_crops=args.crops, crop_shape=args.crop_shape,
                          validation=args.validation, raw_ok=args.raw_ok, seed=args.seed)


def _lab(args: argparse.Namespace) -> int:
    import subprocess

    from cellfm_nb.notebooks import folder

    env = {**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    options = [o for o in args.options if o != "--"]
    return subprocess.call([sys.executable, "-m", "jupyter", "lab", f"--notebook-dir={folder().parent}",
                            "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb", *options], env=env)


def _doctor(args: argparse.Namespace) -> int:
    from cellfm_nb.doctor import report

    table = report()
    for row in table.itertuples():
        mark = "ok  " if row.ok else "look"
        print(f"{mark}  {row.check:22s} {row.value}" + (f"\n      what to do: {row.what_to_do}" if not row.ok else ""))
    return 0 if table[table.needed].ok.all() else 1


def _data(args: argparse.Namespace) -> int:
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


def _bench(args: argparse.Namespace) -> int:
    from cellfm_nb import bench

    return bench.main(args.name, args.json)


if __name__ == "__main__":
    sys.exit(main())

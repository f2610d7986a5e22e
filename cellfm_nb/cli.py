"""The command `cellfm`: run, deskew, curate, pretrain, lab, doctor, data, bench."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cellfm_nb import __version__, commands
from cellfm_nb.errors import InputError, Unreachable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns: 0 when all went well, 1 when a notebook or check failed, 2 on bad input (one message on stderr).
    """
    parser = _parser()
    args, args.options = parser.parse_known_args(_joined(sys.argv[1:] if argv is None else argv))
    if args.options and args.do is not commands.lab:  # JupyterLab knows options that we need not
        parser.error(f"unrecognized arguments: {' '.join(args.options)}")
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
        return 141  # as a command that SIGPIPE ended: what was to be done may not be
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


def _sized(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options that decide how large a computation is, where it runs, and what it draws."""
    parser.add_argument("--profile", default="tiny", help="tiny | workshop | full (default tiny)")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda (default auto)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE",
                        help=f"override {what}; may be repeated")


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="cellfm", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    parsers = top.add_subparsers(required=True, title="commands", metavar="COMMAND")

    run = parsers.add_parser("run", help="execute the notebooks headless")
    run.add_argument("--movie", nargs="+", default=None, metavar="PATH",
                     help="your movie(s): TIFF, OME-TIFF, OME-Zarr, CZI, ND2 or a folder of per-frame stacks")
    run.add_argument("--spacing", metavar="Z,Y,X", help="voxel spacing in um; wins over the file's")
    run.add_argument("--dt", metavar="S", help="seconds between frames; wins over the file's")
    run.add_argument("--axes", metavar="LETTERS", help="axes of a TIFF that does not name them, such as tzyx")
    run.add_argument("--frames", metavar="A:B", help="from A to before B, counted from 0; A:B:2 every second")
    run.add_argument("--workspace", metavar="DIR", help="folder of the run (default runs/demo, or runs/<movie>)")
    run.add_argument("--from", dest="first", metavar="NN", help="first notebook")
    run.add_argument("--to", dest="last", metavar="NN", help="last notebook")
    _sized(run, "a notebook parameter")
    run.set_defaults(do=commands.run)

    deskew = parsers.add_parser("deskew", help="bring a raw stage scan into real space")
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
    deskew.set_defaults(do=commands.deskew)

    curate = parsers.add_parser("curate", help="turn a folder of movies into one data set to train on")
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
    curate.set_defaults(do=commands.curate)

    train = parsers.add_parser("pretrain", help="train an encoder on a data set, on one device or many (torchrun)")
    train.add_argument("data", metavar="DIR", help="folder with an index.json: of `cellfm curate`, or RUN/curate")
    train.add_argument("--to", required=True, metavar="DIR", help="folder of the encoder; a killed run goes on there")
    _sized(train, "a setting of the training or the encoder")
    train.set_defaults(do=commands.pretrain)

    lab = parsers.add_parser("lab", help="open the notebooks in JupyterLab; its options are passed on (--no-browser)")
    lab.set_defaults(do=commands.lab)

    doctor = parsers.add_parser("doctor", help="what works on this machine, and what to do about what does not")
    doctor.set_defaults(do=commands.doctor)

    data = parsers.add_parser("data", help="list, fetch or verify datasets of the manifest")
    data.add_argument("action", choices=["list", "fetch", "verify"])
    data.add_argument("names", nargs="*", metavar="NAME")
    data.set_defaults(do=commands.data)

    bench = parsers.add_parser("bench", help="ours and the named peers side by side")
    bench.add_argument("name", help="a bench, or 'list'")
    bench.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    bench.set_defaults(do=commands.bench)
    return top


if __name__ == "__main__":
    sys.exit(main())

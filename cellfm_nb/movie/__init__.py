"""Movies as files: a lazy (t, c, z, y, x) image with its spacing, interval and channel names, and who says so.

TIFF and OME-Zarr in and out; folders of stacks, CZI and ND2 in.
"""

from cellfm_nb.movie.labels import open_labels, write_labels
from cellfm_nb.movie.movie import Movie, import_movie
from cellfm_nb.movie.omezarr import list_labels
from cellfm_nb.movie.spacing import parse_dt, parse_frames, parse_spacing
from cellfm_nb.movie.writing import write_frames

__all__ = ["Movie", "import_movie", "list_labels", "open_labels", "parse_dt", "parse_frames", "parse_spacing",
           "write_frames", "write_labels"]

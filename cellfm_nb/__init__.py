"""cellfm_nb: lattice light-sheet movies from raw stacks to tracks, without a human label, in notebooks.

Importing this package is cheap: the rooms (simulate, curate, encoder, pretrain, repair, stream, segment, track, score,
view) are imported by name where they are needed.
"""

from cellfm_nb.errors import InputError, Unreachable

__version__ = "0.1.0"
__all__ = ["InputError", "Unreachable", "__version__"]

"""Stream: features over volumes of any size, every key counted, exact or with an estimated error."""

from cellfm_nb.stream.activation import Observer, add_spots, fit_observer
from cellfm_nb.stream.attention import OnlineSoftmax, online_softmax_attention, pick_backend
from cellfm_nb.stream.clusters import Fit
from cellfm_nb.stream.colours import Colours, fit_colours
from cellfm_nb.stream.encode import Features, StreamingEncoder
from cellfm_nb.stream.estimate import Estimate, token_cosines
from cellfm_nb.stream.layout import bytes_per_frame, iterate_features, read_features, read_records
from cellfm_nb.stream.machine import STATED, Device
from cellfm_nb.stream.many import stream_movies
from cellfm_nb.stream.pca import Moments, Pca, fit_pca
from cellfm_nb.stream.plan import Choice, Plan, plan
from cellfm_nb.stream.store import TokenStore
from cellfm_nb.stream.upsample import upsample
from cellfm_nb.stream.write import read_observer, write_activation, write_features, write_pca

__all__ = ["Choice", "Colours", "Device", "Estimate", "Features", "Fit", "Moments", "Observer", "OnlineSoftmax", "Pca",
           "Plan", "STATED", "StreamingEncoder", "TokenStore", "add_spots", "bytes_per_frame", "fit_colours",
           "fit_observer", "fit_pca", "iterate_features", "online_softmax_attention", "pick_backend", "plan",
           "read_features", "read_observer", "read_records", "stream_movies", "token_cosines", "upsample",
           "write_activation", "write_features", "write_pca"]

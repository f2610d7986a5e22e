"""Stream: features over volumes of any size, every key counted, the same as the dense encoder."""

from cellfm_nb.stream.activation import Observer, add_spots, fit_observer
from cellfm_nb.stream.attention import OnlineSoftmax, online_softmax_attention
from cellfm_nb.stream.encode import Features, StreamingEncoder
from cellfm_nb.stream.pca import Moments, Pca, fit_pca, rgb
from cellfm_nb.stream.plan import Choice, Plan, plan
from cellfm_nb.stream.store import TokenStore
from cellfm_nb.stream.write import (
    iterate_features,
    read_features,
    read_observer,
    write_activation,
    write_features,
    write_pca,
)

__all__ = ["Choice", "Features", "Moments", "Observer", "OnlineSoftmax", "Pca", "Plan", "StreamingEncoder",
           "TokenStore", "add_spots", "fit_observer", "fit_pca", "iterate_features", "online_softmax_attention", "plan",
           "read_features", "read_observer", "rgb", "write_activation", "write_features", "write_pca"]

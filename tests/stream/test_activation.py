"""The activation finds objects without labels, alike in every frame; the channel sum and the distance do not (G7)."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.stream.activation import add_spots, fit_observer
from cellfm_nb.stream.encode import StreamingEncoder

PATCH, SPACING_UM = (4, 8, 8), (0.25, 0.1, 0.1)


def auroc(activation, truth):
    return roc_auc_score(truth.ravel(), np.asarray(activation).ravel())


@pytest.fixture(scope="module")
def scene():
    """Noise with objects of unknown places; its features; the change that added spots make. Encoder untrained."""
    encoder = Encoder(EncoderConfig(spacing_um=SPACING_UM, depth=1), seed=0)
    with torch.no_grad():  # the last LayerNorm as published maps see it: gain 1, bias 0
        encoder.norm.weight.fill_(1)
        encoder.norm.bias.zero_()
    streamer, noise = StreamingEncoder(encoder), rng(0, "scene").normal(size=(24, 96, 96)).astype(np.float32)
    noise[:, :, 72:] = 0  # the empty corner of a deskewed stack
    volume, truth = add_spots(noise, PATCH, SPACING_UM, rng(0, "objects"), peak=(5.0, 10.0), sigma_um=(0.3, 0.12, 0.12))
    plain = streamer.encode(volume, progress=False).patches
    spotted, touched = add_spots(volume, PATCH, SPACING_UM, rng(0, "spots"))
    change = (streamer.encode(spotted, progress=False).patches - plain)[touched]
    return plain, change, truth


def test_finds_objects_without_labels(scene):
    plain, change, truth = scene
    activation = fit_observer(plain.reshape(-1, 128), change).activation(plain)
    assert activation.shape == truth.shape and auroc(activation, truth) > 0.9
    assert abs(np.median(activation)) < 1e-6
    empty = ~truth & (np.arange(12) >= 10)  # tokens well inside the empty corner
    assert (activation[empty] > np.quantile(activation, 0.95)).mean() < 0.1


def test_control_the_channel_sum_is_constant(scene):
    """After a LayerNorm of gain 1 and bias 0 the sum of channels is rounding error, whatever the image."""
    plain, _, truth = scene
    assert np.abs(plain.sum(-1)).max() < 1e-3
    assert abs(auroc(plain.sum(-1), truth) - 0.5) < 0.2


def test_control_the_distance_from_the_background_prefers_noise_or_emptiness(scene):
    plain, change, truth = scene
    rows = plain.reshape(-1, 128).astype(np.float64)
    centred = rows - np.median(rows, 0)
    precision = np.linalg.inv(np.cov(rows, rowvar=False) + 1e-6 * np.eye(128))
    distance = np.einsum("ni,ij,nj->n", centred, precision, centred)
    ours = fit_observer(rows, change).activation(plain)
    assert auroc(ours, truth) > auroc(distance, truth) + 0.1


def test_one_observer_means_the_same_in_every_frame(scene):
    plain, change, _ = scene
    observer = fit_observer(plain.reshape(-1, 128), change)
    assert np.array_equal(observer.activation(plain)[3:], observer.activation(plain[3:]))


def test_equals_linear_discriminant_analysis_on_gaussians():
    """Oracle: with a known covariance the Hotelling observer is Fisher's direction."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    draw = rng(0, "gaussians")
    mix = draw.normal(size=(6, 6))
    rows, change = draw.normal(size=(20_000, 6)) @ mix, np.eye(6)[:1].repeat(50, 0)
    lda = LinearDiscriminantAnalysis().fit(np.concatenate([rows, rows + change[0]]), np.repeat([0, 1], 20_000))
    ours = fit_observer(rows, change, ridge=0.0).direction
    cosine = ours @ lda.coef_[0] / np.linalg.norm(ours) / np.linalg.norm(lda.coef_[0])
    assert cosine > 0.98


def test_spots_are_where_they_are_said_to_be():
    empty = np.zeros((10, 30, 41), np.float32)
    spotted, touched = add_spots(empty, PATCH, SPACING_UM, rng(0, "where"))
    assert spotted.shape == empty.shape and touched.shape == (3, 4, 6) and touched.any() and not touched.all()
    padded = np.pad(spotted, [(0, 2), (0, 2), (0, 7)]).reshape(3, 4, 4, 8, 6, 8).max((1, 3, 5))
    assert np.array_equal(padded > 2.25, touched)
    assert np.array_equal(spotted, add_spots(empty, PATCH, SPACING_UM, rng(0, "where"))[0])


def test_spots_narrower_than_a_voxel_still_mark_tokens_and_none_is_refused():
    _, touched = add_spots(np.zeros((16, 64, 64), np.float32), (4, 8, 8), (2.0, 1.0, 1.0), rng(0, "coarse"))
    assert touched.any()
    with pytest.raises(InputError, match="too few tokens"):
        fit_observer(np.zeros((5, 3)), np.zeros((0, 3)))

"""Streaming PCA equals scikit-learn's; signs are stable."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.stream.pca import Moments, Pca, fit_pca

ROWS = rng(0, "pca").normal(size=(500, 12)) @ rng(0, "mix").normal(size=(12, 12)) + 50


def test_equals_sklearn_up_to_sign():
    ours, theirs = fit_pca(np.array_split(ROWS, 7), 5), PCA(5, svd_solver="full").fit(ROWS)
    assert np.allclose(np.abs((ours.components * theirs.components_).sum(1)), 1, atol=1e-9)
    assert np.allclose(ours.explained, theirs.explained_variance_ratio_)
    assert np.allclose(np.abs(ours.transform(ROWS)), np.abs(theirs.transform(ROWS)), atol=1e-3)


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 499], list(range(1, 500))])
def test_does_not_depend_on_how_rows_are_cut(cuts):
    whole, cut = fit_pca([ROWS], 4), fit_pca(np.split(ROWS, cuts), 4)
    assert np.allclose(whole.components, cut.components, atol=1e-8)


def test_moments_of_two_workers_merge():
    merged = Moments(12).update(ROWS[:100]).merge(Moments(12).update(ROWS[100:]))
    assert np.allclose(merged.covariance, np.cov(ROWS, rowvar=False)) and merged.count == 500


def test_a_large_offset_does_not_spoil_the_covariance():
    """Control: sums of squares in float32, without centring, lose it all."""
    far = ROWS + 1e6
    naive = (far.astype(np.float32).T @ far.astype(np.float32) / len(far)
             - np.outer(far.mean(0), far.mean(0)).astype(np.float32))
    truth = np.cov(ROWS, rowvar=False)
    assert np.allclose(Moments(12).update(far).covariance, truth, rtol=1e-5)
    assert not np.allclose(naive, truth, rtol=0.1)


def test_signs_do_not_flip_between_runs():
    noisy = ROWS + 1e-6 * rng(1, "jitter").normal(size=ROWS.shape)
    a, b = fit_pca([ROWS], 4), fit_pca([noisy[::-1]], 4)
    assert ((a.components * b.components).sum(1) > 0.99).all()
    assert (np.take_along_axis(a.components, np.abs(a.components).argmax(1)[:, None], 1) > 0).all()


def test_save_and_load(tmp_path):
    pca = fit_pca([ROWS], 3)
    pca.save(tmp_path / "p.npz")
    assert np.array_equal(Pca.load(tmp_path / "p.npz").components, pca.components)
    (tmp_path / "bad.npz").write_text("not a zip")
    with pytest.raises(InputError, match="not a saved PCA"):
        Pca.load(tmp_path / "bad.npz")


def test_bad_input_is_said():
    for batches, k in (([], 1), ([ROWS[:1]], 1), ([ROWS], 0), ([ROWS], 13)):
        with pytest.raises(InputError):
            fit_pca(batches, k)

"""SSIM, CIELAB and edge histograms are those of scikit-image, on random and on rendered pictures."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from skimage.color import rgb2lab
from skimage.feature import hog
from skimage.metrics import structural_similarity as reference_ssim

from synthreid.core import to_signed
from synthreid.data.store import render_people
from synthreid.metrics.swaps import structural_similarity
from synthreid.metrics.translation import EdgeHistograms, srgb_to_lab


@pytest.fixture(scope='module', params=['random', 'rendered'])
def pictures(request):
    if request.param == 'random':
        return np.random.default_rng(0).integers(0, 256, (12, 64, 32, 3), np.uint8)
    return render_people('camera', 6, per_id=2).images


def test_ssim(pictures):
    x, y = pictures[:6], pictures[6:]
    luma = lambda v: v / 255 @ [0.299, 0.587, 0.114]
    published = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
    for a, b in ((x, y), (x, x // 2), (x, 255 - x)):
        wanted = [reference_ssim(luma(p), luma(q), **published) for p, q in zip(a, b)]
        assert np.allclose(structural_similarity(a, b), wanted, atol=1e-6)
        assert np.allclose(structural_similarity(to_signed(a), b), wanted, atol=1e-6)


def test_lab(pictures):
    difference = np.abs(srgb_to_lab(pictures) - rgb2lab(pictures))
    assert difference.max() < 0.05 and difference.mean() < 0.01  # matrices of four and of seven digits


def test_edge_histograms(pictures):
    "Shares of the orientations in a cell, up to a degree: ours goes softly between bins, and blurs first."
    cell, bins = 8, 180
    for image in pictures:
        ours = EdgeHistograms(cell, bins)(to_signed(image[None]))[0].movedim(0, 2).numpy()
        blurred = uniform_filter(image / 127.5 - 1, (3, 3, 0), mode='nearest')
        wanted = hog(blurred, bins, (cell, cell), (1, 1), 'L1', feature_vector=False, channel_axis=2)[:, :, 0, 0]
        ours, wanted = (h[1:-1, 1:-1] for h in (ours, wanted))  # scikit-image knows no gradient at the border
        ours = np.cumsum(ours / ours.sum(-1, keepdims=True), -1)
        wanted = np.cumsum(wanted, -1)
        off = np.abs(ours - wanted)
        assert off.mean() < 0.02 and np.median(off.max(-1)) < 0.1


def test_edge_histograms_do_not_turn():
    "A ramp has one orientation, the same as in scikit-image."
    y, x = np.mgrid[:32, :32] / 32
    for angle in (10, 50, 90, 130):  # middles of scikit-image's bins of 20 degrees
        ramp = np.cos(np.deg2rad(angle)) * x + np.sin(np.deg2rad(angle)) * y
        ramp = (ramp - ramp.min()) / np.ptp(ramp)
        ours = EdgeHistograms(8, 9)(torch.from_numpy(ramp)[None, None].float().expand(1, 3, -1, -1) * 2 - 1)[
            0, :, 1:3, 1:3
        ]
        wanted = hog(ramp, 9, (8, 8), (1, 1), 'L1', feature_vector=False)[1:3, 1:3, 0, 0]
        assert (wanted.argmax(-1) == angle // 20).all()
        lower, upper = angle // 20, (angle // 20 + 1) % 9  # ours are centred on 0, 20, ...: half in either
        assert (ours[[lower, upper]].sum(0) > 0.99 * ours.sum(0)).all()
        assert torch.allclose(ours[lower], ours[upper], atol=0.02 * float(ours.max()))

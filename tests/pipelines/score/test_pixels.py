"""Measures of pictures against values computed another way: scipy, scikit-image, and formulas written out in numpy."""

import numpy as np
import pytest
import skimage
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.measure import shannon_entropy

from pipelines.models.pictures import SIDE, decoded, fitted
from pipelines.score.pixels import blur, colourfulness, entropy, text_share
from tests.pictures import encoded
from tests.pipelines.models import tiny

GREYS = [skimage.data.camera(), skimage.data.coins(), skimage.data.page(), tiny.noise(1, 40, 50)[..., 0]]
COLOURS = [skimage.data.astronaut(), skimage.data.coffee(), tiny.noise(2, 40, 50)]


@pytest.mark.parametrize("grey", GREYS)
def test_blur_is_the_variance_of_the_laplacian(grey):
    assert blur(grey) == pytest.approx(ndimage.laplace(grey.astype(np.float64), mode="mirror").var())


@pytest.mark.parametrize("grey", GREYS)
def test_entropy_is_that_of_the_histogram(grey):
    assert entropy(grey) == pytest.approx(shannon_entropy(grey, base=2))


@pytest.mark.parametrize("rgb", COLOURS)
def test_colourfulness_is_that_of_the_paper(rgb):
    red, green, blue = (rgb[..., n].astype(np.float64) for n in range(3))
    a, b = red - green, 0.5 * (red + green) - blue
    expected = np.sqrt(a.var() + b.var()) + 0.3 * np.sqrt(a.mean() ** 2 + b.mean() ** 2)
    assert colourfulness(rgb) == pytest.approx(expected, rel=1e-5)


def test_ends_of_the_scales():
    flat = np.full((30, 40), 90, np.uint8)
    assert (blur(flat), entropy(flat), text_share(flat)) == (0, 0, 0)
    assert colourfulness(np.stack([flat] * 3, axis=-1)) == 0
    assert entropy(np.arange(256, dtype=np.uint8).reshape(16, 16)) == pytest.approx(8)
    camera = skimage.data.camera()
    soft = ndimage.gaussian_filter(camera, 3)
    assert blur(soft) < blur(camera) / 20
    one = np.array([[7]], np.uint8)
    assert (blur(one), entropy(one), text_share(one)) == (0, 0, 0)


def page(size, ink="black", paper="white"):
    picture = Image.new("RGB", (600, 500), paper)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=size)
    for line in range(int(440 / (size * 1.5))):
        words = "the quick brown fox jumps over the lazy dog and runs away from all of them"
        draw.text((30, 20 + line * size * 1.5), words[: int(1000 / size)], fill=ink, font=font)
    return np.array(picture.convert("L"))


def test_pages_have_text_and_photographs_have_none():
    """Measured: pages 0.25 to 0.55, photographs below 0.02, coins (a table of small things) 0.09."""
    for pages in (page(14), page(20), page(28, "white", "navy"), skimage.data.page()):
        assert text_share(fitted(pages, 512)) > 0.2
    for photo in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()):
        assert text_share(np.array(Image.fromarray(fitted(photo, 512)).convert("L"))) < 0.03
    for texture in (skimage.data.brick(), skimage.data.grass(), skimage.data.moon(), tiny.noise(3, 300, 300)[..., 0]):
        assert text_share(texture) < 0.03


def test_a_large_picture_is_measured_small_and_never_decoded_whole():
    rng = np.random.default_rng(0)
    large = np.array(Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((4400, 3300), 2))
    jpeg, png = decoded(encoded(large, "JPEG", quality=95)), decoded(encoded(large[:, :2200]))
    assert jpeg.shape == (825, 1100, 3)  # a quarter: half of it would be more than is looked at
    assert max(png.shape) == 2 * SIDE - 1
    assert fitted(jpeg, 512).shape == (384, 512, 3)
    assert fitted(png[:5, :7], 512).shape == (5, 7, 3)
    means = [fitted(one, 64).mean(axis=(0, 1)) for one in (jpeg, large)]
    assert means[0] == pytest.approx(means[1], abs=1)
    assert fitted(np.zeros((1, 4000, 3), np.uint8), 512).shape == (1, 512, 3)

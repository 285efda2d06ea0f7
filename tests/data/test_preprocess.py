import pytest
import torch

from distillkit.data.preprocess import (
    dct_matrix,
    fit,
    fit_standardise,
    fit_unit_dct,
    fit_unit_whiten,
    fit_whiten,
    from_tensors,
    to_inputs,
    unit_images,
)
from distillkit.errors import ArtifactError, ConfigError, DataError


def images(n=60, channels=3, size=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def test_standardise__training_images_have_mean_0_and_std_1_per_channel():
    x = images()
    inputs = to_inputs(fit_standardise(x), x).double()
    assert inputs.mean((0, 2, 3)).abs().max() < 1e-6
    assert (inputs.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_zca__training_covariance_is_that_of_the_formula():
    x = images(n=400, size=4)
    whiten = fit_whiten(x, eps=0.1)
    flat = (x.double() / 255).flatten(1)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(flat.T))
    white = whiten(x.double() / 255).flatten(1)
    assert white.mean(0).abs().max() < 1e-12
    expected = eigenvalues / (eigenvalues + 0.1)
    assert torch.allclose(torch.linalg.eigvalsh(torch.cov(white.T)), expected, atol=1e-10)


@pytest.mark.parametrize("kind", ["standardise", "zca", "none"])
def test_preprocess__inverts_and_survives_its_file(kind):
    x = images(n=200, size=4)
    preprocess = fit(kind, x, 0.1)
    pixels = x.double() / 255
    assert torch.allclose(preprocess.invert(preprocess(pixels)), pixels, atol=1e-10)
    again = from_tensors(preprocess.to_tensors(), (3, 4, 4))
    assert torch.allclose(again(pixels), preprocess(pixels), atol=1e-5)


def test_zca__artifact_formula_of_the_product_page():
    x = images(n=100, size=4)
    tensors = fit_whiten(x, 0.1).to_tensors()
    flat = (x.float() / 255).flatten(1)
    by_formula = (flat - tensors["zca_mean"]) @ tensors["zca_matrix"]
    assert torch.allclose(by_formula, to_inputs(fit_whiten(x, 0.1), x).flatten(1), atol=1e-4)


def test_from_tensors__refuses_other_shapes():
    with pytest.raises(ArtifactError, match="fits no"):
        from_tensors({"mean": torch.zeros(1), "std": torch.ones(1)}, (3, 4, 4))


def test_zca__refuses_absurd_sizes():
    with pytest.raises(ConfigError, match="unit-dct"):
        fit_whiten(torch.zeros(2, 3, 128, 128, dtype=torch.uint8), 0.1)


def test_unit_zca__by_another_route():
    """SVD of the normalised images instead of an eigendecomposition, in units of 0..255 instead of [0, 1]."""
    x = images(n=300, size=4)
    rows = x.double().flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True)
    _, singular, vectors = torch.linalg.svd(rows, full_matrices=True)
    eigenvalues = singular**2 / len(rows)
    assert float(eigenvalues.sum()) == pytest.approx(1)  # all rows have unit length
    matrix = vectors.T @ torch.diag((eigenvalues + 0.1 * eigenvalues.mean()).rsqrt()) @ vectors
    whiten = fit_unit_whiten(x, 0.1)
    assert torch.allclose(whiten.matrix, matrix, rtol=1e-9, atol=1e-9)
    assert torch.allclose(whiten(x.double() / 255).flatten(1), rows @ matrix, atol=1e-9)
    new = images(n=5, size=4).flip(0) // 2
    alone = new.double().flatten(1)
    alone = (alone - alone.mean(1, keepdim=True)) / (alone - alone.mean(1, keepdim=True)).norm(dim=1, keepdim=True)
    assert torch.allclose(whiten(new.double() / 255).flatten(1), alone @ matrix, atol=1e-9)


def test_unit_dct__is_unit_zca_of_a_second_moment_without_what_couples_frequencies():
    """As one D x D matrix, by SciPy's transform of the unit basis; height and width differ."""
    from scipy.fft import dctn

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (200, 3, 4, 6), generator=generator, dtype=torch.uint8)
    size = 3 * 4 * 6
    basis = dctn(torch.eye(size).double().view(size, 3, 4, 6).numpy(), axes=(2, 3), norm="ortho")
    basis = torch.from_numpy(basis).view(size, size).T  # coefficients of an image are basis @ image
    unit = unit_images(x.double() / 255)
    moment = basis @ (unit.T @ unit / len(x)) @ basis.T
    frequency = torch.arange(24).repeat(3)
    moment = torch.where(frequency[:, None] == frequency, moment, 0.0)
    eigenvalues, vectors = torch.linalg.eigh(moment)
    white = vectors @ torch.diag((eigenvalues + 0.1 * eigenvalues.mean()).rsqrt()) @ vectors.T
    whiten = fit_unit_dct(x, 0.1)
    assert torch.allclose(whiten(x.double() / 255).flatten(1), unit @ basis.T @ white @ basis, atol=1e-9)
    assert torch.allclose(dct_matrix(5) @ dct_matrix(5).T, torch.eye(5).double(), atol=1e-12)


def test_unit_dct__is_unit_zca_where_frequencies_are_not_coupled():
    """Images and their mirror images: even and odd coefficients, of which 2 x 2 pixels have one each, do not mix."""
    x = images(n=150, size=2)
    x = torch.cat([x, x.flip(2), x.flip(3), x.flip(2, 3)])
    pixels = x.double() / 255
    assert torch.allclose(fit_unit_dct(x, 0.1)(pixels), fit_unit_whiten(x, 0.1)(pixels), atol=1e-9)


def test_unit_dct__takes_images_of_any_size_in_few_bytes():
    x = images(n=3, size=128)
    tensors = fit("unit-dct", x, 0.1).to_tensors()
    assert sum(tensor.numel() for tensor in tensors.values()) == 128 * 128 * 9


@pytest.mark.parametrize("kind", ["unit-zca", "unit-dct"])
def test_unit__brightness_and_contrast_do_not_matter_and_pictures_come_back_without_them(kind):
    x = images(n=200, size=4)
    whiten = fit(kind, x, 0.1)
    pixels = x[:20].double() / 255
    seen = whiten(pixels)
    assert torch.allclose(whiten(0.2 + 0.5 * pixels), seen, atol=1e-9)
    shown = whiten.invert(seen)
    assert torch.allclose(whiten(shown), seen, atol=1e-9)
    assert torch.allclose(shown.flatten(1).mean(1), torch.full((20,), 0.5).double())
    assert torch.allclose(shown.flatten(1).std(1, correction=0), torch.full((20,), 0.25).double())
    again = from_tensors(whiten.to_tensors(), (3, 4, 4))
    assert torch.allclose(again(pixels), seen, atol=1e-5)
    for value in (0.1, 0.5, 200.0):  # images of one value, of which nothing but rounding is left
        for dtype in (torch.float32, torch.float64):
            assert not whiten(torch.full((1, 3, 4, 4), value, dtype=dtype)).any()
    learned = 3 * torch.randn(5, 3, 4, 4, dtype=torch.float64)  # of any mean and length, which stay
    assert torch.allclose(whiten.from_view(whiten.invert(learned)), learned, atol=1e-9)


@pytest.mark.parametrize("kind", ["unit-zca", "unit-dct"])
def test_unit_whitening__of_images_without_contrast_is_refused(kind):
    solid = torch.full((6, 3, 8, 8), 70, dtype=torch.uint8)
    solid[::2] = 200
    with pytest.raises(DataError, match=r"leaves nothing to whiten; `dataset.preprocessing=standardise`"):
        fit(kind, solid, 0.1)
    solid[0, 0, 0, 0] = 10  # one image that is not
    assert all(torch.isfinite(tensor).all() for tensor in fit(kind, solid, 0.1).to_tensors().values())

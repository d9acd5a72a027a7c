"""The losses: the deck's closed forms, float64, finite differences, and what must always hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxstyle.cell import gram_matrix, losses
from jaxstyle.vgg.convolution import Kernel, conv_relu, prepare

RANDOM = np.random.default_rng(1)
F, P = (jnp.asarray(np.maximum(RANDOM.normal(size=(6, 5, 8)), 0), jnp.float32) for _ in range(2))


def gram64(f):
    flat = np.asarray(f, np.float64).reshape(-1, f.shape[-1])
    return flat.T @ flat / len(flat)


def style64(f, a):
    return ((gram64(f) - a) ** 2).sum() / (4 * f.shape[-1] ** 2)


def test_content_loss_is_half_the_squared_distance_and_its_gradient_the_difference():
    expected = 0.5 * ((np.asarray(F, np.float64) - np.asarray(P)) ** 2).sum()
    assert losses.content_loss(F, P) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(jax.grad(losses.content_loss)(F, P), F - P, atol=1e-6)


def test_style_gradient_is_the_closed_form():
    # dE/dF = F (G - A) / (N^2 M), with G and A over their pixel counts.
    a = jnp.asarray(gram64(P), jnp.float32)
    m, n = 30, 8
    expected = (np.asarray(F, np.float64).reshape(m, n) @ (gram64(F) - a) / (n**2 * m)).reshape(F.shape)
    np.testing.assert_allclose(jax.grad(losses.style_layer_loss)(F, a), expected, rtol=1e-4)


def test_gradients_vanish_where_features_do():
    # The deck: dL/dF = 0 where F <= 0. F is the output of a ReLU, which is where the zero comes from.
    kernel = np.zeros((3, 3, 8, 8), np.float32)
    kernel[1, 1] = np.eye(8)
    kernel, bias = Kernel(*map(jnp.asarray, prepare(kernel, winograd=False))), jnp.zeros(8)
    x = jnp.asarray(RANDOM.normal(size=(6, 5, 8)).astype(np.float32))
    a = jnp.asarray(gram64(P), jnp.float32)

    def both(x):
        f = conv_relu(x, kernel, bias)
        return losses.content_loss(f, P) + losses.style_layer_loss(f, a)

    gradient = jax.grad(both)(x)
    assert not np.any(np.asarray(gradient)[np.asarray(x) <= 0])
    assert np.any(np.asarray(gradient)[np.asarray(x) > 0])


def test_style_loss_at_equal_sizes_is_the_decks():
    # 1/(4 N^2 M^2) sum (G - A)^2 with unscaled Gram matrices.
    m, n = 30, 8
    f, p = (np.asarray(x, np.float64).reshape(m, n) for x in (F, P))
    deck = ((f.T @ f - p.T @ p) ** 2).sum() / (4 * n**2 * m**2)
    assert losses.style_layer_loss(F, gram_matrix.gram(P)) == pytest.approx(deck, rel=1e-5)


def test_style_loss_of_a_style_of_another_size_compares_means():
    tall = jnp.concatenate([P, P])  # the same statistics over twice the pixels
    np.testing.assert_allclose(gram_matrix.gram(tall), gram_matrix.gram(P), rtol=1e-5)


def test_losses_agree_with_finite_differences():
    # Central differences of a quadratic are exact for any step, so a large one drowns the rounding;
    # the style loss is quartic and takes a smaller one.
    a = jnp.asarray(gram64(P), jnp.float32)
    cases = (
        (lambda f: losses.style_layer_loss(jnp.asarray(f), a), F, 0.02),
        (lambda f: losses.content_loss(jnp.asarray(f), P), F, 0.5),
        (lambda x: losses.total_variation(jnp.asarray(x)), F[..., :3], 0.5),
    )
    for loss, at, eps in cases:
        check_grads(jax.jit(loss), (at,), order=1, modes=["rev"], eps=eps, rtol=2e-3, atol=1e-4)


def test_gram_is_symmetric_and_positive_semidefinite():
    g = np.asarray(gram_matrix.gram(F))
    # Two sums of the same 30 nonnegative products, in different orders.
    np.testing.assert_allclose(g, g.T, rtol=2 * 30 * np.finfo(np.float32).eps)
    assert np.linalg.eigvalsh(g.astype(np.float64)).min() > -1e-6


def test_gram_ignores_pixel_order():
    shuffled = jnp.asarray(RANDOM.permutation(np.asarray(F).reshape(-1, 8))).reshape(F.shape)
    np.testing.assert_allclose(gram_matrix.gram(shuffled), gram_matrix.gram(F), rtol=1e-5)


def test_gram_gradient_holds_for_any_cotangent():
    s = jnp.asarray(RANDOM.normal(size=(8, 8)), jnp.float32)  # not symmetric

    def plain(f):
        flat = f.reshape(-1, 8)
        return flat.T @ flat / len(flat)

    (mine,) = jax.vjp(gram_matrix.gram, F)[1](s)
    (jaxs,) = jax.vjp(plain, F)[1](s)
    np.testing.assert_allclose(mine, jaxs, rtol=1e-4, atol=1e-6)


def test_losses_are_zero_at_their_targets():
    assert losses.content_loss(F, F) == 0
    assert losses.style_layer_loss(F, gram_matrix.gram(F)) == 0


def test_features_times_s_scale_content_by_s2_and_style_by_s4():
    assert losses.content_loss(3 * F, 3 * P) == pytest.approx(
        9 * float(losses.content_loss(F, P)), rel=1e-5
    )
    scaled = losses.style_layer_loss(3 * F, gram_matrix.gram(3 * P))
    assert scaled == pytest.approx(81 * float(losses.style_layer_loss(F, gram_matrix.gram(P))), rel=1e-5)


def test_losses_are_the_same_eager_jitted_and_batched():
    a = gram_matrix.gram(P)
    eager = losses.style_layer_loss(F, a)
    np.testing.assert_allclose(jax.jit(losses.style_layer_loss)(F, a), eager, rtol=1e-6)
    batched = jax.vmap(losses.style_layer_loss, (0, None))(jnp.stack([F, P]), a)
    np.testing.assert_allclose(batched, [eager, 0], rtol=1e-5, atol=1e-9)


def test_total_variation_is_in_pixel_units():
    image = np.zeros((2, 3, 3), np.float32)
    image[:, 1] = 10  # two steps of 10 in each of two rows and three channels
    assert losses.total_variation(jnp.asarray(image)) == 2 * 100 * 2 * 3


def test_sums_over_large_images_keep_their_digits():
    big = jnp.asarray(RANDOM.uniform(0, 300, (512, 512, 16)), jnp.float32)
    expected = 0.5 * (np.asarray(big, np.float64) ** 2).sum()
    assert jax.jit(losses.content_loss)(big, jnp.zeros_like(big)) == pytest.approx(expected, rel=2e-6)
    np.testing.assert_allclose(jax.jit(gram_matrix.gram)(big), gram64(big), rtol=2e-6)

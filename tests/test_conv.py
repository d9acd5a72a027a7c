"""The convolution, its gradient and the poolings, against NumPy and against JAX's own derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

from jaxstyle import conv

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


X, KERNEL, BIAS = draw(9, 11, 5), draw(3, 3, 5, 7), draw(7)


def test_conv_relu_is_the_correlation_with_zero_padding():
    expected = np.maximum(
        oracle.correlate(np.asarray(X, np.float64), np.asarray(KERNEL, np.float64)) + BIAS, 0
    )
    np.testing.assert_allclose(conv.conv_relu(X, KERNEL, BIAS), expected, rtol=1e-5, atol=1e-4)


def test_conv_relu_gradient_is_jaxs_own():
    def plain(x):
        return jnp.maximum(conv.conv3x3(x, KERNEL) + BIAS, 0)

    g = draw(9, 11, 7)
    (mine,) = jax.vjp(lambda x: conv.conv_relu(x, KERNEL, BIAS), X)[1](g)
    (jaxs,) = jax.vjp(plain, X)[1](g)
    np.testing.assert_allclose(mine, jaxs, rtol=1e-5, atol=1e-5)


def test_conv_relu_gradient_is_zero_where_the_output_is():
    bias = jnp.full(7, -1e6)
    (gradient,) = jax.vjp(lambda x: conv.conv_relu(x, KERNEL, bias), X)[1](jnp.ones((9, 11, 7)))
    assert not np.any(gradient)


def test_conv_relu_under_vmap_is_the_single_one():
    batch = jnp.stack([X, 2 * X, -X])
    batched = jax.vmap(lambda x: conv.conv_relu(x, KERNEL, BIAS))(batch)
    for one, x in zip(batched, batch, strict=True):
        np.testing.assert_allclose(one, conv.conv_relu(x, KERNEL, BIAS), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("shape", [(8, 6, 3), (9, 7, 3)])
def test_pools_drop_odd_edges_and_match_numpy(kind, shape):
    x = draw(*shape)
    pooled = conv.POOLS[kind](x)
    np.testing.assert_allclose(pooled, oracle.pool_forward(np.asarray(x), kind), rtol=1e-6, atol=1e-6)
    g = draw(*pooled.shape)
    (gradient,) = jax.vjp(conv.POOLS[kind], x)[1](g)
    np.testing.assert_allclose(gradient, oracle.pool_backward(np.asarray(x), kind, g), rtol=1e-6)


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pool_gradients_agree_with_finite_differences(kind):
    x = jnp.asarray(RANDOM.permutation(48).reshape(4, 6, 2), jnp.float32)  # no ties
    check_grads(lambda x: conv.POOLS[kind](jnp.asarray(x)), (x,), order=1, modes=["rev"], eps=0.1)


def test_max_pool_gradient_scatters_nothing():
    lowered = jax.jit(jax.grad(lambda x: conv.max_pool(x).sum())).lower(X).as_text()
    assert "select_and_scatter" not in lowered

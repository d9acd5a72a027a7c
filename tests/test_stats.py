"""Statistics of a seed study, against closed forms, SciPy and scikit-image."""

import itertools
import math

import numpy as np
import pytest
from conftest import random_image

from jaxstyle.study import components, stats


def rng(seed=0):
    return np.random.default_rng(seed)


# --- numbers --------------------------------------------------------------------------------------


def test_mean_sd_and_cv_of_known_numbers():
    x = np.array([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert stats.mean(x) == 5
    assert stats.sd(x) == pytest.approx(math.sqrt(32 / 7), rel=1e-15)
    assert stats.cv(x) == pytest.approx(math.sqrt(32 / 7) / 5, rel=1e-15)


def test_spreads_where_there_is_nothing_to_spread():
    assert np.isnan(stats.sd(np.array([1.0])))
    assert stats.cv(np.zeros(3)) == 0
    assert np.isnan(stats.cv(np.array([-1.0, 1.0])))


def test_every_element_has_its_own_spread():
    x = rng().normal(size=(7, 3, 2))
    by_hand = [[np.std([s[i, j] for s in x], ddof=1) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(stats.sd(x), by_hand, rtol=1e-14)


def test_quantile_curves_of_evenly_spaced_seeds():
    curves = np.arange(101.0)[::-1, None] + np.array([0.0, 1000.0])
    np.testing.assert_allclose(
        stats.quantile_curves(curves, (0.05, 0.5, 0.95)), [[5, 1005], [50, 1050], [95, 1095]]
    )


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_best_of_k_is_the_mean_over_every_choice_of_k(k):
    x = rng(3).normal(size=5)
    expected = np.mean([min(chosen) for chosen in itertools.combinations(x, k)])
    assert stats.best_of(x, k) == pytest.approx(expected, rel=1e-12)


def test_best_of_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="k is 4"):
        stats.best_of(np.arange(3.0), 4)


# --- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "corrected"), [("BCa", True), ("percentile", False)])
@pytest.mark.parametrize("statistic", [stats.mean, stats.sd, stats.cv], ids=lambda f: f.__name__)
def test_intervals_are_scipys_for_the_same_resamples(statistic, method, corrected):
    import scipy.stats

    x = rng(10).gamma(2, size=(9, 3)) + 1
    same = np.random.default_rng((0, len(x)))
    by_hand = {stats.mean: np.mean, stats.sd: lambda x, axis: np.std(x, axis=axis, ddof=1),
               stats.cv: lambda x, axis: np.std(x, axis=axis, ddof=1) / np.mean(x, axis=axis)}  # fmt: skip
    expected = scipy.stats.bootstrap(
        (x,), by_hand[statistic], n_resamples=500, axis=0, method=method, rng=same, vectorized=True
    ).confidence_interval
    found = stats.interval(x, statistic, draws=500, corrected=corrected)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-12)


def coverage(statistic, truth, n, *, corrected, samples=400, draws=400):
    """The fraction of samples of n from N(10, 2) whose interval contains the truth."""
    x = rng(1).normal(10, 2, (n, samples))
    low, high = stats.interval(x, statistic, draws=draws, corrected=corrected)
    return np.mean((low <= truth) & (truth <= high))


@pytest.mark.parametrize("corrected", [True, False])
def test_intervals_of_the_mean_cover_it_as_often_as_they_say(corrected):
    # An interval mean +- 1.96 sqrt((n - 1) / n) sd / sqrt(n), to which the bootstrap tends, covers with the
    # probability P(|t_39| < 1.935) = 0.940; four standard errors of a share of 400 samples are 0.048.
    assert coverage(stats.mean, 10, 40, corrected=corrected) == pytest.approx(0.940, abs=0.048)


def test_corrected_intervals_of_the_sd_cover_better_than_percentiles():
    # The sd of a resample is too small on average, by sqrt((n - 1) / n) to first order: what BCa corrects.
    plain = coverage(stats.sd, 2, 12, corrected=False)
    assert plain < coverage(stats.sd, 2, 12, corrected=True)


def test_intervals_of_the_mean_have_the_width_of_the_closed_form():
    x = rng(2).normal(0, 1, 400)
    low, high = stats.interval(x, stats.mean, draws=4000)
    # 2 x 1.96 sd / sqrt(n); the 2.5 % quantile of 4000 draws of a normal number has a standard error of
    # sqrt(0.025 x 0.975 / 4000) / 0.058 = 0.042 sd, both ends together 0.06 of 3.92: four of them are 0.06.
    assert (high - low) / (3.92 * stats.sd(x) / 20) == pytest.approx(1, abs=0.06)


def test_intervals_repeat_and_need_three_seeds():
    x = rng(4).normal(size=(5, 2))
    first, second = (stats.interval(x, stats.cv, draws=200) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isnan(stats.interval(x[:2], stats.mean)).all()


def test_the_interval_of_equal_numbers_is_that_number():
    low, high = stats.interval(np.full(6, 3.0), stats.mean, draws=100)
    assert low == high == 3
    low, high = stats.interval(np.full(6, 3.0), stats.sd, draws=100)
    assert low == high == 0


def test_an_interval_does_not_depend_on_the_scale():
    x = rng(5).gamma(2, size=9)
    a, b = stats.interval(x, stats.sd, draws=300), stats.interval(1e6 * x, stats.sd, draws=300)
    np.testing.assert_allclose(np.array(b), 1e6 * np.array(a), rtol=1e-9)


# --- pictures -------------------------------------------------------------------------------------


def test_rmse_of_a_constant_shift_is_the_shift():
    a = random_image(20, 30, 0).astype(float)
    assert stats.rmse(a, a + 7) == pytest.approx(7, rel=1e-13)
    assert stats.rmse(a, a) == 0


def test_ssim_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity

    a, b = (random_image(18, 25, seed).astype(float) for seed in (0, 1))
    lumas = (0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2] for x in (a, b))
    expected = structural_similarity(
        *lumas, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    # Variances as differences lose 255^2 eps = 1.4e-11 of numbers next to C2 = 58.5.
    assert stats.ssim(stats.patches(a), stats.patches(b)) == pytest.approx(expected, abs=1e-10)


def test_ssim_is_1_for_the_same_picture_symmetric_and_known_for_flat_ones():
    a, b = (stats.patches(random_image(16, 16, seed).astype(float)) for seed in (0, 1))
    assert stats.ssim(a, a) == pytest.approx(1, abs=1e-12)
    assert stats.ssim(a, b) == stats.ssim(b, a) < 1
    dark, light = (stats.patches(np.full((16, 16, 3), grey)) for grey in (50.0, 200.0))
    assert stats.ssim(dark, light) == pytest.approx(
        (2 * 50 * 200 + 6.5025) / (50**2 + 200**2 + 6.5025), abs=1e-9
    )


def test_low_pass_keeps_flat_pictures_and_damps_a_wave_as_a_gaussian_does():
    np.testing.assert_allclose(stats.low_pass(np.full((20, 12, 3), 81.0), 3.0), 81, rtol=1e-14)
    x = np.arange(256)
    wave = np.broadcast_to(np.cos(2 * np.pi * x / 16)[None, :, None], (16, 256, 3))
    smooth = stats.low_pass(wave, 2.0)
    # exp(-(2 pi sigma / 16)^2 / 2); away from the edges, where the kernel is whole to 1e-12.
    np.testing.assert_allclose(
        smooth[:, 32:-32], math.exp(-((2 * math.pi * 2 / 16) ** 2) / 2) * wave[:, 32:-32], atol=1e-8
    )


def test_low_pass_is_a_gaussian_filter_divided_by_that_of_ones():
    from scipy import ndimage

    image, sigma = random_image(20, 31, 3)[..., 0].astype(float), 1.7
    found = stats.low_pass(np.stack([image] * 3, -1), sigma)[..., 0]
    ours, ones = (ndimage.gaussian_filter(x, sigma, mode="constant", truncate=20)
                  for x in (image, np.ones_like(image)))  # fmt: skip
    np.testing.assert_allclose(found, ours / ones, rtol=1e-12)


def test_relative_distance_of_known_arrays():
    a = np.ones((4, 5))
    assert stats.relative_distance(a, a) == 0
    assert stats.relative_distance(a, -a) == pytest.approx(2)
    assert stats.relative_distance(a, 0 * a) == pytest.approx(math.sqrt(2))
    assert stats.relative_distance(0 * a, 0 * a) == 0


def test_pixel_sd_of_noise_is_the_noise():
    images = rng(6).normal(100, 12, (60, 40, 40, 3))
    found = stats.pixel_sd(images)
    assert found.shape == (40, 40)
    # A mean of 4800 variances of 60: relative standard error sqrt(2 / 59 / 4800) = 0.0027.
    assert np.mean(found**2) == pytest.approx(144, rel=4 * 0.0027)


# --- pairs ----------------------------------------------------------------------------------------


def test_pairwise_distances_of_constant_shifts():
    base = random_image(16, 16, 0).astype(float)
    shifts = [0.0, 1.0, 3.0]
    d = stats.pairwise([base + s for s in shifts], stats.rmse, stats.chosen_pairs(3, 10))
    np.testing.assert_allclose(d[np.triu_indices(3, 1)], [1, 3, 2])
    assert np.isnan(np.diag(d)).all()
    assert stats.pair_mean(d) == pytest.approx(2)


def test_of_too_many_pairs_some_are_taken_and_always_the_same():
    some = stats.chosen_pairs(20, 50)
    assert some == stats.chosen_pairs(20, 50) == sorted(set(some))
    assert len(some) == 50
    assert len(stats.chosen_pairs(20, 190)) == 190
    d = stats.pairwise(range(20), lambda a, b: 2.0 + 0 * a * b, some)
    assert stats.pair_mean(d) == 2


def test_the_mean_distance_of_normal_pictures_is_that_of_theory():
    # N(0, s^2) pixels: the squared distance of two of them is 2 s^2.
    images = rng(7).normal(0, 5, (6, 30, 30, 3))
    d = stats.pairwise(list(images), stats.rmse, stats.chosen_pairs(6, 100))
    assert stats.pair_mean(d) == pytest.approx(5 * math.sqrt(2), rel=0.02)  # 4 / sqrt(2 x 2700 x 6)
    means = stats.pair_means(d[None], draws=300)
    low, high = stats.percentiles(means, 6)
    assert np.all(low <= stats.pair_mean(d))
    assert np.all(stats.pair_mean(d) <= high)


def test_a_ratio_of_equal_distances_is_1_and_sure():
    d = np.full((5, 5), 3.0)
    np.fill_diagonal(d, np.nan)
    found = stats.seed_ratio(d, np.full(5, 3.0), draws=200)
    assert found == (1, 1, 1)
    assert stats.trend(d, 2 * d, draws=200) == (2, 2, 2)


def test_pair_means_never_pair_a_seed_with_itself():
    d = np.full((3, 3), 4.0)
    np.fill_diagonal(d, np.nan)
    found = stats.pair_means(d[None], draws=500)
    assert np.nanmin(found) == np.nanmax(found) == 4
    same = np.isnan(found[:, 0]).mean()
    # All three draws alike: 3 / 27; the standard error of a share of 500 is 0.014.
    assert same == pytest.approx(1 / 9, abs=4 * 0.014)


# --- variance components --------------------------------------------------------------------------


def by_name(found):
    return {c.name: c for c in found}


def test_components_of_a_noise_free_design_are_exact():
    a, b, s = np.array([0.0, 3.0, 9.0]), np.array([-1.0, 2.0]), np.array([0.0, 0.5, 1.5, 7.0])
    y = 100 + a[:, None, None] + b[None, :, None] + s
    found = by_name(components.variance_components(y, ("content", "style")))
    for name, effect in (("content", a), ("style", b), (components.SEED, s)):
        assert found[name].variance == pytest.approx(np.var(effect, ddof=1), rel=1e-12), name
    assert found[components.INTERACTIONS].variance == found[components.RESIDUAL].variance == 0
    assert [c.df for c in found.values()] == [2, 1, 2, 3, 15]


def test_sums_of_squares_add_up_to_the_total():
    y = rng(8).normal(size=(2, 3, 4, 5))
    found = components.variance_components(y, ("a", "b", "c"))
    assert sum(c.sum_of_squares for c in found) == pytest.approx(np.sum((y - y.mean()) ** 2), rel=1e-12)
    assert sum(c.df for c in found) == y.size - 1


def test_an_interaction_is_no_main_effect():
    y = np.zeros((2, 2, 3)) + np.array([[1.0, -1.0], [-1.0, 1.0]])[:, :, None]
    found = by_name(components.variance_components(y, ("a", "b")))
    assert found[components.INTERACTIONS].sum_of_squares == pytest.approx(12)
    assert found["a"].sum_of_squares == found["b"].sum_of_squares == 0
    assert found["a"].variance < 0  # reported as it is; it counts as none
    assert components.shares(list(found.values()))[:2] == [0, 0]


def test_components_of_random_designs_are_right_on_average():
    truth = {
        "a": 4.0,
        "b": 1.0,
        components.INTERACTIONS: 0.5,
        components.SEED: 2.0,
        components.RESIDUAL: 0.25,
    }
    random, shape, designs = rng(9), (4, 5, 6), 3000
    effect = lambda variance, *axes: random.normal(0, math.sqrt(variance), (*axes, designs))  # noqa: E731
    y = (
        effect(truth["a"], 4, 1, 1)
        + effect(truth["b"], 1, 5, 1)
        + effect(truth[components.INTERACTIONS], 4, 5, 1)
        + effect(truth[components.SEED], 1, 1, 6)
        + effect(truth[components.RESIDUAL], *shape)
    )
    for component in components.variance_components(y, ("a", "b")):
        found = component.variance
        error = float(np.std(found)) / math.sqrt(designs)
        assert np.mean(found) == pytest.approx(truth[component.name], abs=4 * error), component.name


def test_one_setting_alone_has_nothing_but_seeds():
    (only,) = components.variance_components(np.array([1.0, 2.0, 4.0]), ())
    assert only.name == components.SEED
    assert only.variance == pytest.approx(np.var([1, 2, 4], ddof=1))
    assert components.shares([only]) == [1]


def test_a_design_without_two_levels_is_refused():
    with pytest.raises(ValueError, match="two levels"):
        components.variance_components(np.zeros((1, 3)), ("style",))


def test_a_full_grid_is_its_own_balanced_part():
    rows = list(itertools.product("ab", [1, 2, 3], ["x"]))
    design = components.balanced(("content", "alpha_beta", "style"), rows)
    assert design.names == ("content", "alpha_beta")
    assert list(design.places()) == [(c, a) for c, a, _ in rows]
    assert design.dropped == ()


def test_what_is_missing_drops_the_level_that_misses_it():
    rows = set(itertools.product("abc", [1, 2, 3, 4])) - {("b", 2), ("b", 4)}
    design = components.balanced(("style", "seed"), sorted(rows))
    assert design.dropped == (("style", "b"),)
    assert set(design.places()) <= rows
    assert design.levels == (("a", "c"), (1, 2, 3, 4))


def test_factors_that_move_together_are_one():
    rows = [(c, s, k) for c, s in (("a", "x"), ("b", "y")) for k in (0, 1)]
    design = components.balanced(("content", "style", "seed"), rows)
    assert design.names == ("content+style", "seed")
    assert design.levels[0] == (("a", "x"), ("b", "y"))


def test_a_factor_that_is_left_with_one_level_is_none():
    design = components.balanced(("a", "b"), [(0, 0), (0, 1), (1, 0)])
    assert len(list(design.places())) == 2
    assert len(design.names) == 1

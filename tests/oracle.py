"""Gatys-style transfer in plain NumPy float64: network, loss, gradient, optimizers.

An independent implementation, slow and short, that shares no code and no constants with the package. Images
are RGB, 0 to 255, (h, w, 3); weights map `conv4_2` to (kernel HWIO, bias).
"""

import numpy as np

ARCHITECTURE = """
conv1_1 conv1_2 pool1
conv2_1 conv2_2 pool2
conv3_1 conv3_2 conv3_3 conv3_4 pool3
conv4_1 conv4_2 conv4_3 conv4_4 pool4
conv5_1 conv5_2 conv5_3 conv5_4 pool5
""".split()  # noqa: SIM905
B, G, R = 103.939, 116.779, 123.68


MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""NumPy's names of the paddings."""


def correlate(x, kernel, padding="zeros"):
    """Correlation of the padded image, stride 1: the sum over nine shifts."""
    h, w, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), MODES[padding])
    return sum(padded[i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))


def folded(g, padding):
    """The adjoint of padding by one: every number goes back to the position that it was copied from."""
    h, w, c = g.shape[0] - 2, g.shape[1] - 2, g.shape[2]
    place = np.pad(np.arange(1, h * w + 1).reshape(h, w), 1, MODES[padding])
    out = np.zeros((h * w + 1, c))  # place 0 is that of the zeros
    np.add.at(out, place.ravel(), g.reshape(-1, c))
    return out[1:].reshape(h, w, c)


def correlate_backward(g, kernel, padding="zeros"):
    """The gradient of `correlate` with respect to x."""
    h, w, _ = g.shape
    out = np.zeros((h + 2, w + 2, kernel.shape[2]))
    for i in range(3):
        for j in range(3):
            out[i : i + h, j : j + w] += g @ kernel[i, j].T
    return folded(out, padding)


def blurred(x, padding):
    """The 4x4 binomial mean at every second position; with zeros, the edge is repeated for it."""
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    mode = MODES["replicate" if padding == "zeros" else padding]
    padded = np.pad(x[:h, :w], ((1, 1), (1, 1), (0, 0)), mode)
    b = np.array([1, 3, 3, 1]) / 8
    return sum(b[i] * b[j] * padded[i : i + h : 2, j : j + w : 2] for i in range(4) for j in range(4))


def blurred_backward(shape, padding, g):
    h, w = shape[0] // 2 * 2, shape[1] // 2 * 2
    b, wide = np.array([1, 3, 3, 1]) / 8, np.zeros((h + 2, w + 2, shape[2]))
    for i in range(4):
        for j in range(4):
            wide[i : i + h : 2, j : j + w : 2] += b[i] * b[j] * g
    out = np.zeros(shape)
    out[:h, :w] = folded(wide, "replicate" if padding == "zeros" else padding)
    return out


def pool_forward(x, kind, padding="zeros"):
    if kind == "blur":
        return blurred(x, padding)
    if kind == "l2":
        return np.sqrt(blurred(x**2, padding) + 1e-8)
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    four = np.stack([x[i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)])
    return four.mean(0) if kind == "avg" else four.max(0)


def pool_backward(x, kind, g, padding="zeros"):
    if kind == "blur":
        return blurred_backward(x.shape, padding, g)
    if kind == "l2":
        return x * blurred_backward(x.shape, padding, g / pool_forward(x, kind, padding))
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    out = np.zeros(x.shape)
    top = pool_forward(x, "max")
    places = [(i, j) for i in (0, 1) for j in (0, 1)]
    ties = sum(x[i:h:2, j:w:2] == top for i, j in places)
    for i, j in places:
        share = 0.25 if kind == "avg" else (x[i:h:2, j:w:2] == top) / ties
        out[i:h:2, j:w:2] = share * g
    return out


def network(weights, image, pool, deepest, padding="zeros"):
    """The input of every stage, and every activation, down to `deepest`."""
    x = np.stack([image[..., 2] - B, image[..., 1] - G, image[..., 0] - R], -1).astype(np.float64)
    tape, found = [], {}
    for stage in ARCHITECTURE:
        if stage.startswith("pool"):
            tape.append((stage, x))
            x = pool_forward(x, pool, padding)
        else:
            kernel, bias = (np.asarray(a, np.float64) for a in weights[stage])
            x = np.maximum(correlate(x, kernel, padding) + bias, 0.0)
            tape.append((stage, x))
        found[stage] = x
        if stage == deepest:
            return tape, found
    raise KeyError(deepest)


_kept = {}


def activations(weights, image, pool, deepest, padding="zeros"):
    """Every activation down to `deepest`; those of the last few images are kept, for one is asked often."""
    key = id(weights), image.shape, image.dtype.str, image.tobytes(), pool, deepest, padding
    if key not in _kept:
        if len(_kept) == 4:
            del _kept[next(iter(_kept))]
        _kept[key] = weights, network(weights, image, pool, deepest, padding)[1]
    return _kept[key][1]


def deepest_of(names):
    return max(names, key=ARCHITECTURE.index)


def style_grams(weights, style, names, pool):
    """A_l / M_a of a style image of any size."""
    _, found = network(weights, style, pool, deepest_of(names))
    flat = {n: found[n].reshape(-1, found[n].shape[-1]) for n in names}
    return {n: f.T @ f / len(f) for n, f in flat.items()}


def gram_loss(f, a):
    """E_l for Gram matrices of features (M, N) and (M_a, N), and its gradient with respect to `f`."""
    m, n = f.shape
    gap = f.T @ f / m - a.T @ a / len(a)
    return (gap**2).sum() / (4 * n**2), f @ gap / (n**2 * m)


def moments_loss(f, a):
    """E_l for Gram matrices and means, and its gradient."""
    loss, g = gram_loss(f, a)
    m, n = f.shape
    gap, weight = f.mean(0) - a.mean(0), 2 * (a**2).sum() / len(a) / (4 * n**2)
    return loss + weight * gap @ gap, g + 2 * weight * gap / m


def wasserstein_loss(f, a):
    """E_l for normal distributions, and its gradient; both covariances have a ridge of a tenth of the mean
    variance of `a`."""
    m, n = f.shape
    mean, mean_a = f.mean(0), a.mean(0)
    c, c_a = (f - mean).T @ (f - mean) / m, (a - mean_a).T @ (a - mean_a) / len(a)
    ridge = 0.1 * np.trace(c_a) / n * np.eye(n)
    c, c_a = c + ridge, c_a + ridge
    values, vectors = np.linalg.eigh(c_a)
    s = vectors * np.sqrt(values) @ vectors.T
    values, vectors = np.linalg.eigh(s @ c @ s)
    loss = ((mean - mean_a) ** 2).sum() + np.trace(c + c_a) - 2 * np.sqrt(values).sum()
    by_c = np.eye(n) - s @ (vectors / np.sqrt(values)) @ vectors.T @ s
    return loss / n, 2 * ((f - mean) @ by_c + mean - mean_a) / (n * m)


def total_variation(image):
    dx, dy = np.diff(image, axis=1), np.diff(image, axis=0)
    gradient = np.zeros(image.shape)
    gradient[:, 1:] += 2 * dx
    gradient[:, :-1] -= 2 * dx
    gradient[1:] += 2 * dy
    gradient[:-1] -= 2 * dy
    return (dx**2).sum() + (dy**2).sum(), gradient


STYLE_LOSSES = {"gram": gram_loss, "moments": moments_loss, "wasserstein": wasserstein_loss}


def loss_and_gradient(
    weights,
    image,
    content,
    style,
    *,
    alpha=1.0,
    beta=1.0,
    tv_weight=0.0,
    content_layer="conv4_2",
    style_weights=None,
    pool="avg",
    padding="zeros",
    style_loss="gram",
    sides=None,
):
    """(terms, dL/d image): terms has total, content, style, layers (E_l) and reference (half sum P^2).

    With `sides`, activations by layer, the gradient takes the side of every ReLU and the maximum of every
    pool from them instead of from its own float64 activations; terms then also has `units`, `flips` (the
    number on another side) and `largest_flip` (relative to the largest activation of its layer).
    """
    if style_weights is None:
        style_weights = dict.fromkeys(("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"), 0.2)
    image = np.asarray(image, np.float64)
    deepest = deepest_of([content_layer, *style_weights])
    tape, found = network(weights, image, pool, deepest, padding)
    target = activations(weights, content, pool, content_layer, padding)[content_layer]
    styles = activations(weights, style, pool, deepest_of(style_weights), padding)

    seeds = {}
    difference = found[content_layer] - target
    content_loss = 0.5 * (difference**2).sum()
    seeds[content_layer] = alpha * difference
    layers = {}
    for name, w in style_weights.items():
        f, a = (x[name].reshape(-1, x[name].shape[-1]) for x in (found, styles))
        layers[name], g = STYLE_LOSSES[style_loss](f, a)
        seeds[name] = seeds.get(name, 0) + beta * w * g.reshape(found[name].shape)
    style_loss = sum(w * layers[name] for name, w in style_weights.items())

    g = 0.0
    units = flips = largest = 0
    for index in range(len(tape) - 1, -1, -1):
        stage, value = tape[index]
        if stage.startswith("pool"):
            g = g + seeds.get(stage, 0.0)
            if sides is not None:
                value = sides[tape[index - 1][0]]
            g = pool_backward(value, pool, g, padding)
            continue
        side = value if sides is None else sides[stage]
        other = (side > 0) != (value > 0)
        units, flips = units + value.size, flips + other.sum()
        if other.any():
            largest = max(largest, np.maximum(np.abs(value), np.abs(side))[other].max() / value.max())
        g = (g + seeds.get(stage, 0.0)) * (side > 0)
        kernel = np.asarray(weights[stage][0], np.float64)
        g = correlate_backward(g, kernel, padding)
    gradient = g[..., ::-1].copy()

    if padding == "circular":
        for axis in (0, 1):
            ahead, behind = np.roll(image, -1, axis), np.roll(image, 1, axis)
            gradient += tv_weight * (4 * image - 2 * ahead - 2 * behind)
        tv = sum(((np.roll(image, -1, axis) - image) ** 2).sum() for axis in (0, 1))
    else:
        tv, by_image = total_variation(image)
        gradient += tv_weight * by_image
    terms = {
        "total": alpha * content_loss + beta * style_loss + tv_weight * tv,
        "content": content_loss,
        "style": style_loss,
        "layers": layers,
        "reference": 0.5 * (target**2).sum(),
        "units": units,
        "flips": flips,
        "largest_flip": largest,
    }
    return terms, gradient


def adam(gradient_at, image, steps, rate, low=-np.inf, high=np.inf):
    """`steps` steps of Adam (b1 .9, b2 .999, eps 1e-8) from `image`, held between two values."""
    x = np.asarray(image, np.float64)
    m = v = 0.0
    for t in range(1, steps + 1):
        g = gradient_at(x)
        g = g * ~((x <= low) & (g > 0)) * ~((x >= high) & (g < 0))
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        x = np.minimum(np.maximum(x, low), high)
    return x


def two_loop(gradient, pairs):
    """-H g by the two-loop recursion over (s, y), the newest pair last (Nocedal & Wright 2006, 7.4)."""
    q, kept = gradient.copy(), []
    for s, y in reversed(pairs):
        a = (s * q).sum() / (s * y).sum()
        kept.append(a)
        q -= a * y
    s, y = pairs[-1]
    q *= (s * y).sum() / (y * y).sum()
    for (s, y), a in zip(pairs, reversed(kept), strict=True):
        q += (a - (y * q).sum() / (s * y).sum()) * s
    return -q


def lbfgs(evaluate, image, steps, memory, first_px):
    """Images and losses after 0 to `steps` steps of L-BFGS with one evaluation each, and its rejections.

    A worse trial is rejected and the next one is half as long. Every step takes a slot of the memory,
    whether its pair is kept or not.
    """
    x = np.asarray(image, np.float64)
    loss, g = evaluate(x)
    slots, t, longest = [], 1.0, max(1.0, 10 / first_px)
    images, losses, rejected = [x], [loss], 0
    for _ in range(steps):
        pairs = [pair for pair in slots if pair is not None]
        d = two_loop(g, pairs) if pairs else -g * first_px / np.abs(g).max()
        if (d * g).sum() >= 0:
            s, y = pairs[-1]
            d = -g * (s * y).sum() / (y * y).sum()
        trial = x + t * d
        trial_loss, trial_g = evaluate(trial)
        s, y = trial - x, trial_g - g
        curved = np.isfinite(trial_loss) and (s * y).sum() > 1e-10 * np.abs(g).max()
        slots = [*slots, (s, y) if curved else None][-memory:]
        longest = 1.0 if curved else longest  # without a curvature, short steps are doubled up to 10 px
        if np.isfinite(trial_loss) and trial_loss <= loss:
            x, loss, g, t = trial, trial_loss, trial_g, min(longest, 2 * t)
        else:
            t, rejected = min(longest, t / 2), rejected + 1
        images.append(x)
        losses.append(loss)
    return images, losses, rejected

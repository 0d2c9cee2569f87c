"""Every column, centring and product again, slowly and from the formulas alone: nothing of the package is imported."""

import unicodedata

import numpy as np

WIDTHS, TAUS = (0.1, 0.4, 1.6), (2, 8, 32)


def support(length, reach=None, first_key=4, gap=1, first_query=12):
    mask = np.zeros((length, length), bool)
    for t in range(first_query, length):
        for j in range(first_key, t - gap + 1):
            mask[t, j] = reach is None or t - j < reach
    return mask


def center_rows(x, mask):
    x = np.where(mask, x, 0.0)
    mean = x.sum(-1) / np.maximum(mask.sum(-1), 1)
    return np.where(mask, x - mean[..., None], 0.0)


def center_both(x, mask, rounds=200):
    """Alternating projections: rows, keys, rows, ... ending on both."""
    x = center_rows(x, mask)
    counts = np.maximum(mask.sum(0), 1)
    for _ in range(rounds):
        x = np.where(mask, x - (x.sum(-2) / counts)[..., None, :], 0.0)
        x = center_rows(x, mask)
    return x


def kernel(z, w):
    squares = ((z[:, None] - z[None]) ** 2).sum(-1)
    return np.exp(-squares / (2 * w * 2 * z.shape[1]))


def track(z, w, tau, first_key=4):
    similar, length = kernel(z, w), len(z)
    out = np.zeros((length, length))
    for t in range(length):
        for i in range(first_key, t):
            fade = np.exp(-(t - i) / tau)
            out[t] += fade * np.where(np.arange(length) == i, 0.0, similar[i])
    return out


def since_break(texts):
    last, out = 0, []
    for j, text in enumerate(texts):
        if "\n" in text or "\r" in text or any(unicodedata.category(c)[0] == "P" for c in text):
            last = j
        out.append(j - last)
    return out


def rhythm(texts):
    """[key, column] rhythm block of a window given as the text of its tokens."""
    rows, opened = [], True
    for text, b in zip(texts, since_break(texts), strict=True):
        word = text.strip()
        starts = word[:1].isalnum() and (opened or text[:1].isspace())
        rows.append(
            [
                any(unicodedata.category(c)[0] == "P" for c in text),
                "\n" in text or "\r" in text,
                starts,
                starts and word.isalpha() and len(word) <= 3,
                np.log(1 + b),
                np.sin(2 * np.pi * b / 4),
                np.cos(2 * np.pi * b / 4),
                np.sin(2 * np.pi * b / 8),
                np.cos(2 * np.pi * b / 8),
            ]
        )
        opened = text[-1:].isspace() or not text
    return np.array(rows, float)


def state(z, centres, width):
    squares = ((z[:, None] - centres[None]) ** 2).sum(-1)
    return np.concatenate([z, np.exp(-squares / (2 * width**2))], 1)


def key_only(f):
    """A key-only column as a [query, key] array."""
    return np.broadcast_to(f[None], (len(f), len(f)))


def dense_columns(z, rhythm_block, centres, width, bins, widths=WIDTHS, taus=TAUS):
    """All columns as [query, key] arrays, in the package's order."""
    length, rank = z.shape
    lag = np.arange(length)[:, None] - np.arange(length)[None]
    out = [((lag >= low) & (lag <= high)).astype(float) for low, high in bins]
    out += [kernel(z, w) for w in widths]
    out += [np.outer(z[:, a], z[:, b]) for a in range(rank) for b in range(rank)]
    out += [track(z, w, tau) for w in widths for tau in taus]
    out += [key_only(f) for f in rhythm_block.T]
    out += [key_only(f) for f in state(z, centres, width).T]
    return out

"""The project's formulas in plain float64 loops, straight from the equations: slow, and independent of the source."""

import math

import numpy as np


def similarity(u, v):
    return float(u @ v) / (math.sqrt(float(u @ u)) * math.sqrt(float(v @ v)))


def nce(u, v, tau):
    n = len(u)
    total = 0.0
    for i in range(n):
        scores = [math.exp(similarity(u[i], v[k]) / tau) for k in range(n)]
        total -= math.log(scores[i] / sum(scores))
    return total / n


def align(u, j, tau):
    return (nce(u, j, tau) + nce(j, u, tau)) / 2


def reciprocal_contrastive(a, t, j, tau):
    return (align(a, j, tau) + align(t, j, tau)) / 2


def hsic_plain(k, m):
    """Gretton et al. (2005): tr(K H L H) / (N - 1)^2."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ h @ m @ h) / (n - 1) ** 2


def hsic_unbiased(k, m):
    """Song et al. (2012): the mean of k_ij (m_ij + m_qr - 2 m_iq) over all distinct i, j, q, r, as a U-statistic."""
    n = len(k)
    total = 0.0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def cka(x, y, debiased):
    hsic = hsic_unbiased if debiased else hsic_plain
    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def cka_loss(a, t, j, debiased):
    return ((1 - cka(a, j, debiased)) + (1 - cka(t, j, debiased))) / 2


def information_infonce(u, j, tau):
    return math.log(len(u)) - align(u, j, tau)


def shrunken_correlations(z):
    """Schäfer and Strimmer (2005): correlations shrunk towards the identity, entry by entry."""
    n, p = z.shape
    z = (z - z.mean(0)) / z.std(0, ddof=1)
    correlations, variances = np.eye(p), np.zeros((p, p))
    for i in range(p):
        for j in range(p):
            if i != j:
                w = z[:, i] * z[:, j]
                correlations[i, j] = n / (n - 1) * w.mean()
                variances[i, j] = n / (n - 1) ** 3 * ((w - w.mean()) ** 2).sum()
    off_diagonal = ~np.eye(p, dtype=bool)
    shrinkage = min(1.0, max(0.01, variances.sum() / (correlations[off_diagonal] ** 2).sum()))
    return np.where(off_diagonal, (1 - shrinkage) * correlations, 1.0)


def information_gaussian(u, j):
    d = u.shape[1]
    r = shrunken_correlations(np.hstack([u, j]))
    return -0.5 * math.log(np.linalg.det(r) / (np.linalg.det(r[:d, :d]) * np.linalg.det(r[d:, d:])))


def cross_entropy(logits, target, weights, offset):
    losses = []
    for row, label in zip(logits + offset, target, strict=True):
        if not np.isnan(label):
            losses.append(-weights[int(label)] * math.log(math.exp(row[int(label)]) / sum(map(math.exp, row))))
    return sum(losses) / len(losses)


def load_balance(probabilities, top_k):
    n, experts = probabilities.shape
    total = 0.0
    for e in range(experts):
        mean = sum(probabilities[i, e] for i in range(n)) / n
        chosen = sum(e in np.argsort(probabilities[i])[-top_k:] for i in range(n)) / (n * top_k) if top_k else mean
        total += chosen * mean
    return experts * total


def concordance(y, score):
    """Harrell's index over all pairs; with two-valued y, the area under the ROC curve."""
    good = pairs = 0.0
    for i in range(len(y)):
        for j in range(len(y)):
            if y[i] > y[j]:
                pairs += 1
                good += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    return good / pairs

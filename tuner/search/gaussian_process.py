"""A Gaussian process with a length scale a hyperparameter and a noise a row: small, and fitted anew for each proposal.

Matérn 5/2. Length scales, signal and noise are fitted by maximum a posteriori; the length scales' prior grows with the
number of hyperparameters (Hvarfner, Hellsten, Nardi, Vanilla Bayesian Optimization Performs Great in High Dimensions,
ICML 2024). Nothing is kept from one fit to the next, so that what is proposed depends on the data alone.
"""

from __future__ import annotations

import functools
import math
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import threadpoolctl
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SQRT5 = math.sqrt(5)
_JITTER = 1e-6
_ITERATIONS = 15


class GaussianProcess:
    """Of values about zero with a spread of about one."""

    def __init__(self, owners: NDArray[np.int_]):
        """owners (D,): the hyperparameter that each column of the rows belongs to; a choice has several columns."""
        self._owners = owners
        self._count = int(owners.max()) + 1
        self._log_scales = np.full(self._count, _prior_mean(self._count))
        self._log_signal, self._log_noise = 0.0, math.log(0.02)

    @property
    def numbers(self) -> tuple[Array, float, float]:
        """The length scale of each hyperparameter, the signal's variance and the noise's beyond what is told a row."""
        return np.exp(self._log_scales), math.exp(self._log_signal), math.exp(self._log_noise)

    def fit(self, X: Array, y: Array, variances: Array) -> None:
        """X (N, D) in [0, 1], y (N,), variances (N,): what is known of each value's error, squared."""
        squares = self.squares(X)
        start = np.concatenate([self._log_scales, [self._log_signal, self._log_noise]])
        bounds = [(math.log(0.02), math.log(50.0))] * self._count + [(-3.0, 2.0), (math.log(1e-4), math.log(1.0))]
        found = scipy.optimize.minimize(
            self.loss,
            start,
            args=(squares, y, variances),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": _ITERATIONS},
        )
        self._log_scales = found.x[: self._count]
        self._log_signal, self._log_noise = float(found.x[-2]), float(found.x[-1])

    def condition(self, X: Array, y: Array, variances: Array) -> None:
        """Take these rows as what is known."""
        self._X = X
        K = self._kernel(X, X) + np.diag(variances + math.exp(self._log_noise) + _JITTER)
        self._cholesky = scipy.linalg.cholesky(K, lower=True, check_finite=False)
        self._weights = scipy.linalg.cho_solve((self._cholesky, True), y, check_finite=False)

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Mean and variance (M,) of the values, without noise, at X (M, D)."""
        K = self._kernel(self._X, X)
        solved = scipy.linalg.solve_triangular(self._cholesky, K, lower=True, check_finite=False)
        return K.T @ self._weights, np.maximum(math.exp(self._log_signal) - (solved**2).sum(0), 1e-9)

    def _kernel(self, A: Array, B: Array) -> Array:
        scales = np.exp(self._log_scales)[self._owners]
        A, B = A / scales, B / scales
        squared = np.maximum((A**2).sum(1)[:, None] + (B**2).sum(1)[None] - 2 * A @ B.T, 0.0)
        distance = _SQRT5 * np.sqrt(squared)
        matern: Array = math.exp(self._log_signal) * (1 + distance + distance**2 / 3) * np.exp(-distance)
        return matern

    def squares(self, X: Array) -> Array:
        """(hyperparameters, N, N): squared distances along each."""
        columns = (X[:, None, :] - X[None, :, :]) ** 2
        squares = np.zeros((self._count, len(X), len(X)))
        for column, owner in enumerate(self._owners):
            squares[owner] += columns[:, :, column]
        return squares

    def loss(self, theta: Array, squares: Array, y: Array, variances: Array) -> tuple[float, Any]:
        """Negative log posterior of the fitted numbers, and its gradient."""
        weights = np.exp(-2 * theta[: self._count])
        distance = _SQRT5 * np.sqrt(np.tensordot(weights, squares, 1))
        signal, noise = math.exp(theta[-2]), math.exp(theta[-1])
        decay = signal * np.exp(-distance)
        K = decay * (1 + distance + distance**2 / 3)
        C = K + np.diag(variances + noise + _JITTER)
        try:
            factor = scipy.linalg.cholesky(C, lower=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        inverse = scipy.linalg.cho_solve((factor, True), np.eye(len(y)), check_finite=False)
        alpha = inverse @ y
        loss = 0.5 * y @ alpha + np.log(np.diag(factor)).sum()
        outer = 0.5 * (inverse - np.outer(alpha, alpha))
        along = outer * decay * (1 + distance) * (5 / 3)
        gradient = np.empty_like(theta)
        gradient[: self._count] = weights * (squares.reshape(self._count, -1) @ along.ravel())
        gradient[-2] = (outer * K).sum()
        gradient[-1] = noise * np.trace(outer)
        for prior, part, mean, deviation in (
            (theta[: self._count], slice(0, self._count), _prior_mean(self._count), math.sqrt(3)),
            (theta[-2], -2, 0.0, 1.0),
            (theta[-1], -1, math.log(0.02), 1.5),
        ):
            loss += 0.5 * float((((prior - mean) / deviation) ** 2).sum())
            gradient[part] += (prior - mean) / deviation**2
        return float(loss), gradient


def one_thread() -> AbstractContextManager[Any]:
    """Keeps linear algebra to one thread: with matrices this small, more cost time and take cores from trials."""
    limited: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return limited


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    """Of this process; looking for them takes longer than a proposal."""
    return threadpoolctl.ThreadpoolController()


def _prior_mean(count: int) -> float:
    return math.sqrt(2) + 0.5 * math.log(count) - 1.0

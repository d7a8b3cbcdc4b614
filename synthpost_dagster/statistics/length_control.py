"""The length-controlled ratio: the win ratio estimated for posts of equal length.

The model is that of length-controlled AlpacaEval (Dubois et al., arXiv:2404.04475) without its terms for prompts and
models, and with a term for the position. The fit is a ridge logistic regression by Newton's method, for all bootstrap
draws at once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from synthpost_dagster.statistics.games import Array, PairOfGames, game_scores, scored
from synthpost_dagster.statistics.ratio import CONFIDENCE

DRAWS = 2_000
RIDGE = 1.0
MIN_DECISIVE_PAIRS = 95
"""Won or lost pairs below which no interval is given: the ratio of so few depends on single prompts."""
SIMILAR_LENGTH = 0.25
"""Difference in length, in standard deviations, below which two posts count as equally long."""
MIN_SIMILAR = 0.10
"""Share of such pairs below which a ratio at equal length would be an extrapolation."""
MAX_PREDICTED_BY_LENGTH = 0.95
"""Share of the decided pairs of unequal length above which length separates the outcomes."""

NOTHING_SCORED = "no pair has two scored games"
ONE_SIDED = "every game went the same way"
SEPARATED = "length separates the outcomes"
TOO_FEW_SIMILAR = f"under {MIN_SIMILAR:.0%} of the pairs are of similar length"
TOO_FEW_DECISIVE = f"under {MIN_DECISIVE_PAIRS} decisive pairs, so no interval"

_DECIDED = {"win": 1, "loss": -1}
_MAX_STEPS = 100
_MAX_STEP = 2.0
_TOLERANCE = 1e-5  # of the last step: Newton's method leaves about its square


class LengthControlled(NamedTuple):
    """e^θ with its interval, and the coefficients. A missing figure is NaN, and `reason` says why."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    length_coefficient: float = math.nan
    """β: above 0 the judge prefers the longer post; 1 standard deviation more adds 0.76 β to the log odds."""
    position_coefficient: float = math.nan
    """δ: log odds of the candidate as A minus those as B."""
    reason: str = ""
    length_coefficient_low: float = math.nan
    length_coefficient_high: float = math.nan

    @property
    def is_identifiable(self) -> bool:
        """Whether there is a ratio at equal length."""
        return not math.isnan(self.value)


class _Design(NamedTuple):
    """One entry a pair: the scores of both games, tanh(Δ / sd), and the index of the prompt."""

    first: Array
    second: Array
    length: Array
    prompt: npt.NDArray[np.intp]


def length_controlled_ratio(
    pairs: Sequence[PairOfGames],
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
) -> LengthControlled:
    """e^θ of logit P(candidate) = θ + β·tanh(Δ / sd) + δ·position, over the pairs with two scored games.

    Δ is the candidate's minus the opponent's words, sd its standard deviation over these pairs (the same in every
    draw); position is +½ with the candidate as A and -½ as B. The penalty is λ/2·(β² + δ²) with λ = 1. A tied
    game is half won and half lost. With β = δ = 0, e^θ is the tie-aware ratio.

    The interval is the middle of a bootstrap over prompts and two pseudo-prompts of equal length, one won and one lost
    in both games. Its coverage with 95 decisive pairs is 93 to 97 % at ratios up to 10 and higher above (90 to 95 %
    without the pseudo-prompts; tests/simulation). β has the interval of the same draws, and is NaN where all posts are
    equally long. Raises ArithmeticError where the fit does not converge.
    """
    usable = scored(pairs)
    if not usable:
        return LengthControlled(reason=NOTHING_SCORED)
    difference = np.array([pair.candidate_words - pair.opponent_words for pair in usable], dtype=np.float64)
    design = _design(usable, difference)
    decided = np.array([_DECIDED.get(pair.outcome, 0) for pair in usable])
    won = float((design.first + design.second).sum())
    reason = _why_not_identifiable(design, difference, decided)
    if reason:
        return LengthControlled(reason=reason)
    if won in (0, 2 * len(usable)):
        return LengthControlled(math.inf if won else 0.0, reason=ONE_SIDED)
    theta, beta, delta = (float(value) for value in _fit(design, np.ones((1, len(usable))))[0])
    known_beta = beta if design.length.any() else math.nan
    if np.abs(decided).sum() < MIN_DECISIVE_PAIRS:
        return LengthControlled(math.exp(theta), math.nan, math.nan, known_beta, delta, TOO_FEW_DECISIVE)
    ends = _ends(design, (theta, beta, delta), generator, confidence, draws)
    low, high = (float(theta) for theta in np.exp(ends[:, 0]))
    beta_low, beta_high = ends[:, 1].tolist() if design.length.any() else (math.nan, math.nan)
    return LengthControlled(math.exp(theta), low, high, known_beta, delta, "", beta_low, beta_high)


def _design(pairs: list[PairOfGames], difference: Array) -> _Design:
    first, second = game_scores(pairs)
    sd = float(difference.std())
    length = np.tanh(difference / sd) if sd else np.zeros_like(difference)
    prompt = np.unique([pair.prompt_id for pair in pairs], return_inverse=True)[1]
    return _Design(first, second, length, prompt)


def _why_not_identifiable(design: _Design, difference: Array, decided: npt.NDArray[np.int_]) -> str:
    if _is_separated(design, difference) or _is_predicted_by_length(difference, decided):
        return SEPARATED
    similar = (np.abs(difference) < SIMILAR_LENGTH * difference.std()) | (difference == 0)
    return TOO_FEW_SIMILAR if similar.mean() < MIN_SIMILAR else ""


def _is_separated(design: _Design, difference: Array) -> bool:
    """Whether all won games have a greater difference in length than all lost games, or all a smaller one."""
    score = np.concatenate([design.first, design.second])
    length = np.concatenate([difference, difference])
    not_lost, not_won = length[score > 0], length[score < 1]
    if (length == length[0]).all() or not len(not_lost) or not len(not_won):
        return False
    return bool(not_lost.min() >= not_won.max() or not_won.min() >= not_lost.max())


def _is_predicted_by_length(difference: Array, decided: npt.NDArray[np.int_]) -> bool:
    """Whether the longer (or the shorter) post wins nearly all decided pairs of unequal length, and more of them than
    either side wins: where one side wins nearly all, length explains nothing.
    """
    sides = decided[decided * difference != 0]
    longer = np.sign(difference[decided * difference != 0])
    right = max((sides == longer).sum(), (sides == -longer).sum())
    return bool(right > MAX_PREDICTED_BY_LENGTH * len(sides) and right > max((sides > 0).sum(), (sides < 0).sum()))


def _ends(
    design: _Design, start: tuple[float, float, float], generator: np.random.Generator, confidence: float, draws: int
) -> Array:
    """Lower and upper bounds of θ, β and δ over the draws, shape (2, 3)."""
    design = _with_made_up_prompts(design)
    prompts = int(design.prompt.max()) + 1
    chosen = generator.integers(prompts, size=(draws, prompts)) + np.arange(draws)[:, None] * prompts
    times = np.bincount(chosen.ravel(), minlength=draws * prompts).reshape(draws, prompts)
    kinds, kind = np.unique(np.stack([design.first, design.second, design.length]), axis=1, return_inverse=True)
    is_kind = np.asarray(np.eye(kinds.shape[1])[kind.ravel()], dtype=np.float64)  # equal pairs are counted together
    found = _fit(_Design(kinds[0], kinds[1], kinds[2], design.prompt), times[:, design.prompt] @ is_kind, start)
    tail = (1 - confidence) / 2
    low = np.quantile(found, tail, axis=0, method="lower")
    return np.stack([low, np.quantile(found, 1 - tail, axis=0, method="higher")])


def _with_made_up_prompts(design: _Design) -> _Design:
    prompts = int(design.prompt.max()) + 1
    return _Design(
        np.append(design.first, [1.0, 0.0]),
        np.append(design.second, [1.0, 0.0]),
        np.append(design.length, [0.0, 0.0]),
        np.append(design.prompt, [prompts, prompts + 1]),
    )


def _fit(design: _Design, times: Array, start: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Array:
    """θ, β, δ of each draw, shape (draws, 3); `times` (draws × pairs) counts the pairs in each draw.

    θ is infinite in a draw without a won or without a lost game.
    """
    won = times @ (design.first + design.second)
    open_draws = np.flatnonzero((won > 0) & (won < 2 * times.sum(axis=1)))
    found = np.tile(np.array(start), (len(times), 1))
    found[won == 0, 0], found[won == 2 * times.sum(axis=1), 0] = -np.inf, np.inf
    for _ in range(_MAX_STEPS):
        step = _newton_step(design, times[open_draws], found[open_draws])
        step *= np.minimum(1, _MAX_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), _MAX_STEP))
        found[open_draws] += step
        open_draws = open_draws[np.abs(step).max(axis=1) > _TOLERANCE]
        if not len(open_draws):
            return found
    raise ArithmeticError(f"the length-controlled fit did not converge in {_MAX_STEPS} steps")


def _newton_step(design: _Design, times: Array, at: Array) -> Array:
    """Newton's step of the penalised log-likelihood, shape (draws, 3)."""
    powers = design.length[:, None] ** np.arange(3)
    middle = at[:, :2] @ powers[:, :2].T
    miss_first, weight_first = _moments(design.first, middle + at[:, 2:] / 2, times, powers)
    miss_second, weight_second = _moments(design.second, middle - at[:, 2:] / 2, times, powers)
    both, apart = weight_first + weight_second, (weight_first - weight_second) / 2
    gradient = np.stack(
        [
            (miss_first + miss_second)[:, 0],
            (miss_first + miss_second)[:, 1] - RIDGE * at[:, 1],
            (miss_first - miss_second)[:, 0] / 2 - RIDGE * at[:, 2],
        ],
        axis=1,
    )
    information = np.empty((len(at), 3, 3), dtype=np.float64)
    information[:, 0, 0], information[:, 1, 1] = both[:, 0], both[:, 2] + RIDGE
    information[:, 2, 2] = both[:, 0] / 4 + RIDGE
    information[:, 0, 1] = information[:, 1, 0] = both[:, 1]
    information[:, 0, 2] = information[:, 2, 0] = apart[:, 0]
    information[:, 1, 2] = information[:, 2, 1] = apart[:, 1]
    return np.asarray(np.linalg.solve(information, gradient[:, :, None])[:, :, 0], dtype=np.float64)


def _moments(score: Array, log_odds: Array, times: Array, powers: Array) -> tuple[Array, Array]:
    """Σ times·(score - p)·lengthᵏ and Σ times·p(1-p)·lengthᵏ of the games in one order, each of shape (draws, 3)."""
    chance = 1 / (1 + np.exp(-log_odds))
    expected = times * chance
    return times @ (score[:, None] * powers) - expected @ powers, (expected * (1 - chance)) @ powers

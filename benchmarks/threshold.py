"""What the exact best threshold costs, against one argsort of the same scores, and against scikit-learn's tuned classifier.

    python benchmarks/threshold.py [--rows 10000000] [--rounds 5]

The arms take turns; the figures are medians of the rounds' ratios to NumPy's argsort in the same round. One thread.
"""

import argparse
import statistics
import time

import numpy as np

import deeptrain as dt


def scored(rows, dtype, *, ties):
    generator = np.random.default_rng(0)
    targets = generator.random(rows) < 0.07
    scores = 1 / (1 + np.exp(-(generator.normal(size=rows) + 2 * targets - 2)))
    return (scores.round(4) if ties else scores).astype(dtype), targets


def timed(fn):
    begun = time.perf_counter()
    fn()
    return time.perf_counter() - begun


def arms(scores, targets):
    weights = np.random.default_rng(1).random(len(scores))
    return {
        "argsort": lambda: np.argsort(scores),
        "best_threshold, f1, search alone": lambda: dt.best_threshold(
            scores, targets, "f1", bootstrap=0, folds=0
        ),
        "... matthews": lambda: dt.best_threshold(scores, targets, "matthews", bootstrap=0, folds=0),
        "... cross-fitted": lambda: dt.best_threshold(scores, targets, "f1", bootstrap=0),
        "... and 200 redraws (all by default)": lambda: dt.best_threshold(scores, targets, "f1"),
        "... weighted, search alone": lambda: dt.best_threshold(
            scores, targets, "f1", weights, bootstrap=0, folds=0
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for dtype, ties in ((np.float64, False), (np.float32, False), (np.float32, True)):
        made = arms(*scored(given.rows, dtype, ties=ties))
        taken = {name: [] for name in made}
        for _ in range(given.rounds):
            for name, arm in made.items():
                taken[name].append(timed(arm))
        print(f"{given.rows:,} {np.dtype(dtype).name} scores{', rounded to four digits' if ties else ''}")
        for name, seconds in taken.items():
            ratios = [mine / sort for mine, sort in zip(seconds, taken["argsort"], strict=True)]
            print(
                f"  {name:<40} {statistics.median(seconds):6.2f} s  {statistics.median(ratios):5.2f} of argsort"
            )


if __name__ == "__main__":
    main()

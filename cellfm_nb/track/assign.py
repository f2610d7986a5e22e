"""Choose among hypotheses that compete for objects: the best one-to-one linking, its prices, the best packing."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

BEAM = 64            # partial solutions kept per tail: bounds time where groups of hypotheses grow large
ROUNDS = 2           # of setting aside pairs that nobody could outbid
CHUNK = 200          # pairs assigned at once
SMALL = 40_000       # rows times columns up to which a full table is faster than a sparse one
PRICE_ROUNDS = 200   # longest alternating path followed; beyond it prices are too low, which only costs time


def assign(a: np.ndarray, b: np.ndarray, gain: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return which candidate pairs make the one-to-one assignment of greatest total gain; staying single gains 0.

    Parameters: a, b (q,), row and column of each pair, no pair twice; gain (q,); n, m, numbers of rows and columns.
    Returns: indices of the chosen pairs, ascending. Each row gets a column of its own for staying single, so that
    the sparse assignment always exists (the virtual source and sink of a min-cost flow); Jonker and Volgenant 1987.
    """
    good, sure = np.flatnonzero(gain > 0), [np.zeros(0, int)]       # a loss is never part of the best assignment
    for _ in range(ROUNDS):
        row, col, value = a[good], b[good], gain[good]
        take = value > second(row, value, n) + second(col, value, m)  # worth more than both could have otherwise
        if not take.any():
            break
        sure.append(good[take])
        gone, went = np.zeros(n, bool), np.zeros(m, bool)
        gone[row[take]], went[col[take]] = True, True
        good = good[~(gone[row] | went[col])]
    sure = np.concatenate(sure)
    if not len(good):
        return np.sort(sure)
    parts = [part[_assign(a[part], b[part], gain[part])] for part in chunks(a[good], b[good], good)]
    return np.sort(np.concatenate([sure, *parts]))


def chunks(row: np.ndarray, col: np.ndarray, name: np.ndarray) -> list[np.ndarray]:
    """Split pairs into lots that share no row or column, of about `CHUNK` pairs or one group each; return their names.

    The time of an assignment grows with the square of its size; groups that do not touch are none of each other's.
    """
    if len(name) <= CHUNK:
        return [name]
    (rows, r), (cols, c) = np.unique(row, return_inverse=True), np.unique(col, return_inverse=True)
    n = len(rows) + len(cols)
    graph = coo_array((np.ones(len(r)), (r, len(rows) + c)), shape=(n, n))
    group = connected_components(graph, directed=False)[1][r]
    before = np.cumsum(np.bincount(group)) - np.bincount(group)      # pairs in the groups before
    lot = before[group] // CHUNK
    order = np.argsort(lot, kind="stable")
    return np.split(name[order], np.flatnonzero(np.diff(lot[order])) + 1)


def second(group: np.ndarray, value: np.ndarray, n: int) -> np.ndarray:
    """Return, for each entry, the greatest value among the others of its group, or 0: values are > 0."""
    best, other = np.zeros(n), np.zeros(n)
    np.maximum.at(best, group, value)
    top = value == best[group]
    np.maximum.at(other, group[~top], value[~top])
    many = np.bincount(group[top], minlength=n) > 1
    other[many] = best[many]
    return np.where(top, other[group], best[group])


def _assign(a: np.ndarray, b: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return which pairs are chosen, a mask (q,), by Jonker-Volgenant; sparse: a row's own column keeps it single."""
    (rows, row), (cols, col) = np.unique(a, return_inverse=True), np.unique(b, return_inverse=True)
    n, m = len(rows), len(cols)
    pick = np.full(n, -1)
    if n * m <= SMALL:
        table = np.zeros((n, m))                                     # a pair that is none gains 0, as being single
        table[row, col] = -gain
        r, c = linear_sum_assignment(table)
        pick[r] = c
        return pick[row] == col
    i, j = np.concatenate([row, np.arange(n)]), np.concatenate([col, m + np.arange(n)])
    top = gain.max() + 1
    cost = np.concatenate([top - gain, np.full(n, top)])             # > 0: a stored zero would be no edge
    order = np.lexsort((j, i))
    start = np.searchsorted(i[order], np.arange(n + 1))
    r, c = min_weight_full_bipartite_matching(csr_array((cost[order], j[order], start), shape=(n, m + n)))
    pick[r] = c
    return pick[row] == col


def confidence(a: np.ndarray, b: np.ndarray, gain: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return each pair's share of the likelihood among the pairs it competes with and staying single, (q,) in 0..1."""
    odds = np.exp(np.clip(gain, -50, 50))
    return odds / (1 + np.bincount(a, odds, n)[a] + np.bincount(b, odds, m)[b] - odds)


def prices(a: np.ndarray, b: np.ndarray, gain: np.ndarray, chosen: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return the dual prices (n + m,) of the best assignment: a pair's two prices are never below its gain.

    The prices of a chosen pair sum to its gain, an object left single is free. Found by raising the columns' prices
    along alternating paths until no row would pay more than it does (Bellman and Ford).
    """
    mate, own = np.full(n, -1), np.zeros(n)
    mate[a[chosen]], own[a[chosen]] = b[chosen], gain[chosen]
    price = np.zeros(m + 1)                                          # the last entry stands for "no mate"
    for _ in range(PRICE_ROUNDS):
        raised = price.copy()
        np.maximum.at(raised, b, gain - own[a] + price[mate[a]])
        raised[m] = 0.0
        if (raised - price).max() < 1e-9:
            break
        price = raised
    return np.concatenate([own - price[mate], price[:m]])


def pack(objects: list[list[int]], gain: list[float], name: list[int]) -> tuple[float, list[int]]:
    """Return the greatest total gain of hypotheses that share no object, and their names.

    Parameters, one entry per hypothesis: objects, the three it takes, first the lowest (repeats allowed); gain, > 0;
    name. The objects are gone through in ascending order, each hypothesis filed under its first. A state is
    the set of objects already taken that later hypotheses could still want; of equal states the better history is
    kept. Exact while there are no more than `BEAM` states.
    """
    bit = {o: 1 << k for k, o in enumerate(sorted({o for own in objects for o in own}))}
    filed: dict[int, list[tuple[float, int, int]]] = {}
    for own, value, what in zip(objects, gain, name, strict=True):
        filed.setdefault(own[0], []).append((value, bit[own[0]] | bit[own[1]] | bit[own[2]], what))
    wanted, later = {}, 0
    for first in sorted(filed, reverse=True):
        wanted[first] = later
        for _, mask, _ in filed[first]:
            later |= mask
    states: dict[int, tuple[float, tuple]] = {0: (0.0, ())}
    for first in sorted(filed):
        after: dict[int, tuple[float, tuple]] = {}
        for taken, (total, history) in states.items():
            for value, mask, what in [(0.0, 0, None), *filed[first]]:
                if taken & mask:
                    continue
                left = (taken | mask) & wanted[first]
                if left not in after or after[left][0] < total + value:
                    after[left] = (total + value, history if what is None else (what, history))
        if len(after) > BEAM:
            after = dict(sorted(after.items(), key=lambda state: -state[1][0])[:BEAM])
        states = after
    total, history = max(states.values(), key=lambda state: state[0])
    names = []
    while history:
        what, history = history
        names.append(what)
    return total, names

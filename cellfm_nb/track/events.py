"""Find splits and merges: hypotheses scored like links and chosen together with them at every cut.

A split says that two heads of one frame are what became of one tail: their midpoint continues its motion, their
masses sum to its mass, their separation follows the law learnt from the movie's own splits. It stands against every
object in it ending or beginning for itself. A merge is the same, read backward in time. The best linking without
events puts a price on each object; only an event worth more than its objects' prices can improve on it, and only
what is near enough to such an event in gain is searched again, group by group, with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellfm_nb.track.assign import pack, prices
from cellfm_nb.track.motion import Filter, Scales, column, log_normal, log_step, pick

if TYPE_CHECKING:
    from cellfm_nb.track.chains import Chains

KINDS = ("split", "merge")
HOPS = 4         # links followed from an event to those it affects
PARTNERS = 6     # nearest candidates of an object that may pair up in an event: 15 pairs


@dataclass(frozen=True)
class Event:
    """A split (one parent, two children) or merge (two parents, one child), as indices of objects."""

    kind: str
    parents: tuple[int, ...]
    children: tuple[int, ...]
    confidence: float


@dataclass(frozen=True)
class Hypotheses:
    """Events that might have happened at a cut.

    kind (e,) 0 split, 1 merge; gain (e,) nats; own (e, 3) nodes, ascending: tails 0 .. n-1, then heads n .. n+m-1.
    """

    kind: np.ndarray
    gain: np.ndarray
    own: np.ndarray

    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (whole, one part, other part), each (e,) nodes."""
        split = self.kind == 0
        whole = np.where(split, self.own[:, 0], self.own[:, 2])
        return whole, np.where(split, self.own[:, 1], self.own[:, 0]), np.where(split, self.own[:, 2], self.own[:, 1])


def log_mass_sum(whole: Filter, part: Filter, a: np.ndarray, j: np.ndarray, k: np.ndarray,
                 scales: Scales) -> np.ndarray:
    """Return the log likelihood ratio of the masses of j and k summing to a's, against two of the population, (q,).

    The share f of a part follows Beta(2, 2): 6 f (1 - f). Going from (log sum, f) to the two log masses brings the
    Jacobian f (1 - f). The first identity component is the log mass; the others say nothing here.
    """
    if not len(scales.identity_mean):
        return np.zeros(len(a))
    mu, pop = scales.identity_mean[0], scales.identity_var[0]
    mj, mk, vj, vk = part.m[:1, j], part.m[:1, k], part.w[:1, j], part.w[:1, k]      # (1, q)
    total = np.logaddexp(mj, mk)
    f = np.exp(mj - total)
    var = whole.w[:1, a] + scales.walk[0] + f * f * vj + (1 - f) ** 2 * vk
    joint = log_normal(total - whole.m[:1, a], var) + np.log(6 * (f * (1 - f)) ** 2 + 1e-300)[0]
    apart = log_normal(mj - mu, pop + vj) + log_normal(mk - mu, pop + vk)
    return np.logaddexp(np.log1p(-scales.outlier) + joint - apart, np.log(scales.outlier))


def event_gain(chains: Chains, kind: int, a: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the log likelihood ratio (nats) of events against every object in them ending or beginning, (q,).

    Parameters: kind, 0 split or 1 merge; a (q,), the whole: parent of a split, child of a merge; j, k (q,), its two
    parts, which are in one frame.
    """
    s, x, frame = chains.scales, chains.x, chains.frame
    sign = 1 - 2 * kind
    whole, part = (chains.past, chains.future) if kind == 0 else (chains.future, chains.past)
    g = sign * (frame[j] - frame[a])
    xa, xj, xk = (pick(x, o) for o in (a, j, k))
    gain = (np.log(2 * s.event_rate[kind]) + log_step(whole, a, sign * ((xj + xk) / 2 - xa), g, s)
            + log_normal(xj - xk, np.full((len(x), 1), s.event_um2[kind])) + 2 * np.log(s.gap[g - 1])
            + log_mass_sum(whole, part, a, j, k, s))
    if kind == 0:
        return gain - chains.log_start[j] - chains.log_start[k] - chains.log_end[a]
    return gain - chains.log_end[j] - chains.log_end[k] - chains.log_start[a] - np.log(s.present_per_um3)


def partner_pairs(a: np.ndarray, b: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (anchor, first, second), first < second: every two of the `PARTNERS` nearest candidates of each anchor.

    Parameters: a, b (q,), anchor and partner of each candidate pair; far (q,), their distance.
    """
    many = np.bincount(a)[a] > PARTNERS                              # only there it matters who is nearest
    order = np.argsort(a, kind="stable") if not many.any() else np.lexsort((np.where(many, far, 0.0), a))
    a, b = a[order], b[order]
    rank = np.arange(len(a)) - np.searchsorted(a, a)
    near = rank < PARTNERS
    table = np.full((a.max() + 1, PARTNERS), -1)
    table[a[near], rank[near]] = b[near]
    able = np.flatnonzero(table[:, 1] >= 0)                          # two at least
    table = np.sort(table[able], 1)
    one, two = np.triu_indices(PARTNERS, 1)
    anchor, first, second = np.repeat(able, len(one)), table[:, one].ravel(), table[:, two].ravel()
    both = first >= 0                                                # -1, no partner, was sorted to the front
    return anchor[both], first[both], second[both]


def hypotheses(chains: Chains, tails: np.ndarray, heads: np.ndarray, a: np.ndarray, b: np.ndarray,
               gain: np.ndarray) -> Hypotheses:
    """Return the splits and merges at a cut that beat each link inside them.

    Parameters: tails (n,), heads (m,), objects; a, b, gain (q,), candidate pairs in ascending order and their gains.
    """
    n, m = len(tails), len(heads)
    wide = column(np.sqrt(chains.scales.velocity_um2 + chains.scales.step_um2))
    key, worth = a * m + b, np.maximum(gain, 0.0)
    move, g = pick(chains.x, heads[b]) - pick(chains.x, tails[a]), chains.frame[heads[b]] - chains.frame[tails[a]]
    kinds, gains, owns = [], [], []
    for kind in (0, 1):
        anchor, partner, tell, mine, theirs = ((a, b, chains.past, tails, heads) if kind == 0 else
                                               (b, a, chains.future, heads, tails))
        near = np.minimum(((move / wide) ** 2).sum(0), (((move - g * pick(tell.v, mine[anchor])) / wide) ** 2).sum(0))
        whole, one, two = partner_pairs(anchor, partner, near)
        level = chains.frame[theirs[one]] == chains.frame[theirs[two]]
        whole, one, two = whole[level], one[level], two[level]
        value = event_gain(chains, kind, mine[whole], theirs[one], theirs[two])
        first, second = (whole * m + one, whole * m + two) if kind == 0 else (one * m + whole, two * m + whole)
        better = value > np.maximum(worth[np.searchsorted(key, first)], worth[np.searchsorted(key, second)])
        own = np.column_stack([whole, n + one, n + two] if kind == 0 else [one, two, n + whole])
        kinds.append(np.full(better.sum(), kind))
        gains.append(value[better])
        owns.append(own[better])
    return Hypotheses(np.concatenate(kinds), np.concatenate(gains), np.concatenate(owns))


def choose_events(chains: Chains, tails: np.ndarray, heads: np.ndarray, a: np.ndarray, b: np.ndarray,
                  gain: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, list[Event]]:
    """Choose splits and merges together with the links of a cut.

    Parameters: as in `hypotheses`; chosen, the best links without events (indices of pairs).
    Returns: the links that stay or come instead, and the events; their total gain is never below the linking's.
    """
    n, m = len(tails), len(heads)
    hyp = hypotheses(chains, tails, heads, a, b, gain)
    if not len(hyp.gain):
        return chosen, []
    advantage = over_links(hyp, a[chosen], n + b[chosen], gain[chosen], n + m)
    chains.expect(hyp, advantage, np.concatenate([tails, heads]))
    price = prices(a, b, gain, chosen, n, m)
    surplus, slack = hyp.gain - price[hyp.own].sum(1), price[a] + price[n + b] - gain
    if surplus.max() <= 1e-9:
        return chosen, []
    links, extra = np.flatnonzero(gain > 0), np.arange(len(hyp.gain))
    own = np.concatenate([np.column_stack([a[links], n + b[links], n + b[links]]), hyp.own])
    worth, lack = np.concatenate([gain[links], hyp.gain]), np.concatenate([slack[links], -surplus])
    name = np.concatenate([links, -1 - extra])                       # events have negative names
    room = budgets(hyp.own, surplus, a, n + b, slack, chosen, n + m)
    live = lack <= room[own].max(1)
    touched = np.zeros(n + m, bool)
    touched[own[live]] = True
    held = np.isin(links, chosen)                                    # links that what is touched would have to give up
    live[:len(links)] |= held & (touched[a[links]] | touched[n + b[links]])
    live = np.flatnonzero(live)
    edges = np.repeat(own[live, 0], 2), own[live, 1:].ravel()
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(n + m, n + m))
    group = connected_components(graph, directed=False)[1]
    tried = np.zeros(n + m, bool)
    tried[group[own[live, 0]]] = True
    home = group[own[live, 0]]
    order = np.argsort(home, kind="stable")
    live, home = live[order], home[order]
    touched = tried[group[a[chosen]]]
    mine = chosen[touched][np.argsort(group[a[chosen[touched]]], kind="stable")]   # the links these groups have now
    starts = np.flatnonzero(np.diff(home, prepend=-1))
    first, last = (np.searchsorted(group[a[mine]], home[starts], side).tolist() for side in ("left", "right"))
    total = np.append(0.0, np.cumsum(gain[mine]))
    own, worth, name, mine = own[live].tolist(), worth[live].tolist(), name[live].tolist(), mine.tolist()
    keep, events = chosen[~touched].tolist(), []
    for p, q, f, t in zip(starts.tolist(), [*starts[1:].tolist(), len(live)], first, last, strict=True):
        better, names = pack(own[p:q], worth[p:q], name[p:q])
        if better < total[t] - total[f] - 1e-9:                      # the beam was too narrow: keep the links
            names = mine[f:t]
        keep += [k for k in names if k >= 0]
        for e in (-1 - k for k in names if k < 0):
            nodes = [int(tails[o] if o < n else heads[o - n]) for o in hyp.own[e]]
            cut = 1 + hyp.kind[e]
            sure = 1 / (1 + np.exp(-np.clip(advantage[e], -50, 50)))
            events.append(Event(KINDS[hyp.kind[e]], tuple(nodes[:cut]), tuple(nodes[cut:]), float(sure)))
    return np.array(sorted(keep), int), events


def budgets(own: np.ndarray, surplus: np.ndarray, tail: np.ndarray, head: np.ndarray, slack: np.ndarray,
            chosen: np.ndarray, n_nodes: int) -> np.ndarray:
    """Return what each object could cost for an event nearby to pay still, (n_nodes,) nats; -inf far from all.

    An event worth `surplus` more than its objects' prices frees their mates; these may join others, whose mates are
    freed in turn. Each pair on such a path costs its slack. `HOPS` pairs are followed.
    """
    room, mate = np.full(n_nodes, -np.inf), np.arange(n_nodes)
    mate[tail[chosen]], mate[head[chosen]] = head[chosen], tail[chosen]
    np.maximum.at(room, own.ravel(), np.repeat(np.where(surplus > 1e-9, surplus, -np.inf), own.shape[1]))
    for _ in range(HOPS):
        room = np.maximum(room, room[mate])
        further = room.copy()
        for one, two in ((tail, head), (head, tail)):
            ok = slack <= room[one]
            np.maximum.at(further, two[ok], room[one[ok]] - slack[ok])
        room = further
    return np.maximum(room, room[mate])


def over_links(hyp: Hypotheses, tail: np.ndarray, head: np.ndarray, gain: np.ndarray, n_nodes: int) -> np.ndarray:
    """Return each event's gain less that of the links (tail, head, gain) it would undo, (e,)."""
    undo, mate = np.zeros(n_nodes), np.full(n_nodes, -1)
    undo[tail], undo[head], mate[tail], mate[head] = gain, gain, head, tail
    inside = (mate[hyp.own][:, :, None] == hyp.own[:, None, :]).any(2)         # undone once though both ends are here
    return hyp.gain - (undo[hyp.own] * np.where(inside, 0.5, 1.0)).sum(1)

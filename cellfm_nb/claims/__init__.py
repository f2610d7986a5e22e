"""What the seed documents claim, what this run measured of it, and whether the claim holds.

`ledger` reads a run; `arithmetic` and `trials` are the small tests that no stage makes on its own way.
"""

from cellfm_nb.claims.ledger import (
    COLUMNS,
    HOLDS,
    NOT,
    NOT_RUN,
    UNTESTABLE,
    VERDICTS,
    WHEN,
    Claim,
    ledger,
    read_claims,
)

__all__ = ["COLUMNS", "HOLDS", "NOT", "NOT_RUN", "UNTESTABLE", "VERDICTS", "WHEN", "Claim", "ledger", "read_claims"]

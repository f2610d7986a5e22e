"""The trial of the promise that no human label is used: what each artifact was made from."""

from __future__ import annotations

from collections.abc import Mapping


def made_from_labels(artifacts: Mapping[str, Mapping]) -> dict[str, int]:
    """Count the artifacts of a run that were made from truth (A43: no human label is used anywhere).

    Parameters: artifacts, of workspace.json. Returns: "artifacts", how many there are; "from truth", how many name
    the truth among what they were made from. Readers' verdicts on frames are no labels of objects.
    """
    def named(value: object) -> bool:
        if isinstance(value, Mapping):
            return str(value.get("artifact", "")).split("/")[0] == "truth" or any(map(named, value.values()))
        return isinstance(value, list) and any(map(named, value))

    made = {name: entry for name, entry in artifacts.items() if name.split("/")[0] not in ("truth", "figures")}
    return {"artifacts": len(made), "from truth": sum(named(entry.get("params")) for entry in made.values())}

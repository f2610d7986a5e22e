"""Datasets and weights by name: listed in data_manifest.yaml, fetched, checked before use, never part of it."""

from cellfm_nb.manifest.datasets import (
    Dataset,
    Member,
    cache_folder,
    dataset,
    fetch,
    is_local,
    listing,
    load_manifest,
    locate,
    search_path,
    verify,
)

__all__ = ["Dataset", "Member", "cache_folder", "dataset", "fetch", "is_local", "listing", "load_manifest", "locate",
           "search_path", "verify"]

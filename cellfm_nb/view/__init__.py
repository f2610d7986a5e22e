"""Look at a run: static pictures, 3D viewer, live curves, forms, figures on disk, and the report.

Nothing in the package imports this room. Every interactive view has a headless twin, which is what
`cellfm run` uses (CELLFM_HEADLESS=1): it returns the static picture, or the default choice, and never waits.
"""

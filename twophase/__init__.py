"""The two-phase laboratory: chaos, cone and linear switch of a training run, over entk."""

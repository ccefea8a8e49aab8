"""People of every kind, many at once, over the real front: what `make load` and `make soak` run. See docs/load.md."""

"""Recipes for fleets that keep their own edge: the published topology as a configuration of the proxy that they run.

Each recipe is a pure function from a ``View`` (what an edge in one place may know) and its ``Equipment`` (its own files
and address) to text. What an edge may know ends at its jurisdiction: no cell of another one can be written down.
"""

"""The recipe for nginx: who a request is for is a router's answer, kept by nginx for as long as that says."""

from domicile.ops.edge.nginx.configuration import Memory, Tuning, configuration

__all__ = ["Memory", "Tuning", "configuration"]

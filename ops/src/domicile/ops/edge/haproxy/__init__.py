"""The recipe for HAProxy: a router says who a request is for, a map that follows the directory where that one lives."""

from domicile.ops.edge.haproxy.configuration import Tuning, files

__all__ = ["Tuning", "files"]

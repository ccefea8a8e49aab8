"""The shell around every service: settings, listeners, the access matrix, problem documents, drain."""

from domicile.service.openapi import Operation
from domicile.service.problems import problem_middleware, problem_of, problem_response, where_invalid
from domicile.service.runner import MAX_BODY_BYTES, PEER, Service, cannot_listen, json_response, read_body, run
from domicile.service.settings import Addresses, ProcessSettings, load_settings, operator_keys_in
from domicile.service.tasks import ended, repeated

__all__ = [
    "MAX_BODY_BYTES",
    "PEER",
    "Addresses",
    "Operation",
    "ProcessSettings",
    "Service",
    "cannot_listen",
    "ended",
    "json_response",
    "load_settings",
    "operator_keys_in",
    "problem_middleware",
    "problem_of",
    "problem_response",
    "read_body",
    "repeated",
    "run",
    "where_invalid",
]

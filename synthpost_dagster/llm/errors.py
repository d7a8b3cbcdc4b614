"""Errors of one request to an endpoint, by how the client handles them.

RequestError
├── Busy             the endpoint accepts no request now: wait, send again
├── TransientError   the connection or the endpoint failed: send again
├── RequestRejected  this request will never be answered: its row is rejected
└── UnknownModel     the endpoint has no such model: end the run

What ends a run is an EndpointError, in the package's `errors`.
"""


class RequestError(Exception):
    """Base of the errors of one request; the message contains no key."""


class Busy(RequestError):
    """The endpoint accepts no request now; `wait` is the pause in seconds that it asks for, if any."""

    def __init__(self, message: str, wait: float | None) -> None:
        super().__init__(message)
        self.wait = wait


class TransientError(RequestError):
    """The connection or the endpoint failed; `may_be_billed` if the request arrived and may have been processed."""

    def __init__(self, message: str, may_be_billed: bool) -> None:
        super().__init__(message)
        self.may_be_billed = may_be_billed


class RequestRejected(RequestError):
    """The endpoint rejects this request; `failed_text` is a reply that violated the schema."""

    def __init__(self, message: str, failed_text: str | None = None) -> None:
        super().__init__(message)
        self.failed_text = failed_text


class UnknownModel(RequestError):
    """The endpoint does not know the model."""

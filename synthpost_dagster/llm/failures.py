"""What can go wrong with one request to an endpoint, by what is to be done about it.

What ends the whole run is an EndpointError, in `errors`.
"""

from __future__ import annotations


class RequestFailure(Exception):
    """Base of the failures of one request; the message holds no key."""


class Busy(RequestFailure):
    """The endpoint turns the request away for now; `wait` is how many seconds it asks for, if it says so."""

    def __init__(self, message: str, wait: float | None) -> None:
        super().__init__(message)
        self.wait = wait


class Passing(RequestFailure):
    """The line or the endpoint failed; `is_perhaps_paid` where the request went in, and may have been worked on."""

    def __init__(self, message: str, is_perhaps_paid: bool) -> None:
        super().__init__(message)
        self.is_perhaps_paid = is_perhaps_paid


class Refused(RequestFailure):
    """The endpoint will never answer this request as it is; `failed_text` is what a model wrote against its schema."""

    def __init__(self, message: str, failed_text: str | None = None) -> None:
        super().__init__(message)
        self.failed_text = failed_text


class ModelGone(RequestFailure):
    """The endpoint does not know the model."""

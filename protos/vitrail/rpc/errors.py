"""The errors of Vitrail, and the one table between them and gRPC's status codes.

    VitrailError
    ├── InvalidArgument              .field: what is wrong
    ├── NotFound
    ├── AlreadyExists
    ├── FailedPrecondition
    │   └── EmbeddingSpaceMismatch
    ├── ResourceExhausted            .retry_after: seconds, or None
    ├── Unavailable                  .retry_after: seconds, or None
    └── DeadlineExceeded

Servers raise them, `to_status` writes them on the wire, `from_status` raises the same class in the SDK.
This module knows protobuf but not grpc, so that domain code may import it.
"""

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "vitrail"
# A status travels as headers, of which gRPC takes 8 KiB, with each byte of the message escaped by three.
LONGEST_MESSAGE, LONGEST_FIELD = 1000, 200


class VitrailError(Exception):
    """Base of all; raised itself where nothing below fits (an internal error, an unknown status).

    Attributes:
        message: What went wrong, for people.
        field: The field of the request that is wrong, or an empty string.
        retry_after: Seconds after which another try may succeed, or None.
    """

    code: int = code_pb2.INTERNAL
    reason: str = ""

    def __init__(self, message: str, *, field: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class InvalidArgument(VitrailError):
    """The request is wrong whatever the state of the server; `field` names where."""

    code = code_pb2.INVALID_ARGUMENT


class NotFound(VitrailError):
    """No such collection or record."""

    code = code_pb2.NOT_FOUND


class AlreadyExists(VitrailError):
    """A collection of that name is already there."""

    code = code_pb2.ALREADY_EXISTS


class FailedPrecondition(VitrailError):
    """The request is well formed but does not fit the state of the server."""

    code = code_pb2.FAILED_PRECONDITION


class EmbeddingSpaceMismatch(FailedPrecondition):
    """Vectors of two embedding spaces do not compare."""

    reason = "EMBEDDING_SPACE_MISMATCH"


class ResourceExhausted(VitrailError):
    """A queue is full, or a message too large; `retry_after` says when to try again, if ever."""

    code = code_pb2.RESOURCE_EXHAUSTED


class Unavailable(VitrailError):
    """The server, the store, or more shards than the caller tolerates cannot be reached."""

    code = code_pb2.UNAVAILABLE


class DeadlineExceeded(VitrailError):
    """The time ran out before there was anything to answer with."""

    code = code_pb2.DEADLINE_EXCEEDED


BY_CODE: dict[int, type[VitrailError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
    )
}
BY_REASON: dict[str, type[VitrailError]] = {
    EmbeddingSpaceMismatch.reason: EmbeddingSpaceMismatch,
}


def to_status(error: VitrailError) -> status_pb2.Status:
    """Write an error as a google.rpc.Status with the details that its class promises."""
    details = []
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_clipped(error.field, LONGEST_FIELD), description=_clipped(error.message, LONGEST_MESSAGE)
        )
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.reason:
        details.append(_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)))
    if error.retry_after is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=error.code, message=_clipped(str(error), LONGEST_MESSAGE), details=details)


def from_status(status: status_pb2.Status) -> VitrailError:
    """Read back what `to_status` wrote; a status of anyone else gives the class of its code."""
    kind = BY_CODE.get(status.code, VitrailError)
    message, field, retry_after = status.message, "", None
    for detail in status.details:
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            if bad.field_violations:
                field, message = bad.field_violations[0].field, bad.field_violations[0].description
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            kind = BY_REASON.get(info.reason, kind)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return kind(message, field=field, retry_after=retry_after)


def _clipped(text: str, limit: int) -> str:
    data = text.encode()
    return text if len(data) <= limit else data[:limit].decode(errors="ignore") + "…"


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed

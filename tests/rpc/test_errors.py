from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.fakes import Echo, call
from vitrail.rpc.channel import STATUS_DETAILS
from vitrail.rpc.errors import (
    BY_CODE,
    AlreadyExists,
    DeadlineExceeded,
    EmbeddingSpaceMismatch,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    VitrailError,
    from_status,
    to_status,
)

ERRORS = [
    (InvalidArgument("must be from 1 to 1,000, not 0", field="top_k"), "INVALID_ARGUMENT"),
    (NotFound("there is no collection", field="collection"), "NOT_FOUND"),
    (AlreadyExists("it is there"), "ALREADY_EXISTS"),
    (FailedPrecondition("it does not fit"), "FAILED_PRECONDITION"),
    (EmbeddingSpaceMismatch("of another space", field="query.vector"), "FAILED_PRECONDITION"),
    (ResourceExhausted("the queue is full", retry_after=0.25), "RESOURCE_EXHAUSTED"),
    (ResourceExhausted("too large"), "RESOURCE_EXHAUSTED"),
    (Unavailable("the store is away", retry_after=1.0), "UNAVAILABLE"),
    (Unavailable("come at once", retry_after=0.0), "UNAVAILABLE"),
    (DeadlineExceeded("too late"), "DEADLINE_EXCEEDED"),
    (VitrailError("something else"), "INTERNAL"),
    (InvalidArgument("наоборот 逆", field="attributes.größe"), "INVALID_ARGUMENT"),
    (InvalidArgument(""), "INVALID_ARGUMENT"),
]


def read(error: grpc.aio.AioRpcError) -> tuple[status_pb2.Status, VitrailError]:
    metadata: Any = error.trailing_metadata()
    status = status_pb2.Status.FromString(dict(metadata)[STATUS_DETAILS])
    return status, from_status(status)


async def failure(channel: grpc.aio.Channel, method: str) -> grpc.aio.AioRpcError:
    """What a call of `Echo` fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, method)
    return caught.value


@pytest.mark.parametrize("method", ["Unary", "Spread"])
@pytest.mark.parametrize(("error", "code"), ERRORS)
async def test_errors_come_over_the_wire_as_they_were_raised(
    echo: Echo, channel: grpc.aio.Channel, error: VitrailError, code: str, method: str
) -> None:
    """Class, message, field and delay are those that the server raised, in a call and in a stream."""
    echo.error = error
    raised = await failure(channel, method)
    status, again = read(raised)
    assert raised.code() == grpc.StatusCode[code]
    assert status.code == raised.code().value[0]
    assert raised.details() == status.message == str(error)
    assert type(again) is type(error)
    assert (again.message, again.field, again.retry_after) == (error.message, error.field, error.retry_after)


async def test_callers_without_our_sdk_can_read_it(echo: Echo, channel: grpc.aio.Channel) -> None:
    """The details are Google's: BadRequest names the field, ErrorInfo the reason, RetryInfo the delay."""
    echo.error = EmbeddingSpaceMismatch("of another space", field="query.vector", retry_after=1.5)
    status, _ = read(await failure(channel, "Unary"))
    bad, info, retry = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert [detail.Unpack(into) for detail, into in zip(status.details, (bad, info, retry), strict=True)] == [True] * 3
    (violation,) = bad.field_violations
    assert (violation.field, violation.description) == ("query.vector", "of another space")
    assert (info.reason, info.domain) == ("EMBEDDING_SPACE_MISMATCH", "vitrail")
    assert retry.retry_delay.ToMilliseconds() == 1500


@pytest.mark.parametrize("character", ["x", "\n", "é", "日", "🦊"])
async def test_a_long_message_does_not_outgrow_the_headers(
    echo: Echo, channel: grpc.aio.Channel, character: str
) -> None:
    """A message that quotes what a caller sent, and a field of its making, are clipped: the error stays itself."""
    echo.error = InvalidArgument(f"there is no {character * 100_000}", field=f"attributes.{character * 100_000}")
    raised = await failure(channel, "Unary")
    assert raised.code() == grpc.StatusCode.INVALID_ARGUMENT
    _, again = read(raised)
    assert again.message.startswith(f"there is no {character}")
    assert again.field.startswith(f"attributes.{character}")
    assert again.message.endswith("…")


TEXT = st.text(max_size=40)


@given(
    kind=st.sampled_from([*BY_CODE.values(), EmbeddingSpaceMismatch, VitrailError]),
    message=TEXT,
    field=TEXT,
    milliseconds=st.none() | st.integers(0, 10**9),
)
def test_any_error_is_read_back(kind: type[VitrailError], message: str, field: str, milliseconds: int | None) -> None:
    """Whatever it says, for every class."""
    retry_after = None if milliseconds is None else milliseconds / 1000
    again = from_status(to_status(kind(message, field=field, retry_after=retry_after)))
    assert type(again) is kind
    assert (again.message, again.field, again.retry_after) == (message, field, retry_after)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("NOT_FOUND", NotFound), ("UNAVAILABLE", Unavailable), ("PERMISSION_DENIED", VitrailError), ("OK", VitrailError)],
)
def test_a_status_of_someone_else(code: str, kind: type[VitrailError]) -> None:
    """A proxy's status, which has no details, gives the class of its code."""
    error = from_status(status_pb2.Status(code=grpc.StatusCode[code].value[0], message="no healthy upstream"))
    assert type(error) is kind
    assert (error.message, error.field, error.retry_after) == ("no healthy upstream", "", None)

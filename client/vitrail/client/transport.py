"""What both clients need of gRPC: messages as bytes, and the one place where its errors become ours."""

from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from vitrail.rpc.channel import STATUS_DETAILS
from vitrail.rpc.errors import ResourceExhausted, Unavailable, VitrailError, from_status

# What a server's gRPC says by itself where too many calls wait (1,000, by its default), before our queues see them.
# Calls that this side cancels have other words.
CROWDED = grpc.StatusCode.CANCELLED.name
CROWDED_SECONDS = 0.5


def serialize(message: Message) -> bytes:
    return message.SerializeToString()


def translate(error: Any, address: str) -> VitrailError:
    """Read the error of a call: its details where the server sent them, else its code.

    Args:
        error: A `grpc.RpcError` of a call, or a `grpc.aio.AioRpcError`. Their stubs share no such type.
        address: For the message, where nobody answered.
    """
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS:
            return from_status(status_pb2.Status.FromString(value))
    code: grpc.StatusCode = error.code()
    message = error.details() or code.name
    if message == CROWDED:
        return ResourceExhausted(f"{address} has more calls waiting than it takes", retry_after=CROWDED_SECONDS)
    failure = from_status(status_pb2.Status(code=code.value[0], message=message))
    if isinstance(failure, Unavailable):
        return Unavailable(f"{address} does not answer: {message}")
    return failure

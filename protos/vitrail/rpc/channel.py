"""Settings that both ends of a channel must agree on."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The largest message, in either direction. Batches are split below it."""

STATUS_DETAILS = "grpc-status-details-bin"
"""The trailing metadata that carries a google.rpc.Status (gRPC's "richer error model")."""

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]

CLIENT_OPTIONS = [
    *OPTIONS,
    # A shard that was restarted is found again within a second or so, not after two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # So is one whose name stands for another address now, not after half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]

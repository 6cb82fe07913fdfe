"""The command `vitrail`."""

import os

# Before grpc is loaded: its handlers of forks had up to 7 in 100 processes crash that a busy server started, as a shard
# does to build. No process of ours goes on with gRPC after a fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

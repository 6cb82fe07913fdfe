"""What holds for all tests."""

import vitrail.cli  # noqa: F401 # sets what gRPC must know before it is loaded: tests fork beside it, too

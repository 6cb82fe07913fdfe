"""What both ends of a wire need: vectors as bytes, the deadline, errors to status, running a server."""

"""`vitrail bench`: how fast and how exact a server is, beside FAISS in process and beside a plain copy of the bytes.

Read `run.py` from the top: it is the order in which things are measured, and each is a file. All that is asked of
the server goes through its public API and the metrics that its processes serve, so that it may be anywhere.
"""


class BenchFailed(Exception):
    """What was given, or what the server does, leaves nothing to measure."""

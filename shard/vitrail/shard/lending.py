"""Objects of faiss that point to others without owning them."""

from typing import Any


def lend(owner: Any, name: str, lent: Any) -> None:
    """Have a member of `owner` point to `lent`, which stays whose it was; the caller keeps it alive.

    An assignment alone has faiss's Python objects (SWIG's: `SWIG_POINTER_DISOWN`) give up what they point to, for the
    new owner to free, which never does: each index that a partition left behind stayed in memory.
    """
    owned = lent.thisown
    setattr(owner, name, lent)
    lent.thisown = owned

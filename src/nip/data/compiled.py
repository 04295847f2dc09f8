"""The decorator for compiled loops: numba in nopython mode, without the GIL, cached on disk."""

from __future__ import annotations

try:
    import numba
except ImportError as error:
    raise ImportError("Making this data needs numba: pip install 'nip[fast]'") from error

compiled = numba.njit(nogil=True, cache=True)

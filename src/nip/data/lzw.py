"""Unpack what Unix's `compress` packs (.Z files): codes of 9 to 16 bits (Welch, Computer 17(6), 1984)."""

from __future__ import annotations

MAGIC = b"\x1f\x9d"
CLEAR = 256  # begins anew, in block mode


def decompress(data: bytes, limit: int) -> bytes:
    """Unpack a whole .Z file.

    Parameters
    ----------
    data : bytes
        The file's content.
    limit : int
        Bytes that it may unpack to.

    Raises
    ------
    ValueError
        If it is no such file, is damaged, or unpacks to more.

    Notes
    -----
    O(n) for n bytes of output. A file cut short is unpacked as far as it goes: nothing in it tells.

    Examples
    --------
    >>> decompress(bytes.fromhex("1f9d9061c4041c08"), 100)
    b'abababa'
    """
    if data[:2] != MAGIC or len(data) < 3 or not 9 <= data[2] & 31 <= 16:
        raise ValueError("it is not packed by Unix's compress")
    widest, block = data[2] & 31, bool(data[2] & 128)
    singles = [bytes([i]) for i in range(256)] + ([b""] if block else [])
    known = singles.copy()
    out: list[bytes] = []
    size = 0
    before = b""
    width, place = 9, 3
    while place < len(data):
        # codes come in groups of eight, which fill whole bytes; a new width or a clearing begins a new group
        group = data[place : place + width]
        place += width
        bits = int.from_bytes(group, "little")
        for _ in range(8 * len(group) // width):
            code = bits & ((1 << width) - 1)
            bits >>= width
            if block and code == CLEAR:
                known, before, width = singles.copy(), b"", 9
                break
            if code < len(known):
                piece = known[code]
            elif code == len(known) and before:
                piece = before + before[:1]
            else:
                raise ValueError("it holds a code that stands for nothing yet")
            out.append(piece)
            size += len(piece)
            if size > limit:
                raise ValueError(f"it unpacks to more than {limit} bytes")
            if before and len(known) < 1 << widest:
                known.append(before + piece[:1])
            before = piece
            if len(known) == 1 << width and width < widest:
                width += 1
                break
    return b"".join(out)

"""Small files in the forms of Debian's bible.data and of the Brown corpus, made with code of their own."""

import random
import struct

from nip.data.offline.corpora import BOOKS

LETTERS = "abcdefghjklmnpr"  # of the Brown corpus's genres


def compress(content, widest=16, clear_every=None):
    """Pack as Unix's compress does: groups of eight codes, the width growing when the table fills up."""
    out = bytearray([0x1F, 0x9D, 0x80 | widest])
    group = []
    width, table, read = 9, {bytes([i]): i for i in range(256)}, 257  # `read`: codes that the reader knows by now

    def flush(whole):
        nonlocal group
        bits = sum(code << (i * width) for i, code in enumerate(group))
        n_bytes = (len(group) * width + 7) // 8
        out.extend(bits.to_bytes(n_bytes, "little") + bytes(width - n_bytes if whole and group else 0))
        group = []

    def emit(code):
        nonlocal width, read
        group.append(code)
        if len(group) == 8:
            flush(whole=True)

    current, first = b"", True
    for i in range(len(content)):
        if clear_every and i and i % clear_every == 0:
            emit(table[current])
            emit(256)
            flush(whole=True)
            width, table, read, current, first = 9, {bytes([i]): i for i in range(256)}, 257, b"", True
        byte = content[i : i + 1]
        if current + byte in table:
            current += byte
            continue
        emit(table[current])
        if len(table) + 1 < 1 << widest:
            table[current + byte] = len(table) + 1  # 256 is taken
        if not first and read < 1 << widest:
            read += 1
        first = False
        if read == 1 << width and width < widest:
            flush(whole=True)
            width += 1
        current = byte
    if current:
        emit(table[current])
    flush(whole=False)
    return bytes(out)


def bible_verses(n_chapters=6, books=BOOKS, seed=0):
    """Lines as in the Bible's text file, and for each book its verses without their numbers."""
    lot = random.Random(seed)
    lines, verses = ["Holy Bible, a small one."], {}
    for book in books:
        for chapter in range(1, n_chapters + 1):
            for verse in range(1, 12):
                words = " ".join(lot.choice(["And", "the", "earth", "was", f"of-{book}", "void;"]) for _ in range(12))
                lines.append(f"{book}{chapter}:{verse} {words}")
                verses.setdefault(book, []).append(words)
    return lines, verses


def bible_data(lines, window=4096):
    """A bible.data: a header, the window's size, the number of windows, where each begins, the packed text."""
    text = ("\n".join(lines) + "\n").encode()
    n_windows = -(-len(text) // window)
    packed = compress(text, clear_every=window)
    start = 0x5C + 4 * (n_windows + 1)
    table = [start + 3] * n_windows + [start + len(packed)]  # readers of the whole text need the last entry alone
    header = b"EC02Compressed Data File".ljust(0x54, b"\0")
    return header + struct.pack(f">{2 + len(table)}I", window, n_windows, *table) + packed


def brown_files(folder, per_genre=4, seed=0):
    """Write texts of a small Brown corpus; returns each one's words without tags."""
    lot = random.Random(seed)
    folder.mkdir(exist_ok=True)
    (folder / "README").write_text("not a text")
    plain = {}
    for letter in LETTERS:
        for number in range(1, per_genre + 1):
            name = f"c{letter}{number:02d}"
            words = [lot.choice(["The", "1/2", "jury", f"{letter}-word", f"{name}-word", ","]) for _ in range(300)]
            lines = ["\t" + " ".join(f"{word}/{lot.choice(['at', 'nn-tl', ','])}" for word in words[i : i + 30])
                     for i in range(0, 300, 30)]  # fmt: skip
            (folder / name).write_text("\n\n".join(lines) + "\n")
            plain[name] = " ".join(words)
    return plain

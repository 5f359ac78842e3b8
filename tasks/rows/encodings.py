"""Which encoding a file is in, and its text in UTF-8.

A byte-order mark decides; else UTF-16 shows by the NULs beside its ASCII; else UTF-8, when at least half of the
lines that are not ASCII decode so (a file with broken rows is still UTF-8); else GB18030, when nine tenths decode
and what comes out reads as Chinese: Big5, EUC-KR, EUC-JP and Shift-JIS decode too, to nonsense. Otherwise nothing is
guessed. `data.encoding` wins, unless a byte-order mark contradicts it.

What cannot be decoded later costs the row it stands in. It is carried along as a lone surrogate, which neither
valid UTF-8 nor decoded text can hold, so every reader stumbles there and nowhere else.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import chain, pairwise

from tasks.errors import DataError

_UTF8_LINES, _GB18030_LINES = 0.5, 0.9
# The 3,755 characters of GB2312's first level and its punctuation: 95 % of simplified Chinese and two
# thirds of traditional Chinese, 35 % of Big5 taken for GBK, a tenth of Shift-JIS taken for GBK.
_USUAL, _USUAL_SHARE = re.compile(rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]"), 0.6
# That level stands in the order of pinyin: its last third, from shi to zuo, is missing in EUC-KR's syllables.
_LATE, _LATE_SHARE, _LATE_PAIRS = re.compile(rb"[\xc9-\xd7][\xa1-\xfe]"), 0.1, 50
_PAIR = re.compile(rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]")
# A long line is judged in pieces, cut where neither UTF-8 nor GB18030 has half a character.
_PIECE = re.compile(rb'[^\r\n]{1,64}+[^\r\n"]*+')
# The end of a line, and what completes half a unit and marks it as broken: its other byte, half a pair.
_WIDE = {
    "utf-16-le": (re.compile(rb"\n\x00"), b"\x00\x00\xd8"),
    "utf-16-be": (re.compile(rb"\x00\n"), b"\x00\xd8\x00"),
}
_LONGEST = 4 << 20


@dataclass(frozen=True)
class Encoding:
    """How bytes become text."""

    codec: str
    """utf-8, utf-16-le, utf-16-be or gb18030."""
    mark: int
    """Bytes of the byte-order mark."""

    @property
    def label(self) -> str:
        """What a person reads."""
        return "utf-8 with BOM" if self.codec == "utf-8" and self.mark else self.codec


_MARKS = (
    (codecs.BOM_UTF8, Encoding("utf-8", 3)),
    (codecs.BOM_UTF32_LE, None),
    (codecs.BOM_UTF32_BE, None),
    (codecs.BOM_UTF16_LE, Encoding("utf-16-le", 2)),
    (codecs.BOM_UTF16_BE, Encoding("utf-16-be", 2)),
    (b"\x84\x31\x95\x33", Encoding("gb18030", 4)),
)


def sniff(head: bytes, whole: bool, name: str, wanted: str = "auto") -> Encoding:
    """Return the encoding of a text that begins with these bytes.

    Args:
        head: The first bytes; 4 MiB are plenty.
        whole: Whether they are all there is.
        name: Of the file, for messages.
        wanted: auto, utf-8, utf-16 or gb18030.

    Raises:
        DataError: None fits, or the byte-order mark is of another than the wanted one.
    """
    marked = _marked(head, name)
    if marked:
        if not marked.codec.startswith(wanted) and wanted != "auto":
            raise DataError(
                f"{name}: data.encoding says {wanted}, the byte-order mark says {marked.codec} "
                f"(found: {head[: marked.mark].hex(' ')}). Set data.encoding to auto, or give another file."
            )
        return marked
    if wanted in ("utf-8", "gb18030"):
        return Encoding(wanted, 0)
    wide = _wide(head, wanted == "utf-16")
    if wide:
        return Encoding(wide, 0)
    if wanted == "utf-16":
        raise DataError(
            f"{name}: data.encoding says utf-16, but the order of its bytes is not clear "
            "(found: no byte-order mark, and as many NULs on both sides). Save the file as UTF-8."
        )
    plain = _decodes(head, "utf-8", whole)
    return Encoding("utf-8" if plain else _by_share(head, whole, name), 0)


def _marked(head: bytes, name: str) -> Encoding | None:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            if encoding is None:
                raise DataError(
                    f"{name}: UTF-32 is not read (found the byte-order mark {mark.hex(' ')}). "
                    "Save the file as UTF-8."
                )
            return encoding
    return None


def _wide(head: bytes, surely: bool) -> str:
    """Return which UTF-16 this is, by the NULs beside ASCII; empty if it is not, or cannot be told.

    Half of it must be ASCII, or a twentieth and more than what a text with a few stray NULs has.
    """
    nuls = {"utf-16-be": head[::2].count(0), "utf-16-le": head[1::2].count(0)}
    codec = max(nuls, key=lambda each: nuls[each])
    most, least = nuls[codec], min(nuls.values())
    if surely:
        return codec if most > least else ""
    many = most * 4 >= len(head) or (most >= 16 and most * 40 >= len(head))
    return codec if many and most > 16 * least else ""


def _by_share(head: bytes, whole: bool, name: str) -> str:
    """Decide by the share of lines that decode."""
    lines = [piece for piece in _PIECE.findall(head) if not piece.isascii()]
    cut = not whole and head.endswith(lines[-1])
    utf8, gb18030 = (
        [*(_decodes(line, codec) for line in lines[:-1]), _decodes(lines[-1], codec, not cut)]
        for codec in ("utf-8", "gb18030")
    )
    shares = sum(utf8) / len(lines), sum(gb18030) / len(lines)
    if shares[0] >= _UTF8_LINES:
        return "utf-8"
    chinese = [line for line, fits in zip(lines, gb18030, strict=True) if fits]
    if shares[1] >= _GB18030_LINES and _reads_as_chinese(chinese):
        return "gb18030"
    as_other = ", which is not Chinese" if shares[1] >= _GB18030_LINES else ""
    raise DataError(
        f"{name}: the encoding is not known (found: of {len(lines)} lines that are not ASCII {shares[0]:.0%} "
        f"decode as UTF-8, {shares[1]:.0%} as GB18030{as_other}). Save the file as UTF-8, or set "
        "data.encoding if it is one of utf-8, utf-16, gb18030."
    )


def _decodes(text: bytes, codec: str, whole: bool = True) -> bool:
    try:
        codecs.getincrementaldecoder(codec)().decode(text, whole)
    except UnicodeDecodeError:
        return False
    return True


def _reads_as_chinese(lines: list[bytes]) -> bool:
    pairs = [pair for line in lines[:2000] for pair in _PAIR.findall(line[:4096])]
    usual = sum(_USUAL.fullmatch(pair) is not None for pair in pairs)
    late = sum(_LATE.fullmatch(pair) is not None for pair in pairs)
    few = len(pairs) < _LATE_PAIRS
    return usual >= _USUAL_SHARE * len(pairs) and (few or late >= _LATE_SHARE * len(pairs))


def sample(head: bytes, encoding: Encoding, size: int) -> str:
    """Return the beginning of the text; whole lines where more follows."""
    text = "".join(as_text(iter((head[: size + encoding.mark],)), encoding))
    return text if len(head) <= size + encoding.mark else text[: text.rfind("\n") + 1] or text


def as_utf8(chunks: Iterator[bytes], encoding: Encoding) -> Iterator[bytes]:
    """Yield the text as UTF-8; where something could not be decoded, it is not valid UTF-8."""
    if encoding.codec == "utf-8":
        return _unmarked(chunks, encoding.mark)
    return (text.encode("utf-8", "surrogatepass") for text in _decoded(chunks, encoding))


def as_text(chunks: Iterator[bytes], encoding: Encoding) -> Iterator[str]:
    r"""Yield lines that end in \n, or pieces of them; a lone surrogate is what could not be decoded."""
    for text in _decoded(chunks, encoding):
        yield from StringIO(text, newline="\n")


def _unmarked(chunks: Iterator[bytes], mark: int) -> Iterator[bytes]:
    yield next(chunks, b"")[mark:]
    yield from chunks


def _decoded(chunks: Iterator[bytes], encoding: Encoding) -> Iterator[str]:
    wide = encoding.codec in _WIDE
    decoder = codecs.getincrementaldecoder(encoding.codec)(
        "surrogatepass" if wide else "surrogateescape"
    )
    chunks = _unmarked(chunks, encoding.mark)
    for chunk in _aligned(chunks, encoding.codec) if wide else chunks:
        yield decoder.decode(chunk)
    yield decoder.decode(b"", True)


def _aligned(chunks: Iterator[bytes], codec: str) -> Iterator[bytes]:
    """Yield UTF-16 in whole units: where a byte is lost, its line is marked and the next is in step again.

    Out of step, lines end at odd places: two such ends in a row are no accident.
    """
    newline, mark = _WIDE[codec]
    held = b""
    for chunk in chain(chunks, (None,)):
        held += chunk or b""
        ends = [found.start() for found in newline.finditer(held)]
        if chunk is None:
            ends.append(len(held))
        begun = 0
        for end, following in pairwise(ends):
            if (end - begun) % 2 and (following - end) % 2 == 0:
                yield held[begun:end] + mark
                begun = end
        odd = (len(held) - begun) % 2
        if chunk is None:
            yield held[begun:] + (mark if odd else b"")
        elif ends and (ends[-1] - begun) % 2 and len(held) - begun < _LONGEST:
            held = held[begun:]  # what follows tells whether this end is an accident
        else:
            yield held[begun : len(held) - odd]
            held = held[len(held) - odd :]

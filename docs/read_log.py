#!/usr/bin/env python3
"""Lists the entries of a log's directory, a JSON object a line. Written from FORMAT.md alone.

Prints what `catamaran dump -o jsonl` prints. In a log that is not Raft's, a term is a mark and a kind a tag.
Status 0, or 2 with a line on stderr that says what is damaged. It reads, and takes no lock: run it on a log that
nobody writes to.
"""

import json
import os
import re
import struct
import sys
import zlib

HEADER = struct.Struct("<8sII8Q")
HEAD = struct.Struct("<IIIBBHQQ")
START = struct.Struct("<5Q")
BATCH = struct.Struct("<QII")
TAIL = struct.Struct("<I4s6I6Q")
BLOCK = 4096
BATCH_KIND, START_KIND, STATE, TRUNCATE, RECORD, DROP = 1, 2, 3, 4, 5, 6
NO_STATE = 0xFFFFFFFF
KINDS = {0: "normal", 1: "noop", 2: "config"}


class Damage(Exception):
    pass


def seed(ident, offset):
    return ((ident * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 32) ^ offset // 8


def check(ident, offset, words):
    factors = (0x94D049BB133111EB, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
    place = ident * 0x9E3779B97F4A7C15 + offset * 0xBF58476D1CE4E5B9
    products = sum(word * factor for word, factor in zip(words, factors))
    return (place + products & (1 << 64) - 1) >> 32


def to_8(length):
    return (length + 7) // 8 * 8


class Segment:
    def __init__(self, directory, name):
        self.name = name
        with open(os.path.join(directory, name), "rb") as file:
            self.bytes = file.read()
        if len(self.bytes) < 2 * BLOCK:
            raise self.damage(0, "too short for a segment")
        (magic, version, _, incompatible, _, self.id, self.sequence, *self.owner, size) = HEADER.unpack_from(self.bytes)
        if magic != b"CATAMWAL":
            raise self.damage(0, "no segment")
        if struct.unpack_from("<I", self.bytes, 80)[0] != zlib.crc32(self.bytes[:80]):
            raise self.damage(0, "the header is damaged")
        if version > 1 or incompatible:
            raise self.damage(8, "a later release wrote it")
        if size != len(self.bytes) or self.sequence != int(name[:16], 16):
            raise self.damage(40, "size or sequence is not that of the file")
        self.begun = any(self.bytes[BLOCK : BLOCK + HEAD.size])

    def damage(self, offset, what):
        return Damage(f"{self.name} at offset {offset}: {what}")

    def head(self, offset):
        """The head at a place, if its check is right."""
        if offset + HEAD.size > len(self.bytes):
            return None
        head = HEAD.unpack_from(self.bytes, offset)
        words = struct.unpack_from("<3Q", self.bytes, offset + 8)
        good = 1 <= head[3] <= 6 and head[1] == check(self.id, offset, words)
        return head if good else None

    def frame(self, offset, limit):
        """Kind, tag, index, mark, payload and end of the good frame at a place, or None."""
        head = self.head(offset)
        if head is None:
            return None
        crc, _, length, kind, tag, _, index, mark = head
        begin, end = offset + HEAD.size, offset + HEAD.size + to_8(length)
        payload = self.bytes[begin : begin + length]
        covered = self.bytes[offset + 4 : begin + length]
        if end > limit or zlib.crc32(covered, seed(self.id, offset)) != crc:
            return None
        return kind, tag, index, mark, payload, end

    def start(self):
        frame = self.frame(BLOCK, len(self.bytes))
        if frame is None or frame[0] != START_KIND or len(frame[4]) != START.size or frame[1] > 1:
            return None
        start = frame[1], frame[2], frame[3], *START.unpack(frame[4])
        return start if start[6] <= start[1] else None

    def tail(self):
        """A footer's fixed end, if there is one."""
        at = len(self.bytes) - TAIL.size
        tail = TAIL.unpack_from(self.bytes, at)
        good = tail[1] == b"FOOT" and tail[0] == zlib.crc32(self.bytes[at + 4 :], seed(self.id, len(self.bytes)))
        return tail if good else None

    def footer(self):
        """Where the frames end, `lo`, last, and the offsets of those entries; None without a whole footer."""
        at, tail = len(self.bytes) - TAIL.size, self.tail()
        if tail is None:
            return None
        _, _, summary_crc, table_crc, end, count, runs, state, lo, last = tail[:10]
        table = at - to_8(4 * count)
        summary = table - 16 * runs - (0 if state == NO_STATE else to_8(state))
        if summary < end or zlib.crc32(self.bytes[table:at]) != table_crc:
            return None
        if zlib.crc32(self.bytes[summary:table]) != summary_crc:
            return None
        return end, lo, last, struct.unpack_from(f"<{count}I", self.bytes, table)

    def behind(self, offset):
        """Whether good heads of this segment follow, and the highest fence in them."""
        heads, fence = False, (0, 0)
        # The second eight bytes of a head are length, kind, tag and stream.
        words = struct.iter_unpack("<Q", self.bytes[offset + 8 :])
        like = (at for at, (word,) in enumerate(words) if 1 <= word >> 32 & 0xFF <= 6 and word < 1 << 48)
        for at in (offset + 8 * at for at in like):
            head = self.head(at)
            if head is None:
                continue
            heads = True
            frame = self.frame(at, len(self.bytes)) if head[3] == BATCH_KIND else None
            if frame:
                fence = max(fence, BATCH.unpack(frame[4])[:2])
        return heads, fence


class Log:
    def __init__(self):
        self.entries, self.state = {}, None
        self.last = None

    def begin(self, start):
        _, self.last, self.mark, _, _, _, self.floor, self.floor_mark = start

    def apply(self, segment, offset, frame):
        kind, tag, index, mark, payload, _ = frame

        def check(fine):
            if not fine:
                raise segment.damage(offset, f"a frame of kind {kind} out of place")

        check(kind == STATE or self.state is None or offset != BLOCK + HEAD.size + START.size)
        if kind == START_KIND:
            check(offset == BLOCK and (index, mark) == (self.last, self.mark))
            check(START.unpack(payload)[3:] == (self.floor, self.floor_mark))
        elif kind == BATCH_KIND:
            check(len(payload) == BATCH.size)
        elif kind == STATE:
            check(len(payload) <= 1024)
            self.state = payload
        elif kind == TRUNCATE:
            check(self.floor < index <= self.last and self.floor_mark <= mark <= self.mark)
            for gone in range(index, self.last + 1):
                self.entries.pop(gone, None)
            self.last, self.mark = index - 1, mark
        elif kind == RECORD:
            check(index == self.last + 1 and mark >= self.mark)
            self.last, self.mark = index, mark
            self.entries[index] = (mark, tag, payload, segment.sequence, offset)
        elif kind == DROP:
            check(index > self.floor)
            for gone in [entry for entry in self.entries if entry <= index]:
                del self.entries[gone]
            self.floor, self.floor_mark = index, mark
            if index > self.last:
                self.last, self.mark = index, mark


def read_segments(directory):
    names = sorted(name for name in os.listdir(directory) if re.fullmatch(r"[0-9a-f]{16}\.wal", name))
    segments = [Segment(directory, name) for name in names]
    for before, segment in zip(segments, segments[1:]):
        if segment.sequence != before.sequence + 1:
            raise Damage(f"segment {before.sequence + 1:016x}.wal is missing")
        if segment.owner != before.owner:
            raise segment.damage(48, "it belongs to another log")
    if len({segment.id for segment in segments}) != len(segments):
        raise Damage("a segment is there twice")
    used = max((at + 1 for at, segment in enumerate(segments) if segment.begun), default=0)
    return segments[:used]


def walk(log, segment, limit):
    """Applies the good frames up to the limit. Where they end, and where the last batch should."""
    offset, batch = BLOCK, 0
    while offset < limit:
        frame = segment.frame(offset, limit)
        if frame is None:
            break
        log.apply(segment, offset, frame)
        if frame[0] == BATCH_KIND:
            batch = offset + BATCH.unpack(frame[4])[2]
        offset = frame[5]
    return offset, batch


def check_footer(log, segment, footer):
    """The second opinion: each offset is where the entry was found, if it lives there still."""
    _, lo, last, offsets = footer
    if lo + len(offsets) - 1 != last or last != log.last:
        raise segment.damage(len(segment.bytes) - TAIL.size, "the footer tells of other entries")
    for index, offset in zip(range(lo, last + 1), offsets):
        found = log.entries.get(index)
        if found and found[3:] != (segment.sequence, offset):
            raise segment.damage(offset, f"the footer has entry {index} here")


def read_log(directory):
    segments = read_segments(directory)
    starts = [segment.start() for segment in segments]
    if None in starts[:-1] or (segments and segments[0].sequence > 1 and starts[0] is None):
        first = starts.index(None)
        none_begun = not segments[first].begun and not any(starts[first:])
        bad = segments[-1 if none_begun else first]
        raise bad.damage(BLOCK, "the first frame is damaged")
    unfinished = None
    if starts and starts[-1] is None:
        unfinished = segments.pop()
        starts.pop()
        if unfinished.behind(BLOCK)[1] > (unfinished.sequence, BLOCK):
            raise unfinished.damage(BLOCK, "the first frame is damaged")
    log = Log()
    for at, (segment, start) in enumerate(zip(segments, starts)):
        before = segments[at - 1] if at else None
        if start[3] != segment.sequence - 1 or (before and start[5] != before.id):
            raise segment.damage(BLOCK, "it does not follow the segment before it")
        if not before:
            log.begin(start)
        footer = segment.footer()
        follows = starts[at + 1] if at + 1 < len(starts) else None
        if follows:
            limit, sealed = follows[4], follows[0] == 0
            if sealed and (footer is None or footer[0] != limit):
                raise segment.damage(limit, "the footer is damaged")
        else:
            limit, sealed = (footer[0] if footer else len(segment.bytes)), footer is not None
        end, batch = walk(log, segment, limit)
        if not (before or follows or batch) and segment.sequence > 1:
            raise segment.damage(end, "the first batch is damaged, and the segments before it are gone")
        if end < limit:
            # Also before a whole footer a bad frame may be torn: fences decide, as everywhere.
            if follows or segment.behind(end)[1] > (segment.sequence, end):
                raise segment.damage(end, f"entry {log.last + 1} or what is before it is damaged")
            sealed = False
        if sealed:
            check_footer(log, segment, footer)
        if not follows and not sealed:
            zeros = not any(segment.bytes[end : end + HEAD.size])
            if not zeros or segment.tail() or batch > end or segment.behind(end)[0]:
                print(f"torn: {segment.name} at offset {end}", file=sys.stderr)
            if unfinished and unfinished.behind(BLOCK)[1] > (segment.sequence, end):
                raise segment.damage(end, "a frame that was durable is damaged")
    if segments and any(index not in log.entries for index in range(log.floor + 1, log.last + 1)):
        raise Damage("the first segments are missing")
    return log


def main(directory):
    below = os.path.join(directory, "wal")
    try:
        log = read_log(below if os.path.isdir(below) else directory)
    except Damage as damage:
        print(damage, file=sys.stderr)
        return 2
    for index in sorted(log.entries):
        mark, tag, payload, _, _ = log.entries[index]
        entry = {"index": index, "term": mark, "kind": KINDS.get(tag, tag), "bytes": len(payload), "payload": payload.hex()}
        print(json.dumps(entry, separators=(",", ":")))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

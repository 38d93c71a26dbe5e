"""Memory that all workers share: each writes to an area of its own, all read all, nobody waits."""

import json
import mmap
import struct
import zlib
from typing import Any, Iterator

CELL = 4096
NODES = 1024  # cells a worker has for nodes
_STATS = 1 << 16
_AREA = _STATS + NODES * CELL
_HEAD = struct.Struct("<II")  # length, CRC of the text


class Board:
    """Cells of JSON for `workers` workers, made before they are forked. What a dead worker wrote stays."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._map = mmap.mmap(-1, workers * _AREA)

    def write_stats(self, worker: int, value: Any) -> bool:
        """Replace what a worker says of itself; False if that is too long."""
        return self._write(worker * _AREA, _STATS, value)

    def read_stats(self, worker: int) -> Any:
        """What a worker said of itself last; None before that."""
        return self._read(worker * _AREA, _STATS)

    def write_node(self, worker: int, cell: int, value: Any) -> bool:
        """Replace one of a worker's cells for nodes, filled in turn; False if the value is too long."""
        return self._write(self._place(worker, cell), CELL, value)

    def read_nodes(self, worker: int) -> Iterator[Any]:
        """What is in a worker's cells for nodes, up to the first that was never filled."""
        for cell in range(NODES):
            place = self._place(worker, cell)
            if not _HEAD.unpack_from(self._map, place)[0]:
                return
            yield self._read(place, CELL)

    def _place(self, worker: int, cell: int) -> int:
        return worker * _AREA + _STATS + cell * CELL

    def _write(self, place: int, room: int, value: Any) -> bool:
        data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
        if len(data) > room - _HEAD.size:
            return False
        self._map[place + _HEAD.size:place + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._map, place, len(data), zlib.crc32(data))
        return True

    def _read(self, place: int, room: int) -> Any:
        for _ in range(3):  # a reader may come while its writer is at it
            size, crc = _HEAD.unpack_from(self._map, place)
            data = self._map[place + _HEAD.size:place + _HEAD.size + min(size, room - _HEAD.size)]
            if size and zlib.crc32(data) == crc:
                return json.loads(data.decode("utf-8", "replace"))
        return None

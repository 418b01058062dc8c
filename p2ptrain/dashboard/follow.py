"""Reading journals while they are written."""

from pathlib import Path

from p2ptrain.events import Record


class JournalTail:
    """What has been appended to one journal since it was last asked. The file need not exist yet.

    Only whole lines are read: what a writer has not finished, or a crash cut off and the restarted writer removed, is
    looked at again next time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self.num_unreadable = 0
        """Whole lines that are not records. Events of later versions are not counted: they are passed over."""

    def new_records(self) -> list[Record]:
        """The records since the last call, in their order."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                appended = file.read()
        except FileNotFoundError:
            return []
        whole_lines = appended[: appended.rfind(b"\n") + 1]
        self._offset += len(whole_lines)
        return self._parsed(whole_lines)

    def _parsed(self, lines: bytes) -> list[Record]:
        records = []
        for line in lines.splitlines():
            try:
                record = Record.from_json(line.decode())
            except (ValueError, KeyError, TypeError):
                self.num_unreadable += 1
                continue
            if record is not None:
                records.append(record)
        return records


class JournalFollower:
    """Several journals as one stream."""

    def __init__(self) -> None:
        self._tails: dict[str, JournalTail] = {}

    def add(self, name: str, path: Path) -> None:
        """Follow the journal at ``path`` from its beginning, as ``name``."""
        self._tails[name] = JournalTail(path)

    def new_records(self) -> list[tuple[str, Record]]:
        """What all journals have gained since the last call, each with its journal's name, in the order of wall time.

        Each journal's own order is kept even if its clock was set back meanwhile.
        """
        gained = []
        for name, tail in self._tails.items():
            latest_s = float("-inf")
            for record in tail.new_records():
                latest_s = max(latest_s, record.time_s)
                gained.append((latest_s, name, record))
        return [(name, record) for _, name, record in sorted(gained, key=lambda moment: moment[0])]

    @property
    def num_unreadable(self) -> int:
        """Whole lines in any of the journals that are not records."""
        return sum(tail.num_unreadable for tail in self._tails.values())

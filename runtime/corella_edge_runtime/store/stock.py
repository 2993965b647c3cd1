"""Which items can be had now: one small JSON file of the box, read at the start and replaced as a whole."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from corella_edge.atomic import write_file
from corella_edge.errors import FULL, InputError, StoreError, StoreFullError
from corella_edge.formats.strict_json import JsonError
from corella_edge.messages import Id, an_id, check, read
from corella_edge.selection import Stock

MAX_ITEMS = 1_000_000
_NO_ROOM = (*FULL, errno.EROFS, errno.EFBIG)
Items = Annotated[list[Id], Meta(max_length=MAX_ITEMS)]


class StockMessage(Struct, forbid_unknown_fields=True, kw_only=True):
    """Either the items that are available, all others are not; or those that are not, all others are."""

    available: Items | UnsetType = UNSET
    unavailable: Items | UnsetType = UNSET


class StockChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """Items whose availability changes; of all others it stays."""

    available: Items | UnsetType = UNSET
    unavailable: Items | UnsetType = UNSET


def stock_of(message: StockMessage) -> Stock:
    """Raises InputError unless exactly one of the lists is given."""
    if (message.available is UNSET) == (message.unavailable is UNSET):
        raise InputError("exactly one of the fields 'available' and 'unavailable' is needed")
    if message.available is not UNSET:
        return Stock(True, _ids(message.available, "available"))
    return Stock(False, _ids(message.unavailable, "unavailable"))


def parse_stock(value: object) -> Stock:
    """A whole list of decoded JSON. Raises InputError."""
    return stock_of(check(value, StockMessage, "body"))


def parse_change(value: object) -> tuple[frozenset[str], frozenset[str]]:
    """The ids that become available, and those that do not stay so. Raises InputError."""
    message = check(value, StockChange, "body")
    available, unavailable = _ids(message.available, "available"), _ids(message.unavailable, "unavailable")
    if both := available & unavailable:
        raise InputError(f"the item {sorted(both)[0][:40]!r} is in both lists")
    return available, unavailable


def _ids(found: list[str | int] | UnsetType, path: str) -> frozenset[str]:
    listed = [] if found is UNSET else found
    return frozenset([an_id(value, f"{path}[{i}]") for i, value in enumerate(listed)])


class StockFile:
    """The stock of a box, in one file: `{"unavailable": [ids]}` or `{"available": [ids]}`.

    Attributes:
        now: the stock; replaced, never changed, so that any thread may take it.
    """

    def __init__(self, path: Path, now: Stock) -> None:
        self.path, self.now = path, now
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> StockFile:
        """What the file says; without a file everything is available.

        Raises:
            InputError: the file is not of this form, or cannot be read, or its folder does not exist.
        """
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist")
        try:
            return cls(path, stock_of(read(path.read_bytes(), StockMessage, "the file")))
        except FileNotFoundError:
            return cls(path, Stock())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}; name another file") from None
        except (InputError, JsonError) as error:
            raise InputError(f"{path}: {error}") from None

    def replace(self, stock: Stock) -> Stock:
        """Raises StoreFullError or StoreError where it cannot be written: the former stock stays."""
        with self._lock:
            return self._keep(stock)

    def change(self, available: frozenset[str], unavailable: frozenset[str]) -> Stock:
        """As `replace`, of some items alone. Raises InputError beyond `MAX_ITEMS`."""
        with self._lock:
            stock = self.now.changed(available, unavailable)
            if len(stock.items) > MAX_ITEMS:
                raise InputError(f"more than {MAX_ITEMS} items would be listed; list the others with PUT")
            return self._keep(stock)

    def _keep(self, stock: Stock) -> Stock:
        name = "available" if stock.only else "unavailable"
        try:
            write_file(self.path, json.dumps({name: sorted(stock.items)}, ensure_ascii=False).encode())
        except UnicodeEncodeError:
            raise InputError("an id cannot be written in UTF-8") from None
        except InputError as error:
            full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM
            raise (StoreFullError if full else StoreError)(str(error)) from None
        self.now = stock
        return stock

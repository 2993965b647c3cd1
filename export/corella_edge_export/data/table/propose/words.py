"""What a column's name hints at. General words alone: what a table is about is told by its rows, not by a list here."""

from __future__ import annotations

import re

USER = {"user", "customer", "client", "member", "reviewer", "visitor", "buyer", "shopper", "account", "person",
        "subscriber", "uid", "household", "userid", "customerid", "rater"}  # fmt: skip
SESSION = {"session", "sessionid", "device", "cookie"}
ITEM = {"item", "product", "article", "sku", "stock", "iid", "pid", "itemid", "productid", "goods", "content"}
ID = {"id", "ids", "no", "nr", "code", "key", "number", "uid", "iid", "pid", "sku", "userid", "itemid", "uuid", "guid"}
RATING = {"rating", "ratings", "score", "stars", "star", "overall", "grade", "rate", "note"}
LABEL = {"label", "click", "clicked", "like", "liked", "target", "bought", "purchased", "positive", "converted", "y"}
COUNT = {"quantity", "qty", "count", "counts", "weight", "plays", "times", "units", "amount", "frequency", "n", "num",
         "playcount", "duration"}  # fmt: skip
TIME = {"time", "date", "timestamp", "ts", "when", "datetime", "at", "day", "created", "epoch", "unix"}
TITLE = ("title", "name", "label", "caption", "headline", "description")
ORDER = {"order", "invoice", "basket", "transaction", "receipt", "cart", "orderid", "bill"}
KIND = {"event", "type", "action", "behavior", "behaviour", "kind", "eventtype"}
HISTORY = {"history", "his", "hist", "sequence", "list", "past"}
# What is counted over all users up to the day the table was made: later events are in it.
SNAPSHOT = {"average", "avg", "mean", "votes", "vote", "helpful", "popularity", "popular", "rank", "ranking", "sales",
            "views", "likes", "trending", "bestseller", "reviews", "sold", "clicks", "downloads",
            "followers"}  # fmt: skip
RELATED = {"also", "similar", "related", "recommended", "together"}
WRITTEN = {"review", "reviews", "comment", "comments", "summary", "feedback", "text", "body", "opinion"}


def words(name: str) -> tuple[str, ...]:
    """The words in a column's name, lower case: `CustomerID` and `customer_id` have `customer` and `id`."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name.partition(":")[0])
    return tuple(re.findall(r"[^\W\d_]+", parts.replace("_", " ").lower()))


def has(name: str, known: set[str]) -> bool:
    """Whether one of the words of a name is known."""
    return not known.isdisjoint(words(name))


def is_id(name: str) -> bool:
    """Whether a name says that its values are ids."""
    return has(name, ID)

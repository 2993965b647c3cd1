"""The sizes of the recipe `generic`: models, batches, epochs and rows from how many rows there are."""

from __future__ import annotations

from corella_edge_export.generic import family
from corella_edge_export.generic.choice import Choice, Table, by_rows, power_of_two, share, step
from corella_edge_export.generic.facts import Facts
from corella_edge_export.generic.words import CONTEXT, item_attributes, line_tokens

SEVERAL = 4_000  # training rows from which stages 2 and 3 have rows enough to learn from
STAGE_ROWS = 25_000  # of stages 2 and 3 each, at most: the paper's "20-30k"
WHOLE_ITEMS = 20_000  # items that may each have a token of its own
ROWS_AN_ITEM = 5  # training rows an item on average from which such a token is learnt
FITTED_ROWS = 3_000_000  # training rows up to which the items' quality is fitted eleven times
VECTOR_ITEMS = 50_000  # items up to which each has a vector in the catalogue
NEW = 0.02  # of validation rows that are of items without a training row, from which words speak for them
LLM_ROWS = 1_000_000  # training rows that the LLM reads at most
ALL_LIKED = "every training row is a like, so to each question the answer is yes"
WEIGHED = 1_000  # validation rows from which the weights of a fusion rule are fitted


def crm(facts: Facts, kind: str = "") -> Table:
    """Section [crm]; `kind` is the family that a file names, and empty where the facts choose."""
    chosen = family.kind(facts)
    own = kind or str(chosen.value)
    return {"kind": kind or chosen, **family.crm(facts, own), "features": features(facts, own)}


def features(facts: Facts, kind: str) -> Table:
    """Section [crm.features]."""
    found = {**family.history(facts, kind), "centre": Choice(*_centre(facts))}
    if family.ranks(facts, kind):
        return found  # products of a user and an item have no place for what is derived of both
    fitted = facts.train <= FITTED_ROWS
    vectors = fitted and facts.catalogue <= VECTOR_ITEMS
    return {
        **found,
        "item_quality": Choice(fitted, f"{by_rows(facts.train)}; it is fitted eleven times"),
        "item_vectors": Choice(32 if vectors else 0, f"who likes what, of {facts.catalogue:,} items"),
        "item_text": Choice(
            texts(facts) if fitted else [], f"{share(facts.new_items)} of the validation rows: new items"
        ),
    }


def _centre(facts: Facts) -> tuple[str, str]:
    if facts.told_by == "being there":
        return "all", "events have no ratings"
    return "item", "a rating counts from the mean of its item"


def texts(facts: Facts) -> list[str]:
    """Attributes whose words speak for items with few rows: the title, and longer texts; none where items are known."""
    if facts.new_items < NEW or facts.catalogue > VECTOR_ITEMS:
        return []
    return ["title", *(one.name for one in facts.item_attributes if one.kind == "text" and one.name.isprintable())]


def llm(facts: Facts) -> Table:
    """Section [llm]."""
    rows, whole = min(facts.train, LLM_ROWS), whole_items(facts)
    return {
        "source": "scratch",
        "vocab_size": Choice(
            step(facts.catalogue, (500, 512), (5_000, 1024), above=4096), f"{facts.catalogue:,} titles"
        ),
        "whole_items": Choice(whole, f"{facts.items:,} items in {facts.train:,} training rows"),
        "spell_rate": 0.1,
        "hidden": Choice(step(rows, (30_000, 64), (300_000, 96), above=192), by_rows(facts.train)),
        "layers": Choice(step(rows, (300_000, 2), above=3), by_rows(facts.train)),
        "heads": 4,
        "kv_heads": 4,
        "intermediate": Choice(step(rows, (30_000, 192), (300_000, 256), above=384), by_rows(facts.train)),
        "context": CONTEXT,
        "rows": Choice(0 if facts.train <= LLM_ROWS else LLM_ROWS, "0 = all training rows"),
        "epochs": _llm_epochs(facts),
        "batch_tokens": Choice(batch_tokens(facts, whole), by_rows(facts.train)),
        "learning_rate": 2e-3,
        "weight_decay": Choice(step(rows, (30_000, 0.1), above=0.03), by_rows(facts.train)),
        "text_weight": 0.3,
        "valid_rows": min(4_000, facts.valid),
        "evaluations": 1,
        "patience": 3,
    }  # fmt: skip


def _llm_epochs(facts: Facts) -> Choice:
    if facts.likes_alone:
        return Choice(0, ALL_LIKED)
    rows = min(facts.train, LLM_ROWS)
    return Choice(step(rows, (5_000, 10), (30_000, 6), (300_000, 3), above=1), "at most; the best is kept")


def whole_items(facts: Facts) -> bool:
    """Whether items have tokens of their own: not too many of them, and rows enough to learn each."""
    return facts.items <= WHOLE_ITEMS and facts.train >= ROWS_AN_ITEM * facts.items


def batch_tokens(facts: Facts, whole: bool) -> int:
    """Tokens a step: about 100 steps an epoch, a power of 2 from 512 to 4096."""
    tokens = facts.train * line_tokens(facts, item_attributes(facts), whole)
    return power_of_two(tokens / 100, 512, 4096)


def later_stage(facts: Facts) -> Table:
    """What [joint] and [continuation] share: rows that are not the other's, none where there are few."""
    rows = facts.train
    if facts.likes_alone or rows < SEVERAL:
        return {
            "epochs": Choice(0, ALL_LIKED if facts.likes_alone else f"{rows:,} training rows are too few to part"),
            "rows": Choice(rows // 4, "not used"),
        }
    return {
        "epochs": 1,
        "rows": Choice(min(STAGE_ROWS, rows // 4), f"a quarter of the {rows:,} training rows at most"),
        "batch_tokens": 2048,
        "evaluations": 1,
    }  # fmt: skip


def export(facts: Facts) -> Table:
    """Section [export]. Where rows suffice, they weigh both models; where not, the LLM has a half say, and rarely."""
    weighed = facts.valid >= WEIGHED
    why = f"{facts.valid:,} validation rows {'weigh' if weighed else 'are too few to weigh'} both models"
    return {
        "calibration_rows": Choice(min(10_000, facts.valid), f"{facts.valid:,} validation rows"),
        "sample_rows": Choice(min(1_000, facts.test), f"{facts.test:,} test rows"),
        "reference_rows": min(64, facts.test),
        "threshold": Choice("ratio:0.3" if weighed else "ratio:0.05", why),
        "fusion": Choice("best" if weighed else "blend", why),
    }

"""What is looked at before a training begins: what of a recipe the data, the checkpoint or llama.cpp would refuse."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corella_edge.catalog import CODE
from corella_edge.errors import ExportError, InputError
from corella_edge.prompt import PromptEncoder
from corella_edge_export.crm.fitted.schema import MEAN_RATING, check_features, rated
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.rowset import RowSet, choose_rows, history_needed
from corella_edge_export.llm import model as llm
from corella_edge_export.llm.to_gguf import check_tokens, write_vocabulary
from corella_edge_export.recipe import Recipe
from corella_edge_export.text import vectors as text_vectors
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks import text as plain_text
from corella_edge_runtime.llm.llama.binding import Model

CHECKED_ROWS = 200


def check(recipe: Recipe, data: PreparedData) -> str:
    """What can be found wrong before a folder is begun. Raises InputError.

    Returns:
        what a checkpoint's weights are, in one line; empty for a model from scratch.
    """
    plain_text.check(recipe.llm.text.files, f"recipe {recipe.name}, llm.text.files")
    checkpoint = recipe.llm.source == "checkpoint"
    if checkpoint:
        llm.checkpoint_config(Path(recipe.llm.path))  # at once; to look at the weights takes longer than all the rest
    check_labels(recipe, data)
    if recipe.trains_llm:
        check_attributes(recipe, data)
        check_rule(recipe, data)
    else:
        check_features(data, recipe.crm.features, f"recipe {recipe.name}")
        text_vectors.check(recipe, data)
    check_rows(recipe, data)
    loaded = llm.check_checkpoint(recipe.llm) if checkpoint else ""
    check_pairs(recipe)
    return loaded


def check_attributes(recipe: Recipe, data: PreparedData) -> None:
    """Raises InputError if the recipe names an attribute that the data have not: a prompt would be without it."""
    check_features(data, recipe.crm.features, f"recipe {recipe.name}")
    text_vectors.check(recipe, data)
    items, users = ["title", *data.item_attributes], list(data.user_attributes)
    if MEAN_RATING in recipe.prompt.item_fields and rated(data):
        items.append(MEAN_RATING)
    if recipe.llm.codes.bits:
        if CODE in data.item_attributes:
            raise InputError(f"{data.root}: an item attribute is named {CODE!r}, as what llm.codes adds; rename it")
        items.append(CODE)
    for name in recipe.prompt.item_fields:
        if name not in items:
            raise InputError(
                f"recipe {recipe.name}, prompt.item: {data.root} has no attribute {name!r} of an item, only "
                f"{', '.join(items)}; set `item` under [prompt] without it"
            )
    for name in recipe.prompt.profile:
        if name not in users:
            raise InputError(f"recipe {recipe.name}, prompt.profile: {_no_user_attribute(data, name, users)}")


def _no_user_attribute(data: PreparedData, name: str, known: Sequence[str]) -> str:
    """What is wrong, and how to leave out what a base recipe asks for."""
    if not known:
        return f"{data.root}: the data have no user attributes, so no {name!r}; set `profile = {{}}` under [prompt]"
    return (
        f"{data.root} has no attribute {name!r} of a user, only {', '.join(known)}; "
        f'set `profile = {{}}` under [prompt], or `{name} = ""` under [prompt.profile] to leave out this one'
    )


def check_labels(recipe: Recipe, data: PreparedData) -> None:
    """Raises InputError if a CRM is to learn labels of which there is one kind."""
    if recipe.crm.trains and not recipe.crm.family.ranks and (data.split("train").labels > 0).all():
        raise InputError(
            f"recipe {recipe.name}: every training row of {data.root} has label 1, from which {recipe.crm.model} "
            "learns nothing: prepare again with --negatives 4 (or [negatives] in data.toml), or train a recipe that "
            'learns the next item (kind = "sequence" with loss = "softmax")'
        )


def check_rule(recipe: Recipe, data: PreparedData) -> None:
    """Raises InputError if the prompt's history would answer events otherwise than their labels do."""
    log, known = data.log, ~np.isnan(data.log.ratings)
    ratings, liked = log.ratings[known], log.labels[known] == 1
    wrong = (ratings > recipe.prompt.like_above) != liked
    if wrong.any() and ((ratings > data.like_above) == liked).all():
        raise InputError(
            f"recipe {recipe.name}, prompt.like_above: {recipe.prompt.like_above:g} answers {wrong.mean():.0%} of the "
            f"events otherwise than their labels, which go by a rating above {data.like_above:g}; set `like_above = "
            f"{data.like_above:g}` under [prompt]"
        )


def check_pairs(recipe: Recipe) -> None:
    """Raises InputError if the joint stage is to align a block that the LLM has not."""
    highest = max((block for block, _ in recipe.joint.pairs), default=0)
    if not recipe.joint.epochs or not highest:
        return
    scratch = recipe.llm.source == "scratch"
    count = recipe.llm.layers if scratch else llm.checkpoint_config(Path(recipe.llm.path)).num_hidden_layers
    if highest > count:
        raise InputError(f"recipe {recipe.name}, joint, pairs: there is no block {highest}, the LLM has {count}")


def check_rows(recipe: Recipe, data: PreparedData) -> None:
    """Raises InputError if the joint stage leaves fewer rows than the continuation wants."""
    count = len(data.split("train").users)
    if recipe.continuation.epochs and recipe.joint.rows + max(1, recipe.continuation.rows) > count:
        raise InputError(
            f"recipe {recipe.name}: joint.rows and continuation.rows are together more than the {count} training rows; "
            "the continuation leaves out joint.rows rows even where the joint stage is off: lower them"
        )


def check_prompts(run: Run) -> None:
    """What would make the export refuse the LLM is found before the training, not after.

    Raises:
        ExportError: answers that are not single tokens, or a tokenizer or model that GGUF cannot hold.
    """
    schema, catalog = run.fit_prompts()
    prompts = run.prompt_encoder(catalog)
    rows = choose_rows(run.data, "valid", CHECKED_ROWS, run.recipe.seed, history_needed(schema, run.recipe.prompt))
    _check_lengths(run, prompts, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write_vocabulary(run.llm_config(), run.tokenizer(), path, run.spm())
        model = Model(path, vocabulary_only=True)
        check_tokens(model, prompts, [request.user for request in rows.requests()])
        model.close()


def _check_lengths(run: Run, prompts: PromptEncoder, rows: RowSet) -> None:
    limit = min(run.llm_config().max_position_embeddings, run.recipe.llm.context)  # a checkpoint may read more
    questions = [prompts.item(row) for row in range(len(prompts.catalog))]
    longest = max((len(question) for question in questions if question is not None), default=0)
    for request in rows.requests():
        length = len(prompts.prefix(request.user)) + longest
        if length > limit:
            raise ExportError(
                f"a prompt may have {length} tokens, the LLM reads {limit}: lower prompt.history_lines or block, "
                "or raise llm.context"
            )

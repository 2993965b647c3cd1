"""A two-layer Llama with random weights, as transformers holds it and as GGUF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corella_edge.catalog import Catalog
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge.request import Event, User
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import TOLERANCE, LlmSettings
from corella_edge_runtime.llm.llama.binding import Context, Model, quantize
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from corella_edge_runtime.llm.llama.tree import Branches, unfold

BATCH = LlmSettings().batch
CONTEXT = 900  # more than one decode


@dataclass(frozen=True)
class Llama:
    """`torch` is a LlamaForCausalLM; `tokenize` the trainer's tokenizer; `encoder` prompts over a small catalogue."""

    torch: Any
    path: Path
    tokenizer: Any
    encoder: PromptEncoder

    @property
    def tokens(self) -> Tokens:
        return self.encoder.tokens


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    torch = pytest.importorskip("torch")
    # Threads of torch and of llama.cpp wait for each other where cores are scarce.
    torch.set_num_threads(1)
    from corella_edge_export.llm import model as llm
    from corella_edge_export.llm import tokenizer
    from corella_edge_export.llm.recipe import LlmRecipe
    from corella_edge_export.llm.to_gguf import write_gguf

    words = ["red", "blue", "old", "new", "night", "sun", "café", "river", "1999", "war"]
    catalog = Catalog([f"i{n}" for n in range(40)], [{"title": f"{words[n % 10]} {words[n // 10]}"} for n in range(40)])
    template = Template(history_lines=10, block=5)
    trained = tokenizer.train_tokenizer(template, catalog, [User("u")], 400)
    torch.manual_seed(0)
    recipe = LlmRecipe(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=96, context=CONTEXT)
    model = llm.scratch_model(recipe, len(trained), trained.bos_token_id, trained.eos_token_id, trained.pad_token_id)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    path = tmp_path_factory.mktemp("gguf") / "llm.gguf"
    write_gguf(model, trained, path, "tiny")
    split = tokenizer.segment_tokenizer(trained)
    tokens = tokenizer.resolve_answers(split, template, trained.bos_token_id)
    return Llama(model.eval(), path, trained, PromptEncoder(template, catalog, split, tokens))


@pytest.fixture(scope="session")
def model(llama: Llama, request: pytest.FixtureRequest) -> Iterator[Model]:
    """As f16, or as the type that a test asks for (`indirect`)."""
    kind = getattr(request, "param", "F16")
    path = llama.path.with_name(f"llm.{kind}.gguf")
    if not path.exists():
        quantize(llama.path, path, kind)
    opened = Model(path)
    yield opened
    opened.close()


class Reference:
    """P(Yes) by the plainest use of llama.cpp: clear, decode one prompt in pieces, read two logits.

    `tolerance`: how far the usual mode may be from it, as published for the model's type.
    """

    def __init__(self, model: Model, tokens: Tokens) -> None:
        self.context, self.tokens = Context(model, CONTEXT, 1, BATCH, 1), tokens
        self.tolerance = TOLERANCE[model.file_type]

    def probability(self, prompt: Prompt) -> float:
        import math

        ids = [*prompt.prefix, *prompt.suffix]
        self.context.clear()
        for start in range(0, len(ids), BATCH):
            leaves, rows = unfold(Branches.one(tuple(ids[: start + BATCH]), start))
            self.context.decode(rows)
        yes, no = self.context.logits(leaves.last, (self.tokens.yes, self.tokens.no))[0]
        return 1.0 / (1.0 + math.exp(no - yes))


@pytest.fixture(scope="session")
def reference(llama: Llama, model: Model) -> Iterator[Reference]:
    made = Reference(model, llama.tokens)
    yield made
    made.context.close()


@pytest.fixture
def make_scorer(llama: Llama, model: Model) -> Iterator[Any]:
    made: list[YesNoScorer] = []

    def make(cells: int = 0, exact: bool = False, **settings: Any) -> YesNoScorer:
        made.append(YesNoScorer(model, llama.tokens, LlmSettings(**settings), cells, exact))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


@pytest.fixture(scope="session")
def prompts(llama: Llama) -> Any:
    """prompts(user, items) → the real prompts of a user's candidates; a user is a number."""

    def make(user: int, items: Sequence[int]) -> list[Prompt]:
        history = tuple(Event(f"i{(user * 7 + n * 3) % 40}", float(1 + (user + n) % 5)) for n in range(user % 15))
        prefix = tuple(llama.encoder.prefix(User(str(user), {}, history)))
        return [Prompt(prefix, tuple(llama.encoder.item(item) or ())) for item in items]

    return make

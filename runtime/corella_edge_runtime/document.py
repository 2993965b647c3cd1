"""Our reports as HTML, which needs neither network nor script and is made for paper, too, and as Markdown: one text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --link: #0b4f8a;
  --ink: #1f2933; --soft: #616e7c; --line: #d9dee4; --page: #f6f7f9; --card: #fff }
@media (prefers-color-scheme: dark) {
  :root { --link: #7cc0f4;
    --ink: #e4e7eb; --soft: #9aa5b1; --line: #36404b; --page: #14181d; --card: #1c2229 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 84rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem }
p { margin: .25rem 0 1rem; color: var(--soft) }
a { color: var(--link) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 0 }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .8rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line) }
thead th { border-top: 0; color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom }
th:first-child { text-align: left; font-weight: 600; position: sticky; left: 0; background: var(--card) }
.facts td, .facts thead th { text-align: left; white-space: normal; overflow-wrap: anywhere }
.facts th { white-space: normal; width: 16rem; font-weight: 400 }
tr.model th { padding-left: 2rem; font-weight: 400 }
.settings td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere;
  font-family: ui-monospace, Menlo, Consolas, monospace }
.settings th { width: 16rem; font-weight: 400 }
.settings th[scope=rowgroup] { font-weight: 600 }
.settings tbody tr:not(:first-child) th { padding-left: 2rem }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1.25rem }
figure { margin: 0; max-width: 44rem; break-inside: avoid }
figure svg { display: block; width: 100%; height: auto; padding: .75rem; background: #fff;
  border: 1px solid var(--line); border-radius: 10px }
figure svg * { stroke-linejoin: round; stroke-linecap: butt }
figure svg text { font-family: system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif !important }
.interval { display: block; font-size: .8em; color: var(--soft) }
.weak { color: var(--soft); font-style: italic; opacity: .75 }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .4rem }
.wide + .plots, .wide + p { margin-top: 1rem }
.state { padding: .7rem 1rem; border: 1px solid var(--line); border-left: .5rem solid #009e73; border-radius: 6px;
  background: var(--card); color: var(--ink) }
.state.noisy { border-left-color: #e69f00 }
.state.void { border-left-color: #d55e00; border-width: 2px 2px 2px .5rem }
.tiles { grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: 1rem; margin: 1.25rem 0 }
.tiles div { padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px }
.tiles dd { font-size: 1.6rem; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums }
.tiles dd + dd { font-size: .8rem; font-weight: 400; color: var(--soft) }
@media (max-width: 32rem) {
  body { padding: 1rem .5rem 3rem }
  th, td { padding: .35rem .5rem }
  figure svg { padding: .2rem }
  .facts th { width: 8rem }
}
@page { size: A4 landscape; margin: 12mm }
@media print {
  :root { color-scheme: light; --ink: #1f2933; --soft: #3e4c59; --line: #9aa5b1; --page: #fff; --card: #fff }
  body { max-width: none; padding: 0; font-size: 10pt }
  .wide { overflow: visible; border: 0 }
  table { font-size: 8pt }
  th, td { padding: .2rem .35rem; white-space: normal }
  h2, h3 { break-after: avoid }
  h2 { margin-top: 1.2rem }
  tr, .state, .tiles div { break-inside: avoid }
  .plots { grid-template-columns: repeat(2, 1fr) }
  figure svg { padding: 0; border-color: #9aa5b1 }
}
figcaption { margin: .4rem .25rem 0; color: var(--soft); font-size: .875rem }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole file around the parts of its body. `title` is escaped here, the parts are HTML."""
    head = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>",
    ]
    return "\n".join([*head, *parts, "</main>\n</body>\n</html>\n"])


def table_row(name: str, cells: Iterable[str], kind: str = "") -> str:
    """A row of HTML cells behind its name."""
    mark = f' class="{kind}"' if kind else ""
    return f'<tr{mark}><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def table_head(names: Iterable[str]) -> str:
    """The names of the columns, HTML."""
    cells = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<thead><tr>{cells}</tr></thead>"


class Weak(str):
    """A figure that is not to be relied on: grey in HTML, and in parentheses everywhere."""

    __slots__ = ()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts, which are escaped; an interval in brackets at a text's end stands below its figure.

    Two columns are a list of facts, whose texts may be long.
    """
    body = "".join(table_row(escape(first), map(cell, rest)) for first, *rest in rows)
    kind = ' class="facts"' if len(header) == 2 else ""
    return f'<div class="wide"><table{kind}>\n{table_head(map(escape, header))}\n<tbody>{body}</tbody></table></div>'


def cell(words: str) -> str:
    """A text as the HTML of a cell."""
    value, bracket, rest = words.partition(" [")
    shown = escape(value)
    if bracket and rest.endswith("]"):
        shown += f'<span class="interval">[{escape(rest)}</span>'
    elif bracket:
        shown = escape(words)
    return f'<span class="weak">({shown})</span>' if isinstance(words, Weak) else shown


@dataclass(frozen=True)
class Section:
    """A heading of a level (2 or 3), sentences, a table and plots (SVG text, caption)."""

    title: str
    said: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: Sequence[tuple[str, str]] = ()
    level: int = 2


def as_html(section: Section) -> Iterator[str]:
    """Its parts of a page."""
    yield f"<section>\n<h{section.level}>{escape(section.title)}</h{section.level}>"
    yield from (f"<p>{escape(sentence)}</p>" for sentence in section.said)
    if section.rows:
        yield table(section.header, section.rows)
    if section.figures:
        yield '<div class="plots">'
        yield from (f"<figure>\n{svg}<figcaption>{escape(caption)}</figcaption>\n</figure>"
                    for svg, caption in section.figures)  # fmt: skip
        yield "</div>"
    yield "</section>"


def as_markdown(section: Section) -> Iterator[str]:
    """Its lines, without the plots."""
    yield from ["#" * section.level + f" {section.title}", ""]
    yield from (line for sentence in section.said for line in (f"- {sentence}", ""))
    if section.rows:
        yield _line(section.header)
        side = "---" if len(section.header) == 2 else "---:"
        yield _line(["---", *[side] * (len(section.header) - 1)])
        yield from (
            _line([f"({words})" if isinstance(words, Weak) else words for words in row]) for row in section.rows
        )
        yield ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

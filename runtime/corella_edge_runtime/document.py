"""An HTML file that needs neither network nor script: the frame and the style of our reports, also on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
thead th { border-top: 0; color: var(--soft); font-weight: 600 }
th:first-child { text-align: left; font-weight: 600 }
tr.model th { padding-left: 2rem; font-weight: 400 }
.settings td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere;
  font-family: ui-monospace, Menlo, Consolas, monospace }
.settings th { width: 16rem; font-weight: 400 }
.settings th[scope=rowgroup] { font-weight: 600 }
.settings tbody tr:not(:first-child) th { padding-left: 2rem }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1.25rem }
figure { margin: 0; break-inside: avoid }
figure svg { display: block; width: 100%; height: auto; padding: .75rem; background: #fff;
  border: 1px solid var(--line); border-radius: 10px }
figure svg * { stroke-linejoin: round; stroke-linecap: butt }
figure svg text { font-family: system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif !important }
@media print {
  :root { color-scheme: light; --ink: #1f2933; --soft: #3e4c59; --line: #9aa5b1; --page: #fff; --card: #fff }
  body { max-width: none; padding: 0; font-size: 10pt }
  .wide { overflow: visible; border: 0 }
  table { font-size: 8pt }
  th, td { padding: .2rem .35rem; white-space: normal }
  h2 { break-after: avoid }
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


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts, which are escaped."""
    body = "".join(table_row(escape(first), map(escape, rest)) for first, *rest in rows)
    return f'<div class="wide"><table>\n{table_head(map(escape, header))}\n<tbody>{body}</tbody></table></div>'

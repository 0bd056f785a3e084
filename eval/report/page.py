"""The report's page: its style sheet and frame. Nothing from elsewhere, and no script but ours: a policy forbids both."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5c6878; --faint: #8b95a3; --paper: #ffffff; --wash: #f5f7fa;
  --rule: #dfe4ea; --good: #0a7a4b; --bad: #b3261e; --warn-bg: #fff6dd; --warn-ink: #6b4e00;
  --s0: #1f6feb; --s1: #d1570a; --s2: #7a3fc4; --s3: #0a8f7a; --s4: #b83280; --s5: #8a6d00; --s6: #64748b; --s7: #94a3b8;
  --label: #12934f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #a3afbf; --faint: #77839a; --paper: #12161d; --wash: #1a2029; --rule: #2d3644;
  --good: #4cc38a; --bad: #ff8a80; --warn-bg: #332a10; --warn-ink: #f0d48a;
  --s0: #6ea8ff; --s1: #ff9d5c; --s2: #b794f6; --s3: #4fd1b8; --s4: #f28cc0; --s5: #dcc25a; --s6: #94a3b8; --s7: #64748b;
  --label: #53d08c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
nav { position: sticky; top: 0; z-index: 10; display: flex; gap: 2px 18px; overflow-x: auto; padding: 9px 28px; font-size: 13.5px;
  background: color-mix(in srgb, var(--paper) 92%, transparent); backdrop-filter: blur(6px); border-bottom: 1px solid var(--rule);
  justify-content: safe center; white-space: nowrap; }
nav a { color: var(--soft); text-decoration: none; } nav a:hover { color: var(--ink); text-decoration: underline; }
section { scroll-margin-top: 44px; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 28px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.015em; }
h2 { font-size: 20px; margin: 52px 0 8px; letter-spacing: -0.01em; }
h3 { font-size: 16px; margin: 0; } section > h3 { margin: 30px 0 2px; }
.narrow table { width: auto; min-width: min(100%, 560px); }
tr.words td { text-align: left; white-space: normal; }
h4 { font-size: 12px; margin: 0 0 6px; color: var(--soft); text-transform: uppercase; letter-spacing: 0.06em; }
p { margin: 6px 0 12px; max-width: 100ch; }
.lead { color: var(--soft); font-size: 16px; }
.note { color: var(--soft); font-size: 13.5px; max-width: 115ch; }
.verdict { font-size: 17px; margin: 22px 0 18px; max-width: 80ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 18px 0; }
.tile { background: var(--wash); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 27px; line-height: 1.2; font-variant-numeric: tabular-nums; letter-spacing: -0.02em; }
.tile span { color: var(--soft); font-size: 13px; }
.warn { background: var(--warn-bg); color: var(--warn-ink); border-radius: 8px; padding: 10px 14px; margin: 10px 0;
  font-size: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; margin: 10px 0 4px; width: 100%; }
th, td { text-align: right; padding: 7px 8px; border-bottom: 1px solid var(--rule); white-space: nowrap;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: 12.5px; line-height: 1.35; vertical-align: bottom;
  white-space: normal; min-width: 58px; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 170px; overflow-wrap: break-word; }
td.words { text-align: left; white-space: normal; min-width: 20ch; max-width: 34ch; }
td small { display: block; color: var(--faint); font-size: 11.5px; line-height: 1.35; }
td:first-child small { max-width: 34ch; }
tr.main td { background: var(--wash); }
tr.rest td:first-child { color: var(--soft); }
tr.split td { border-bottom: 2px solid var(--rule); padding: 14px 10px 4px; color: var(--faint); font-size: 12px;
  text-transform: uppercase; letter-spacing: 0.06em; }
td .best { font-weight: 700; color: var(--good); }
.good { color: var(--good); } .bad { color: var(--bad); }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 28px; }
@media (max-width: 820px) { .charts { grid-template-columns: 1fr !important; } }
figure { margin: 12px 0; min-width: 0; } figcaption { font-weight: 600; font-size: 14px; margin-bottom: 4px; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft); }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; } svg .axis { font-size: 12px; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .level { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 2 4; }
svg .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
svg .dash { stroke-dasharray: 6 4; stroke-width: 1.8; }
svg .band { opacity: 0.16; stroke: none; }
svg .ego { fill: var(--ink); }
svg .label { stroke: var(--label); } svg .dot.label { fill: var(--label); stroke: none; }
svg .dot { stroke: none; }
.legend { list-style: none; padding: 0; margin: 6px 0; display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px;
  color: var(--soft); }
.key { display: inline-block; width: 16px; height: 3px; border-radius: 2px; margin-right: 7px; vertical-align: middle; }
.key.label { background: var(--label); } .legend b { font-weight: 600; color: var(--ink); font-variant-numeric: tabular-nums; }
.key.dash { mask: repeating-linear-gradient(90deg, #000 0 4px, transparent 4px 6px); } .key.past { background: var(--faint); }
.case { border: 1px solid var(--rule); border-radius: 12px; padding: 20px 22px; margin: 18px 0; }
.case header { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: baseline; margin-bottom: 14px; }
.chip { background: var(--wash); border: 1px solid var(--rule); border-radius: 99px; padding: 1px 10px; font-size: 12.5px;
  color: var(--soft); overflow-wrap: anywhere; }
pre { background: var(--wash); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px; margin: 0;
  font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 30rem; overflow-y: auto; }
code { font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; background: var(--wash); padding: 1px 5px;
  border-radius: 4px; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; font-size: 14px; margin: 8px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 56px; color: var(--faint); font-size: 13px; border-top: 1px solid var(--rule); padding-top: 14px; }
.planners h4 { text-transform: none; font-size: 13px; letter-spacing: 0; color: var(--ink); }
.planners { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 18px 24px; }
.checks { list-style: none; padding: 0; margin: 8px 0 0; font-size: 12.5px; line-height: 1.5; }
.checks em { float: right; font-style: normal; color: var(--soft); font-variant-numeric: tabular-nums; margin-left: 10px; }
.checks li { overflow: hidden; } .ok > b, b.ok { color: var(--good); } .no > b, b.no { color: var(--bad); }
.checks .no, .checks .no em { color: var(--bad); } .checks .na, .checks .na em, b.na { color: var(--faint); }
.glance { columns: 3 280px; column-gap: 28px; list-style: none; padding: 0; font-size: 13px; }
.glance li { display: flex; justify-content: space-between; border-bottom: 1px solid var(--rule); padding: 1px 0; }
.glance a { color: inherit; text-decoration: none; } .glance b { display: inline-block; width: 1.4em; text-align: center; }
svg.above { background: var(--wash); border-radius: 6px; }
svg.above polyline, svg.above path { fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg.above .road { fill: var(--rule); } svg.above .crosswalk { fill: var(--paper); opacity: 0.6; }
svg.above .m-white { stroke: var(--paper); stroke-width: 0.9; } svg.above .m-yellow { stroke: #d9a21b; stroke-width: 1; }
svg.above .m-dashed { stroke-dasharray: 5 5; } svg.above .stop { stroke: var(--ink); stroke-width: 2; }
svg.above .trail { stroke: var(--faint); stroke-width: 0.9; stroke-dasharray: 2 3; }
svg.above .way { stroke-width: 2.6; } svg.above .tick { fill: var(--ink); opacity: 0.55; }
svg.above .other { fill: var(--faint); stroke: var(--soft); stroke-width: 0.6; }
svg.above .pedestrian, svg.above .bicycle { fill: #d4527a; stroke: none; }
svg.above .traffic_cone, svg.above .barrier { fill: #e8711c; stroke: none; }
svg.above .car { fill: var(--s0); fill-opacity: 0.85; stroke: var(--ink); stroke-width: 0.6; }
svg.above .start { fill: none; stroke: var(--s0); } svg.above .hit { stroke: var(--bad); stroke-width: 2.6; }
svg.above .scale { stroke: var(--soft); stroke-width: 1.4; } svg.above text { font-size: 9px; }
@media print { nav { display: none; } .case { break-inside: avoid; } pre { max-height: none; } }
""" + "".join(
    f"svg .s{k} {{ stroke: var(--s{k}); fill: none; }} svg .band.s{k}, svg .dot.s{k} {{ fill: var(--s{k}); stroke: none; }} "
    f".key.s{k} {{ background: var(--s{k}); }}\n"
    for k in range(8)
)


def page(title: str, body: str, *, contents: Sequence[tuple[str, str]] = (), style: str = "", script: str = "") -> str:
    """A complete HTML file around a body. contents: (id of an element, words) of its parts. script: ours, the only one that the
    page's policy lets run, whatever else got into the file."""
    allowed = (
        f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else ""
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'{allowed}"
    )
    links = "".join(f'<a href="#{clean(where)}">{clean(words)}</a>' for where, words in contents)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{clean(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        + (f'<nav aria-label="Contents">{links}</nav>\n' if links else "")
        + f"<main>\n{body}\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def clean(text: object) -> str:
    """Anything as text that a page can hold: escaped, without what UTF-8 or a browser cannot show."""
    shown = str(text).encode("utf-8", "replace").decode("utf-8")
    return escape("".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in shown), quote=True)

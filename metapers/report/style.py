"""The look of the page: one sheet, light and dark by the reader's choice, quiet in print."""

from metapers.report.palette import variables

_RULES = """
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1108px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 15px; font-weight: 600; margin: 0 0 14px; color: var(--soft); letter-spacing: .01em; }
.lead { font-size: 25px; line-height: 1.38; font-weight: 600; letter-spacing: -.012em; margin: 0 0 16px;
  max-width: 38em;
  text-wrap: pretty; }
.more { margin: 0 0 4px; padding: 0; list-style: none; color: var(--soft); max-width: 62em; }
.more li { margin: 3px 0; }
nav { margin: 26px 0 0; padding: 10px 0; border-block: 1px solid var(--grid); font-size: 14px; display: flex;
  flex-wrap: wrap; gap: 4px 20px; }
a { color: var(--continual); text-decoration: none; } a:hover { text-decoration: underline; }
section { margin-top: 46px; scroll-margin-top: 12px; }
h2 { font-size: 20px; line-height: 1.3; font-weight: 650; letter-spacing: -.01em; margin: 0 0 6px; }
h3 { font-size: 15px; font-weight: 650; margin: 26px 0 4px; }
p { margin: 6px 0 12px; max-width: 72ch; }
.note, figcaption { color: var(--soft); font-size: 14px; line-height: 1.5; }
.note, figcaption { max-width: 96ch; } figcaption { margin-top: 6px; }
figure { margin: 18px 0 0; } figure + figure { margin-top: 34px; }
.plate { overflow-x: auto; } .plate svg { display: block; width: 100%; min-width: 720px; height: auto; }
.plate.narrow { max-width: 800px; } .plate.narrow svg { min-width: 560px; }
.plate svg text { font-family: inherit !important; }
.wide { overflow-x: auto; margin-top: 12px; }
table { border-collapse: collapse; font-size: 14px; line-height: 1.35; font-variant-numeric: tabular-nums;
  min-width: 60%; }
th, td { padding: 6px 18px 6px 0; text-align: right; white-space: nowrap; vertical-align: baseline; }
th:last-child, td:last-child { padding-right: 4px; }
th:first-child, td:first-child, .text { text-align: left; }
thead th { font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--faint); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--grid); }
tbody th { font-weight: 500; }
tr.ours > * { font-weight: 650; background: color-mix(in srgb, var(--continual) 9%, transparent); }
tr.ours > :first-child { box-shadow: inset 3px 0 var(--continual); padding-left: 10px; }
table.headline th:first-child { padding-left: 10px; } table.full { width: 100%; }
.pair { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 3fr); gap: 8px 40px; align-items: start; }
.pair .plate svg { min-width: 0; }
.under { display: block; font-weight: 400; color: var(--soft); font-size: 12.5px; }
.soft { color: var(--soft); }
.forest { position: relative; top: 4px; display: block; width: 160px; height: 18px; overflow: visible; }
.chip { display: inline-block; min-width: 5.4em; padding: 1px 8px; border-radius: 9px; font-size: 12.5px;
  text-align: center;
  color: var(--soft); background: color-mix(in srgb, var(--soft) 13%, transparent); }
.chip.good { color: var(--gain); background: color-mix(in srgb, var(--gain) 14%, transparent); }
.chip.bad { color: var(--hurt); background: color-mix(in srgb, var(--hurt) 14%, transparent); }
code, pre, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 12.5px; }
pre { margin: 8px 0 0; padding: 14px 16px; border: 1px solid var(--grid); border-radius: 6px; overflow-x: auto;
  line-height: 1.5; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 5px 22px; margin: 12px 0 0;
  font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
footer { margin-top: 56px; padding-top: 12px; border-top: 1px solid var(--grid); color: var(--soft); font-size: 13px; }
@media (max-width: 640px) { .pair { grid-template-columns: minmax(0, 1fr); } main { padding: 24px 16px 40px; } .lead {
  font-size: 20px; } }
"""

_PRINT = """
html { color-scheme: light; } body { font-size: 10.5pt; } main { max-width: none; padding: 0; } nav { display: none; }
.lead { font-size: 15pt; } section { margin-top: 26px; } table { font-size: 8.5pt; } th, td { padding-right: 9px; }
figure, tr, dl > * { break-inside: avoid; } h2, h3 { break-after: avoid; } .wide, .plate { overflow: visible; }
.plate svg { min-width: 0; } .forest { width: 110px; }
"""

SHEET = (
    f":root {{ {variables(dark=False)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(dark=True)} }} }}\n"
    f"{_RULES}@media print {{ :root {{ {variables(dark=False)} }}{_PRINT}}}\n"
)

"""The audit as one self-contained page: claims apart from measurements, plots, public pictures."""

import base64
import html
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from veilcam.camera.audit import AuditResult
from veilcam.camera.audit_protect import PEERS, protect_like
from veilcam.camera.audit_shots import COPY, OURS
from veilcam.camera.audit_svg import Line, frontier_plot, roc_plot

_TILE_PX = 112
_VERDICTS = {
    "pass": "No attack found more than a blind guess would. All controls fired.",
    "fail": "At least one attack did better than a blind guess. All controls fired.",
    "broken": "A control failed: the figures below cannot be trusted.",
}
_EXPRESSION = tuple(
    f"{name}_correlation" for name in ("mouth_open", "mouth_wide", "smile", "brow", "eyelids")
)
_LIMITS = (
    "These are measurements against the attackers listed here, not guarantees. A better attacker"
    " may find more.",
    "Only the clip and the people named above were looked at; other light, poses and cameras may"
    " do worse.",
    "Gallery “same” holds the very picture that was protected. Pose, expression and light"
    " are in the code on purpose, so an attacker may match a protected picture with its own photo"
    " without knowing the face. Gallery “other” holds another picture of the person: that"
    " is what identity means.",
    "In face mode clothes, hair that reaches below the head, rooms and voices stay as they are and"
    " identify people.",
    "KID is computed with ImageNet MobileNet features and compares only with itself.",
)
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#5b6470;--line:#dde2e8;--card:#f5f7f9;
--c0:#0b7a4b;--c1:#b3261e;--c2:#1f5fbf;--c3:#8a4fbf;--c4:#b26a00;--c5:#7b8590}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--ink:#e8ebef;--soft:#a3adb8;--line:#2f363e;
--card:#1c2127;--c0:#4cc38a;--c1:#ff8a80;--c2:#82b1ff;--c3:#cfa4ff;--c4:#ffb74d;--c5:#8b95a1}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}main{max-width:1060px;margin:0 auto;padding:20px 16px 60px}
h1{font-size:1.7rem;margin:.2em 0}h2{margin:2.2em 0 .5em;font-size:1.25rem}h3{font-size:1rem}
p.soft,.soft{color:var(--soft)}.card{background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:14px 16px;margin:12px 0}.verdict{border-left:8px solid var(--c4)}
.verdict.pass{border-color:var(--c0)}.verdict.fail{border-color:var(--c1)}
.verdict.broken{border-color:var(--c1);background:color-mix(in srgb,var(--c1) 14%,var(--bg))}
.verdict b{font-size:1.5rem;text-transform:uppercase}.plots{display:grid;gap:16px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr))}
svg{width:100%;height:auto;font-size:11px}svg text{fill:var(--soft)}.grid{stroke:var(--line)}
.line{fill:none;stroke:var(--k);stroke-width:2.2}.dot{fill:var(--k)}
.c0{--k:var(--c0)}.c1{--k:var(--c1)}.c2{--k:var(--c2)}.c3{--k:var(--c3)}.c4{--k:var(--c4)}
.c5{--k:var(--c5)}.legend{list-style:none;margin:6px 0 0;padding:0;display:flex;flex-wrap:wrap;
gap:4px 16px;font-size:.85rem}.key{display:inline-block;width:18px;height:0;
border-top:3px solid var(--k);margin-right:6px;vertical-align:middle}
.dashed{border-top-style:dashed}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;min-width:100%}
th,td{padding:5px 9px;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}tr.bad td{color:var(--c1);font-weight:600}
.gallery{display:grid;gap:6px;grid-template-columns:auto repeat(8,1fr);align-items:center;
min-width:560px;font-size:.85rem}.gallery img{width:100%;border-radius:6px;display:block}
dl{display:grid;grid-template-columns:minmax(8em,auto) 1fr;gap:4px 14px;margin:0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}details{margin:12px 0}summary{cursor:pointer}
"""


def render(result: AuditResult) -> str:
    """The page. It holds pictures of public people only, and nothing is loaded from elsewhere."""
    value = result.value
    parts = [
        _head(value),
        _section("What is claimed", _claims(value), "Promises of the bundle. The audit does not"
                 " make or widen them."),
        _section("What was measured: who is it?", _plots(result), "How often an attacker accepts"
                 " the right person, over how often he accepts a wrong one."),
        _section("Privacy against use", _frontier(value), "Down and to the right is better."),
        _section("Pictures", _gallery(result), "Public or non-existing people only."),
        _section("Attacks", _attacks(value), "Rows in red are better than a blind guess beyond"
                 " doubt (p below 0.05, shared by all deciding rows)."),
        _section("Use", _use(value), ""),
        _section("Controls", _controls(value), "Every one must hold, or the audit is broken."),
        _section("Limits", _items(_LIMITS), ""),
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Veilcam audit</title><style>{_STYLE}</style></head><body><main>"
        f"{''.join(parts)}</main></body></html>"
    )


def _head(value: dict[str, Any]) -> str:
    verdict, people = value["verdict"], value["people"]
    who = (
        "people drawn by the bundle itself, who do not exist: figures of real people may differ"
        if people["are_drawn_by_the_bundle"]
        else "people whose pictures were given; none of them is shown"
    )
    reasons = _items([html.escape(r) for r in value["reasons"]])
    return (
        f"<h1>Veilcam audit</h1><p class=soft>Bundle {value['bundle_sha256'][:16]}, mode"
        f" {value['mode']}, {'quick, ' if value['is_quick'] else ''}{value['seconds']:.0f} s."
        f" Attacked: {people['attacked']} {who}. Attackers learned on {people['learned_on']}"
        f" others.</p><div class='card verdict {verdict}'><b>{verdict}</b>"
        f"<p>{_VERDICTS[verdict]}</p>{reasons}</div>"
    )


def _section(title: str, body: str, note: str) -> str:
    soft = f"<p class=soft>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{soft}{body}</section>"


def _claims(value: dict[str, Any]) -> str:
    claims = value["claims"]
    training, inference = claims["training"], claims["inference"]
    if training is None:
        trained = "no private picture was used, so nothing is claimed and nothing is needed"
    else:
        trained = ", ".join(f"{k} {v}" for k, v in training.items() if not isinstance(v, list))
    static = ", ".join(inference["static_fields"]) or "none"
    return (
        f"<div class=card><dl><dt>Training</dt><dd>{html.escape(trained)}</dd><dt>Code</dt>"
        f"<dd>{inference['bits_per_frame']} bits a frame; lasting fields: {html.escape(static)}"
        f"</dd><dt>Beside it</dt><dd>{html.escape(inference['placed'])}</dd></dl></div>"
    )


def _plots(result: AuditResult) -> str:
    cards = []
    for name in dict.fromkeys(key[1] for key in result.curves):
        wanted = {
            "unprotected copy": (1, "", False),
            "veilcam, off the shelf": (0, "", False),
            "veilcam, deanonymize_picture": (3, "", False),
            "veilcam, retrained_net": (2, "", False),
            "blur, off the shelf": (4, "", True),
            "blur, retrained_net": (4, "", False),
        }
        lines = [
            Line(label.replace("_", " "), far.tolist(), tpr.tolist(), wanted[label][0],
                 wanted[label][2])
            for (label, who), (far, tpr) in result.curves.items()
            if who == name and label in wanted
        ]  # fmt: skip
        cards.append(f"<div class=card><h3>{html.escape(name)}</h3>{roc_plot(lines)}</div>")
    return f"<div class=plots>{''.join(cards)}</div>"


def _frontier(value: dict[str, Any]) -> str:
    """Ours at each strength that was audited, and peers: what remains of use, what leaks."""
    cards = []
    for label, metrics in (
        ("faces still found by a detector", ("detection_recall",)),
        ("expression that comes through (mean correlation)", _EXPRESSION),
    ):
        for gallery in ("same", "other"):
            points = [
                Line(name, [_use_of(found, view, metrics)], [leak], colour)
                for name, found, view, leak, colour in _measured(value, gallery)
            ]
            if len(points) > 1:
                plot = frontier_plot(points, x_label=label, y_label="best attacker's rank-1")
                cards.append(f"<div class=card><h3>gallery: {gallery} picture</h3>{plot}</div>")
    return f"<div class=plots>{''.join(cards)}</div>"


def _measured(
    value: dict[str, Any], gallery: str
) -> Iterator[tuple[str, dict[str, Any], str, float, int]]:
    """Name, audit, view, rank-1 of the best attacker and colour of each that was measured."""
    controls = [row["control_positive"] for row in _rank1(value, OURS, gallery)
                if row["name"] == "reid" and row["control_positive"] is not None]  # fmt: skip
    if controls:
        yield "unprotected", value, COPY, max(controls), 1
    wanted = [
        (f"{OURS}, {value['strength']}", value, OURS, 0),
        *((peer, value, peer, colour) for peer, colour in zip(PEERS, (4, 3, 5), strict=True)),
        *((f"{OURS}, {o['strength']}", o, OURS, 0) for o in value.get("beside", [])),
    ]
    for name, found, view, colour in wanted:
        if leaks := [row["value"] for row in _rank1(found, view, gallery)]:
            yield name, found, view, max(leaks), colour


def _rank1(value: dict[str, Any], view: str, gallery: str) -> list[dict[str, Any]]:
    """The rank-1 rows of a protection."""
    wanted = {"protection": view, "gallery": gallery, "metric": "rank1"}
    return [row for row in value["attacks"] if wanted.items() <= row.items()]


def _use_of(value: dict[str, Any], view: str, metrics: tuple[str, ...]) -> float:
    """Mean of some use figures of a protection; what could not be measured counts as 0."""
    found = {
        row["metric"]: max(float(row["value"]), 0.0)
        for row in value["utility"]
        if row["protection"] == view and row["value"] == row["value"]
    }
    return sum(found.get(metric, 0.0) for metric in metrics) / len(metrics)


def _gallery(result: AuditResult) -> str:
    rows: dict[str, list[str]] = {name: [] for name in ("original", OURS, *PEERS)}
    for picture in result.shown:
        original = picture.read()
        protected = result.tools.protection(original)
        rows["original"].append(_image(original))
        rows[OURS].append(_image(protected.bgr))
        for peer in PEERS:
            rows[peer].append(_image(protect_like(peer, original, protected.hulls)))
    cells = "".join(f"<span>{name}</span>{''.join(tiles)}" for name, tiles in rows.items())
    return f"<div class='card scroll'><div class=gallery>{cells}</div></div>"


def _image(bgr: np.ndarray) -> str:
    height, width = bgr.shape[:2]
    if height >= 256 and width >= 256:  # padded crops: show the middle
        bgr = bgr[height // 8 : -height // 8, width // 8 : -width // 8]
    scale = _TILE_PX / max(bgr.shape[:2])
    small = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    text = base64.b64encode(data.tobytes()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{text}">'


def _attacks(value: dict[str, Any]) -> str:
    deciding = [r for r in value["attacks"] if r.get("decides")]
    limit = 0.05 / max(len(deciding), 1)
    head = ("attack", "protection", "recognizer", "gallery", "metric", "value", "95 % interval",
            "chance", "control +", "control -")  # fmt: skip
    tables = []
    for title, rows in (("Deciding rows", deciding),
                        ("All rows", value["attacks"])):  # fmt: skip
        body = "".join(
            _tr(
                [r["name"], r.get("protection", ""), r["recognizer"], r.get("gallery", ""),
                 r["metric"], _num(r["value"]), f"{_num(r['low'])} - {_num(r['high'])}",
                 _num(r.get("chance")), _num(r["control_positive"]), _num(r["control_negative"])],
                is_bad=bool(r.get("decides")) and r.get("p_value", 1.0) < limit,
            )
            for r in rows
        )  # fmt: skip
        table = _table(head, body)
        is_short = title == "Deciding rows"
        tables.append(
            f"<h3>{title}</h3>{table}"
            if is_short
            else f"<details><summary>{title} ({len(rows)})</summary>{table}</details>"
        )
    skipped = _items([html.escape(s) for s in value["skipped"]])
    return "".join(tables) + (f"<h3>Not done</h3>{skipped}" if value["skipped"] else "")


def _use(value: dict[str, Any]) -> str:
    """One line a metric, one column a protection."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in value["utility"]:
        rows.setdefault(entry["metric"], {})[entry["protection"]] = entry
    views = tuple(dict.fromkeys(u["protection"] for u in value["utility"]))
    body = []
    for metric, found in rows.items():
        one = next(iter(found.values()))
        cells = [
            f"{_num(found[v]['value'])} ({_num(found[v]['low'])} to {_num(found[v]['high'])})"
            if v in found
            else "-"
            for v in views
        ]
        body.append(_tr([metric, *cells, _num(one["best"]), one["unit"]]))
    return _table(("metric", *views, "best", "unit"), "".join(body))


def _controls(value: dict[str, Any]) -> str:
    failed = [c for c in value["controls"] if not c["ok"]]
    held = [c for c in value["controls"] if c["ok"]]

    def table(rows: list[dict[str, Any]]) -> str:
        body = "".join(
            _tr([c["name"], _num(c["value"]), c["wanted"], "held" if c["ok"] else "FAILED"],
                is_bad=not c["ok"])
            for c in rows
        )  # fmt: skip
        return _table(("control", "value", "wanted", ""), body)

    first = table(failed) if failed else "<p>All held.</p>"
    return first + f"<details><summary>{len(held)} held</summary>{table(held)}</details>"


def _table(head: tuple[str, ...], body: str) -> str:
    cells = "".join(f"<th>{h}</th>" for h in head)
    return f"<div class=scroll><table><thead><tr>{cells}</tr></thead>{body}</table></div>"


def _tr(cells: list[str], *, is_bad: bool = False) -> str:
    is_number: Callable[[str], bool] = lambda c: c[:1].isdigit() or c == "-"  # noqa: E731
    body = "".join(
        f"<td{' class=n' if is_number(str(c)) else ''}>{html.escape(str(c))}</td>" for c in cells
    )
    return f"<tr{' class=bad' if is_bad else ''}>{body}</tr>"


def _num(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _items(texts: Any) -> str:
    return "<ul>" + "".join(f"<li>{t}</li>" for t in texts) + "</ul>" if texts else ""

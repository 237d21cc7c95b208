"""Controls first, then the verdict: what an audit may say of its own figures."""

from typing import Any, Literal

from veilcam.camera.audit_shots import OURS
from veilcam.camera.audit_stats import binomial_tail

Verdict = Literal["pass", "fail", "broken"]
MIN_COPY_RANK1 = 0.95
MIN_RAW_RANK1 = 0.5  # another raw picture of the person: else the recognizer is blind here
MIN_TRAIT = 0.65
MIN_MIA = 0.8
MAX_AUC_OFF = 0.12  # from 0.5, of a negative control
MAX_TRAIT_OFF = 0.1
FALSE_ALARM = 0.05  # of a whole audit: shared by all deciding rows (Bonferroni)
SURE = 1e-4  # a control must be that far from chance, or from being it
FAR_ABOVE = 1e-3  # doubt left that a taught attacker beats the naive one on blur
_LEARNED = ("deanonymize_picture", "retrained_net", "deanonymize_code")


def control(name: str, value: float | None, wanted: str, is_ok: bool) -> dict[str, Any]:
    """One control of the report."""
    return {"name": name, "value": value, "wanted": wanted, "ok": bool(is_ok)}


def check_controls(attacks: list[dict[str, Any]], num_recognizers: int) -> list[dict[str, Any]]:
    """Every positive and negative control, fired or not."""
    found = [control("two recognizers", float(num_recognizers), "at least 2", num_recognizers >= 2)]
    for row in attacks:
        found += _positive(row) + _negative(row)
    found += _blur_retrained(attacks)
    if not any(c["name"].startswith("unprotected copy") for c in found):
        found.append(control("unprotected copy re-identified", None, "measured", False))
    return found


def judge(
    attacks: list[dict[str, Any]], controls: list[dict[str, Any]]
) -> tuple[Verdict, list[str]]:
    """The verdict and its reasons. A failed control makes every figure void: broken."""
    broken = [f"control failed: {c['name']} = {c['value']}, wanted {c['wanted']}"
              for c in controls if not c["ok"]]  # fmt: skip
    if broken:
        return "broken", broken
    deciding = [row for row in attacks if row.get("decides")]
    if not deciding:
        return "broken", ["nothing was measured that could decide"]
    limit = FALSE_ALARM / len(deciding)
    found = [
        f"{row['name']}, {row['recognizer']}, gallery {row.get('gallery', '-')}: {row['metric']}"
        f" = {row['value']:.4f}, chance {row['chance']:.4f}, p = {row['p_value']:.1e}"
        for row in deciding
        if row.get("p_value", 1.0) < limit
    ]
    return ("fail", found) if found else ("pass", [])


def _where(row: dict[str, Any]) -> str:
    return f"{row['recognizer']}, {row.get('gallery', '-')}"


def _positive(row: dict[str, Any]) -> list[dict[str, Any]]:
    value, metric, name = row["control_positive"], row["metric"], row["name"]
    if value is None:
        return []
    if name.startswith("trait_"):
        return [control(f"{name} from the original", value, f">= {MIN_TRAIT}", value >= MIN_TRAIT)]
    if metric == "mia_auc":
        return [control("leaky sampler caught", value, f">= {MIN_MIA}", value >= MIN_MIA)]
    if metric != "rank1" or row.get("protection") != OURS:
        return []
    if name == "reid" and row["gallery"] == "same":
        wanted = MIN_COPY_RANK1
        return [control(f"unprotected copy re-identified ({_where(row)})", value, f">= {wanted}",
                        value >= wanted)]  # fmt: skip
    if name in ("reid", "linkage"):
        return [control(f"another raw picture re-identified ({name}, {_where(row)})", value,
                        f">= {MIN_RAW_RANK1}", value >= MIN_RAW_RANK1)]  # fmt: skip
    if name in _LEARNED:
        tail = binomial_tail(round(value * row["n"]), row["n"], row["chance"])
        return [control(f"planted leak found ({name}, {_where(row)})", value,
                        f"p < {SURE} against chance {row['chance']:.4f}", tail < SURE)]  # fmt: skip
    return []


def _negative(row: dict[str, Any]) -> list[dict[str, Any]]:
    value, metric, name = row["control_negative"], row["metric"], row["name"]
    if value is None:
        return []
    if metric in ("auc", "mia_auc", "balanced_accuracy"):
        reach = MAX_TRAIT_OFF if metric == "balanced_accuracy" else MAX_AUC_OFF
        return [control(f"{name}: other people at chance ({_where(row)})", value,
                        f"0.5 +- {reach}", abs(value - 0.5) <= reach)]  # fmt: skip
    if metric != "rank1":
        return []
    tail = row["p_value_negative"]
    return [control(f"{name}: other people at chance ({row['protection']}, {_where(row)})", value,
                    f"chance {row['chance']:.4f}, p >= {SURE}", tail >= SURE)]  # fmt: skip


def _blur_retrained(attacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Literature: blur falls to a retrained attacker (10.6 -> 86.3 %); ours must gain on it too.

    Held where the best taught attacker finds at least twice as many as the naive one, beyond
    doubt, in either gallery; or where already the naive one finds nearly everybody.
    """
    rows = [r for r in attacks if r.get("protection") == "blur" and r["metric"] == "rank1"]
    found = []
    for recognizer in sorted({r["recognizer"] for r in rows}):
        tries = []
        for gallery in ("same", "other"):
            mine = [r for r in rows if (r["recognizer"], r["gallery"]) == (recognizer, gallery)]
            naive = [r for r in mine if r["name"] == "reid"]
            taught = max(
                (r for r in mine if r["name"] != "reid"), key=lambda r: r["value"], default=None
            )
            if naive and taught:
                base = max(naive[0]["value"], naive[0]["chance"])
                hits, num = round(taught["value"] * taught["n"]), taught["n"]
                is_far = taught["value"] >= 2 * base and binomial_tail(hits, num, base) < FAR_ABOVE
                tries.append((is_far or base >= MIN_COPY_RANK1, taught["value"], base))
        if tries:
            is_ok, value, base = max(tries)
            found.append(
                control(f"blur falls to a taught attacker ({recognizer})", value,
                        f">= 2 x naive {base:.3f}, p < {FAR_ABOVE}", is_ok)
            )  # fmt: skip
    return found

"""Drives the page of `veilcam serve` in a real Chromium, from login to download; pictures of it.

    .venv/bin/pip install playwright; apt install chromium
    .venv/bin/python scripts/page_check.py -o build/page [--report report.html] [--json]

Watches the demo clip live, changes the strength, drops three pictures of the clip and one that is
none, looks at the original and back, downloads the ZIP and compares it with what was dropped,
reads the promises and the audit, in English and Chinese, light and dark, on a wide and a narrow
screen, by mouse and by keyboard. Ends with exit code 1 where something is not as it should be.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from veilcam.camera.source import demo_clip

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
PATIENCE_MS = 150_000  # a busy machine takes long to start a capture process, now and then twice
HUNG = "capture_hung"  # it was started again, which is no fault of a picture
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


class Check:
    """What was looked at, and what of it was wrong."""

    def __init__(self) -> None:
        self.done: dict[str, Any] = {}
        self.wrong: list[str] = []

    def __call__(self, name: str, found: Any, is_right: bool) -> None:
        """Notes one finding."""
        self.done[name] = found
        if not is_right:
            self.wrong.append(f"{name}: {found}")


def demo_pictures(folder: Path) -> list[Path]:
    """Three frames of the demo clip as JPEG, PNG and WebP, and a text that calls itself JPEG."""
    wanted, paths = {5: "left.jpg", 40: "middle.png", 70: "right.webp"}, []
    clip, number = cv2.VideoCapture(str(demo_clip())), 0
    while len(paths) < len(wanted):
        is_read, bgr = clip.read()
        assert is_read, f"the demo clip has only {number} frames"
        if number in wanted:
            paths.append(folder / wanted[number])
            cv2.imwrite(str(paths[-1]), bgr)
        number += 1
    paths.append(folder / "notes.jpg")
    paths[-1].write_text("no picture at all")
    return paths


@contextmanager
def server(folder: Path, report: Path | None) -> Iterator[tuple[str, str]]:
    """A running `veilcam serve demo` with a password of its own; address and password."""
    veilcam = Path(sys.executable).with_name("veilcam")
    command = [str(veilcam), "serve", "demo", "--port", "0"]
    if report is not None:
        command += ["--report", str(report)]
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder / "config")}
    errors = (folder / "stderr").open("w+")
    process = subprocess.Popen(command, env=environment, stderr=errors, stdout=subprocess.PIPE)
    try:
        deadline_s = time.monotonic() + 60
        text = ""
        while "Veilcam is at" not in text:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(f"the server does not start: {text}")
            time.sleep(0.1)
            text = (folder / "stderr").read_text()
        address = re.search(r"at (http://\S+/)", text)
        password = re.search(r"Password: (\S+)", text)
        assert address is not None
        assert password is not None
        yield address[1], password[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)
        errors.close()


def until(page: Any, expression: str, timeout_s: float = PATIENCE_MS / 1000) -> None:
    """Waits until an expression is true. Playwright's own way needs eval: the page forbids it."""
    deadline_s = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        if time.monotonic() > deadline_s:
            raise SystemExit(f"never came true: {expression}")
        page.wait_for_timeout(100)


def _live_mean(page: Any) -> float:
    """Mean brightness of what the live picture shows now."""
    code = """() => { const img = document.getElementById('live-picture');
      const c = document.createElement('canvas'); c.width = 64; c.height = 36;
      const x = c.getContext('2d'); x.drawImage(img, 0, 0, 64, 36);
      const d = x.getImageData(0, 0, 64, 36).data; let s = 0;
      for (let i = 0; i < d.length; i += 4) s += d[i] + 7 * d[i + 1] * (i % 13);
      return s; }"""
    return float(page.evaluate(code))


def log_in(page: Any, address: str, password: str, check: Check) -> None:
    """A wrong password first, then the right one, by keyboard."""
    page.goto(address)
    page.fill("#password", "not the password")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('login-problem').textContent.length > 5")
    problem = page.inner_text("#login-problem")
    check("wrong_password", problem, "not the password" in problem)
    page.fill("#password", password)
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-live:not([hidden])")


def watch(page: Any, check: Check, shots: Path) -> None:
    """Live picture that moves, figures, a change of strength, pause."""
    page.wait_for_selector(".pill[data-state=live]", timeout=PATIENCE_MS)
    means = []
    for _ in range(8):
        means.append(_live_mean(page))
        page.wait_for_timeout(250)
    width = page.evaluate("document.getElementById('live-picture').naturalWidth")
    check("live_width", width, width > 0)
    check("live_distinct", len(set(means)), len(set(means)) >= 4)
    until(page, "document.querySelectorAll('#stages tbody tr').length >= 5")
    page.wait_for_timeout(9000)
    page.screenshot(path=shots / "live-light.png", full_page=True)
    check("barriers", page.inner_text("#barriers-sum"), page.is_visible("#barriers-sum.good"))
    page.click("label.choice:has(input[value=strict])")
    until(page, "fetch('/api/status').then(r => r.json()).then(v => v.strength === 'strict')")
    start_s = time.monotonic()
    page.wait_for_timeout(1500)
    page.wait_for_selector(".pill[data-state=live]", timeout=PATIENCE_MS)
    check("live_after_change_s", round(time.monotonic() - start_s, 1), True)
    status = page.evaluate("fetch('/api/status').then(r => r.json())")
    check("strength", status["strength"], status["strength"] == "strict")
    check("outages", status["outages"], status["outages"] == 0)
    if page.is_visible("#prompt"):
        page.fill("#prompt", "an old man and xyzzy")
        page.keyboard.press("Enter")
        page.wait_for_selector("#settings-note:has-text('xyzzy')")
        told = page.inner_text("#settings-note")
        check("unknown_words", told, "left out: xyzzy" in told)
        until(page, "fetch('/api/status').then(r => r.json()).then(v => v.prompt !== '')")
        page.wait_for_timeout(2000)
        page.wait_for_selector(".pill[data-state=live]", timeout=PATIENCE_MS)
    before = page.evaluate("fetch('/api/status').then(r => r.json())")
    check("faults_in_face", before["faults_by_stage"], not set(before["faults_by_stage"]) - {HUNG})
    if page.locator("input[name=mode][value=scene]").count():
        page.click("label.choice:has(input[value=scene])")
        until(page, "fetch('/api/status').then(r => r.json()).then(v => 'learn' in v.latency_ms)")
        page.wait_for_selector(".pill[data-state=live]", timeout=PATIENCE_MS)
        status = page.evaluate("fetch('/api/status').then(r => r.json())")
        new = _new_faults(before, status)
        check("scene", [status["mode"], new], status["mode"] == "scene" and not new)
        page.wait_for_timeout(6000)
        page.screenshot(path=shots / "scene-light.png")
        _back_to_face(page)
    before = page.evaluate("fetch('/api/status').then(r => r.json())")
    if page.locator("input[name=mode][value=frame]").count():
        page.click("label.choice:has(input[value=frame])")
        mode = "fetch('/api/status').then(r => r.json()).then(v => v.mode === 'frame')"
        until(page, mode)
        page.wait_for_timeout(2000)
        page.wait_for_selector(".pill[data-state=live]", timeout=PATIENCE_MS)
        page.wait_for_timeout(4000)
        status = page.evaluate("fetch('/api/status').then(r => r.json())")
        new = _new_faults(before, status)
        is_right = status["mode"] == "frame" and not new and status["frames_out"] > 0
        check("frame", [status["mode"], new, status["frames_out"]], is_right)
        page.screenshot(path=shots / "frame-light.png")
        _back_to_face(page)
    status = page.evaluate("fetch('/api/status').then(r => r.json())")
    check("started_again", status["faults_by_stage"].get(HUNG, 0), True)
    page.click("#pause")
    check("paused", page.is_hidden("#live-picture"), page.is_hidden("#live-picture"))
    page.click("#pause")


def _new_faults(before: dict[str, Any], now: dict[str, Any]) -> dict[str, int]:
    """Faults of pictures by stage since an earlier status: counts go on over changes of mode."""
    old, all_now = before["faults_by_stage"], now["faults_by_stage"]
    return {k: n - old.get(k, 0) for k, n in all_now.items() if k != HUNG and n > old.get(k, 0)}


def _back_to_face(page: Any) -> None:
    page.click("label.choice:has(input[value=face])")
    page.wait_for_timeout(2000)
    page.wait_for_selector(".pill[data-state=live]", timeout=PATIENCE_MS)


def drop_painted(page: Any, path: Path, check: Check, shots: Path) -> None:
    """One picture in mode frame: nothing of it comes back; not offered for image search."""
    page.select_option("#drop-mode", "frame")
    hides = page.is_hidden("#drop-prompt-field")
    page.set_input_files("#files", [str(path)])
    until(page, "document.querySelectorAll('.result-frame img').length === 1")
    told = page.inner_text(".result-text >> nth=0")
    check("painted", told, "painted anew" in told and hides)
    page.wait_for_timeout(800)
    page.screenshot(path=shots / "painted-light.png")
    source = page.get_attribute(".result-frame img", "src")
    data = page.evaluate(f"fetch('{source}').then(r => r.arrayBuffer()).then(b => "
                         "[...new Uint8Array(b)])")  # fmt: skip
    after = cv2.imdecode(np.frombuffer(bytes(data), np.uint8), cv2.IMREAD_COLOR)
    before = cv2.imread(str(path))
    same = float((np.abs(before.astype(int) - after).max(2) <= 4).mean())
    check("painted_same", round(same, 4), before.shape == after.shape and same < 0.05)
    page.click("label.choice:has(input[value=search])")
    check("no_search_by_frame", "hidden", page.is_hidden("#drop-mode-field"))
    page.click("label.choice:has(input[value=album])")
    page.select_option("#drop-mode", "face")
    page.click("#forget")
    until(page, "document.querySelectorAll('.result').length === 0")


def drop(page: Any, paths: list[Path], check: Check, shots: Path) -> None:
    """Three pictures and one that is none; before and after; the ZIP."""
    page.click(".tabs a[data-view=pictures]")
    page.set_input_files("#files", [str(path) for path in paths])
    until(page, 
        "document.querySelectorAll('.result .problem').length === 1 && "
        "document.querySelectorAll('.result-frame img').length === 3",
    )  # fmt: skip
    problem = page.inner_text(".result .problem")
    check("no_picture", problem, "no JPEG" in problem)
    befores = page.locator(".result-frame img[src^='blob:']").count()
    check("originals_shown_at_first", befores, befores == 0)
    page.wait_for_timeout(800)
    page.screenshot(path=shots / "pictures-light.png")
    page.locator(".result button[aria-pressed=false]").first.press("Enter")
    check("original_on_request", "blob", page.locator("img[src^='blob:']").count() == 1)
    page.keyboard.press("Enter")  # the focus has stayed on it
    check("original_hidden_again", "api", page.locator("img[src^='blob:']").count() == 0)
    with page.expect_download() as download:
        page.click("#zip")
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as packed:
        names = sorted(packed.namelist())
        made = {name: packed.read(name) for name in names}
    check("zip", names, names == ["left.jpg", "middle.png", "right.webp"])
    for path in paths[:3]:
        before = cv2.imread(str(path))
        after = cv2.imdecode(np.frombuffer(made[path.name], np.uint8), cv2.IMREAD_COLOR)
        changed = float((np.abs(before.astype(int) - after).max(2) > 40).mean())
        check(
            f"changed_{path.name}",
            round(changed, 4),
            before.shape == after.shape and changed > 0.002,
        )
        is_clean = b"Exif" not in made[path.name]
        check(f"no_exif_{path.name}", is_clean, is_clean)
    page.click("label.choice:has(input[value=social])")
    page.set_input_files("#files", [str(paths[0])])
    until(page, "document.querySelectorAll('.result-frame img').length === 4")
    told = page.inner_text(".result-text >> nth=0")
    check("social", told, "content credentials" in told)
    page.click("#forget")
    until(page, "document.querySelectorAll('.result').length === 0")
    page.click("label.choice:has(input[value=album])")
    if page.is_visible("#drop-mode"):
        drop_painted(page, paths[0], check, shots)


def read(page: Any, check: Check, shots: Path, *, has_report: bool) -> None:
    """Promises, audit, Chinese."""
    page.click(".tabs a[data-view=promise]")
    text = page.inner_text("#promise")
    check("promises", len(text), "bits a picture" in text and "public pictures" in text)
    page.screenshot(path=shots / "promise-light.png")
    page.click(".tabs a[data-view=audit]")
    if has_report:
        page.frame_locator("#report").locator("h1").wait_for()
        page.screenshot(path=shots / "audit-light.png")
        heading = page.frame_locator("#report").locator("h1").inner_text()
        check("audit", heading, bool(heading))
    else:
        check("audit", "none given", page.is_visible("#audit-none"))
    page.select_option("#language", "zh")
    page.click(".tabs a[data-view=live]")
    title = page.inner_text("#latency-title")
    check("chinese", title, "延迟" in title)
    page.wait_for_timeout(1500)
    page.screenshot(path=shots / "live-zh.png")
    page.select_option("#language", "en")


def other_screens(browser: Any, state: Any, address: str, check: Check, shots: Path) -> None:
    """Dark, and a phone: nothing wider than the screen."""
    for name, size, scheme in (
        ("live-dark", WIDE, "dark"),
        ("phone", PHONE, "light"),
        ("phone-dark", PHONE, "dark"),
    ):
        context = browser.new_context(
            viewport=size, color_scheme=scheme, storage_state=state, device_scale_factor=1
        )
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(".pill[data-state=live]", timeout=PATIENCE_MS)
        page.wait_for_timeout(4000)
        page.screenshot(path=shots / f"{name}.png")
        for view in ("live", "pictures", "promise", "audit"):
            page.click(f".tabs a[data-view={view}]")
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            check(f"{name}_{view}_overflow_px", over, over <= 0)
        context.close()


def main() -> int:
    """Runs all; exit code 1 where a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=ROOT / "build" / "page", help="screenshots"
    )
    parser.add_argument("--report", type=Path, help="report.html of veilcam audit")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "/usr/bin/chromium")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    options.out.mkdir(parents=True, exist_ok=True)
    check, told = Check(), list[str]()
    with (
        tempfile.TemporaryDirectory() as name,
        server(Path(name), options.report) as (address, password),
    ):
        paths = demo_pictures(Path(name))
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=options.chromium, args=FLAGS)
            context = browser.new_context(viewport=WIDE, color_scheme="light", locale="en-US")
            page = context.new_page()
            page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: told.append(f"error: {error}"))
            log_in(page, address, password, check)
            watch(page, check, options.out)
            drop(page, paths, check, options.out)
            read(page, check, options.out, has_report=options.report is not None)
            state = context.storage_state()
            context.close()
            other_screens(browser, state, address, check, options.out)
            browser.close()
        log = (Path(name) / "stderr").read_text().splitlines()
        told_by_server = [line for line in log if "Password" not in line]
        left = [
            path.name for path in Path(name).rglob("*") if path.suffix in (".jpg", ".png", ".webp")
        ]
    check("files_written", sorted(left), sorted(left) == sorted(path.name for path in paths))
    bad = [line for line in told if "401" not in line and "415" not in line]
    check("console", bad, not bad)
    result = {"ok": not check.wrong, "wrong": check.wrong, **check.done, "log": told_by_server}
    sys.stdout.write(
        json.dumps(result, indent=None if options.json else 1, ensure_ascii=False) + "\n"
    )
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

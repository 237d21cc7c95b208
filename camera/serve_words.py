"""Prompts of the page: whether words are known, told before anybody is cast by them."""

import importlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from veilcam.camera.errors import InputError
from veilcam.camera.settings import Settings

MAX_PROMPT = 200


def known_words(bundle: Path) -> list[str]:
    """The vocabulary beside a bundle, empty where it comes without words.

    Nothing is vouched for here: the process that paints checks every file of it.
    """
    if not can_cast():
        return []
    part = bundle.parent / str(importlib.import_module("veilcam.camera.cast").TEXT_PART)
    try:
        found = json.loads((part / "manifest.json").read_text("utf-8")).get("vocabulary", [])
    except (OSError, ValueError):
        return []
    return [str(word) for word in found] if isinstance(found, list) else []


def can_cast() -> bool:
    """True where a run can be told whom to cast."""
    return any(field.name == "cast" for field in fields(Settings))


def with_prompt(settings: Settings, prompt: str) -> Settings:
    """The same run with everybody cast by a prompt; with nobody cast where it is empty."""
    changes: dict[str, Any] = {"cast": {"others": prompt} if prompt else {}}
    return replace(settings, **changes) if can_cast() else settings


def unknown_words(prompt: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Words of a prompt that would be left out.

    Raises:
        InputError: The prompt is too long, on several lines, or not one word is known.
    """
    if len(prompt) > MAX_PROMPT or not prompt.isprintable():
        raise InputError(f"the prompt may have {MAX_PROMPT} letters, on one line")
    if not prompt:
        return ()
    if not words:
        raise InputError("this bundle comes without words; prompts are not there")
    ids, unknown = (
        importlib.import_module("veilcam.camera.text_tokens").Vocabulary(words).encode(prompt)
    )
    if not ids.any():
        raise InputError("not one of these words is known; try “an old man with glasses”")
    return tuple(str(word) for word in unknown)

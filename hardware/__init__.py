"""Boards, images and flashing: later."""

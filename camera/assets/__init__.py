"""Data files of the camera side; their origin and licence are in NOTICE.md."""

"""The device's own files beside this one; `places.toml` says where each lies there."""

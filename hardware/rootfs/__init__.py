"""Files of the device beyond packages, each where it lies there."""

#!/bin/sh
# In the new system: what the camera imports must be there, and its byte code is made once and for all,
# because the root can't be written to. Not dated, so that two builds agree.
set -eu
python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/veilcam
python3 -c "import veilcam.camera.capture, veilcam.camera.serve_publish, veilcam.camera.serve_app
import av, cv2, numpy, onnxruntime, argon2, PIL, uvicorn, veilcam.hardware.setup"

"""Raw pictures that give themselves away, and who looks for them at a sink.

Every raw picture has a head in two colours that occur nowhere else, in a fixed random pattern. The
looker counts such pixels and correlates with the pattern, also after JPEG and H.264; a planted leak
must be found by each of the three. Nothing but the standard library is imported at first: the storm
raises its barriers before.
"""

import io
from collections import Counter

SIZE_HW = (96, 128)
HEAD_PX = 32
BLOCK_PX = 4
COLOURS_BGR = ((250, 10, 240), (10, 250, 20))  # where the pattern is +1 and -1
TOLERANCE = 60
MIN_PIXELS = 12
MIN_CORRELATION = 0.45
JPEG_EVERY, H264_EVERY, H264_FRAMES = 4, 96, 8


def pattern():
    """+1 or -1 for each pixel of the head."""
    import numpy as np

    blocks = np.random.default_rng(7).choice([-1.0, 1.0], (HEAD_PX // BLOCK_PX,) * 2)
    return np.kron(blocks, np.ones((BLOCK_PX, BLOCK_PX))).astype(np.float32)


def head_corner(index):
    """x, y of the head in picture `index`: it wanders."""
    return 20 + (index * 3) % 60, 14 + (index * 2) % 40


def raw_picture(index):
    """A dim room with one head in sentinel colours."""
    import numpy as np

    height, width = SIZE_HW
    rows, columns = np.mgrid[:height, :width]
    bgr = np.empty((height, width, 3), np.uint8)
    bgr[..., 0] = 70 + rows // 3
    bgr[..., 1] = 80 + columns // 4
    bgr[..., 2] = 90 + (rows + columns + index) % 20
    x, y = head_corner(index)
    head = np.where((pattern() > 0)[..., None], *(np.uint8(c) for c in COLOURS_BGR))
    bgr[y : y + HEAD_PX, x : x + HEAD_PX] = head
    return bgr


class Looker:
    """Looks for the raw head in pictures; `hits` counts finds by how."""

    def __init__(self):
        self.template = pattern()
        self.hits = Counter()
        self.checks = Counter()
        self._clip = []

    def look(self, bgr, number):
        """One picture, now and then coded as well."""
        import cv2

        self._check("pixels", self.has_pixels(bgr) or self.has_pattern(bgr))
        if number % JPEG_EVERY == 0:
            data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
            self._check("jpeg", self.has_pattern(cv2.imdecode(data, cv2.IMREAD_COLOR)))
        if number % H264_EVERY < H264_FRAMES:
            self._clip.append(bgr.copy())
        if len(self._clip) == H264_FRAMES:
            for picture in recoded(self._clip):
                self._check("h264", self.has_pattern(picture))
            self._clip = []

    def _check(self, how, is_found):
        self.checks[how] += 1
        self.hits[how] += bool(is_found)

    def has_pixels(self, bgr):
        """True where sentinel colours are."""
        import cv2

        found = 0
        for colour in COLOURS_BGR:
            low = tuple(max(0, c - TOLERANCE) for c in colour)
            high = tuple(min(255, c + TOLERANCE) for c in colour)
            found += cv2.countNonZero(cv2.inRange(bgr, low, high))
        return found >= MIN_PIXELS

    def has_pattern(self, bgr):
        """True where the head's pattern is, at any place and brightness."""
        import cv2
        import numpy as np

        blue, green, _ = cv2.split(bgr.astype(np.float32))
        score = cv2.matchTemplate(blue - green, self.template, cv2.TM_CCOEFF_NORMED)
        return float(np.nan_to_num(score, posinf=0, neginf=0).max()) > MIN_CORRELATION


def recoded(pictures):
    """The pictures after H.264 as `sink_file` writes it, but with a coarser crf."""
    import av

    memory = io.BytesIO()
    with av.open(memory, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *SIZE_HW, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "26"}
        for bgr in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bgr, format="bgr24")))
        container.mux(stream.encode(None))
    memory.seek(0)
    with av.open(memory) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]

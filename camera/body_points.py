"""Names of the seventeen key points of a body, COCO order; left is the person's own left."""

POINT_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
NUM_POINTS = len(POINT_NAMES)
POINT = {name: index for index, name in enumerate(POINT_NAMES)}

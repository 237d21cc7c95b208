"""Settings of all tests.

`st.floats` must say `allow_subnormal=False` where its range holds zero: the first ONNX Runtime
session of a process makes denormals zero in its thread (`generator.open_graph`), and Hypothesis
refuses to draw them from then on.
"""

from hypothesis import settings

settings.register_profile("veilcam", deadline=None)  # a busy machine must not fail a test
settings.load_profile("veilcam")

"""What a clip will take in time, memory and money, before anything runs: no GPU, no weights, no download.

``meter`` (one call on the meta device) → ``calls`` (counts, shipped or cached) and ``cards`` (GPUs) → ``model``
(seconds of a stage) → ``calibrate`` (what was measured or published) → ``predict`` (the forecast) → ``show`` (as text).
"""

"""Sliders and buttons around the functions of svdkit, for notebooks and as a web page.

``parts`` (its words, which are in texts.json, and widgets that work on ipywidgets 7 and 8) → ``form`` (photo and
settings), ``results`` (clips) and ``run`` (forecast, start, stop, progress) → ``panel``. Clips are made by a
``studio``, here or in the process that all tabs of ``svdkit app`` share.
"""

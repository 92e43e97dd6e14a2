"""Sliders and buttons around the functions of svdkit, for notebooks and as a web page.

``parts`` (its words, which are in texts.json, and widgets that work on ipywidgets 7 and 8) → ``form`` (photo and
settings), ``outlook`` (forecast), ``results`` (clips) and ``run`` (start, stop, progress) → ``panel``. Clips are made
by a ``studio``, here or, over ``wire``, in the process that all tabs of ``svdkit app`` share.
"""

"""Pruning removes structure, never just zeros: depth (``depth``), feed-forward width (``width``), vocabulary (``vocabulary``)."""

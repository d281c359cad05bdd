"""Encoders as engines: a served OpenVINO graph (``openvino``), or torch (``torch``), on the same reading of text (``network``)."""

"""Encoders as engines: OpenVINO on the served graph (``openvino``), or ``torch``; both read text alike (``network``)."""

"""More training requests without labels: a language model writes them (``write``), the teacher answers them (``label``)."""

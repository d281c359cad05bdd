"""The account: turns records into figures that people report. Reads records, never samples hardware."""

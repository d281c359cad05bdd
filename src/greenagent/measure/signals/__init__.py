"""Signals: what an hour of electricity carries. Here the yearly carbon intensity by country (`intensity`)."""

"""Exact thresholds, and calibration."""

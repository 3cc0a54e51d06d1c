"""Accuracy of bundles on labelled faces: errors, failures, calibration of the confidence, robustness."""

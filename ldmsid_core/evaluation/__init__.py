"""Metrics, classical routes and reports."""

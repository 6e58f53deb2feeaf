"""Fixtures for tests with applications of today."""

"""Domains: one file (or folder) each, its assets beside it."""

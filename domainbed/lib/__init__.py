"""Helpers that outsiders import from DomainBed."""

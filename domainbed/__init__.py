"""DomainBed-compatible benchmark of out-of-distribution generalisation."""

__version__ = "0.1.0"

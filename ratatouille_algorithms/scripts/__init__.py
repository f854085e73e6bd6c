"""Command lines of the plug-in; the work is elsewhere."""

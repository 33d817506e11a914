"""Adapters that let other programs and frameworks search: each module needs the extra of its name."""

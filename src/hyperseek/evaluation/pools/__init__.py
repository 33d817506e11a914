"""Documents for people to judge, pooled from several systems, and what they judged."""

"""Hidden regions: evaluation, baselines, counting noise, and the public task."""

"""What every scenario measures with: pairs by turns, a quiet machine, models, results that are kept."""

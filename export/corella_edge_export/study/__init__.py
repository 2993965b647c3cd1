"""The paper's study as functions of scores: routing curves, groups, boundary, ablation; tables and plots of them."""

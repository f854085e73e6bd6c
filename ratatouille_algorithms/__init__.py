"""Recycling fine-tuned weights: Model Ratatouille (Rame et al. 2023, arXiv 2212.10445) and kin.

Importing this package registers its algorithms and options with domainbed; it imports no torch.
"""

from ratatouille_algorithms import recipe

recipe.register()

"""Inversion: the latent and the viewpoint that explain an image, by optimization through a differentiable renderer."""

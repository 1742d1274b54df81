"""Learning to label one hyperspectral scene: recipe, training, scores, comparison with other methods."""

"""What a prediction is worth: counts first, scores from counts."""

"""Trainings of Caffe's years, run as their solver files say."""

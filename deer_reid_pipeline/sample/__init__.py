"""A drawn herd: trail-camera pictures of spotted deer with ground truth, from a seed.

It exists so that anyone can see the whole pipeline work, on any machine, without a single real picture. It
uses Pillow and numpy only and never reads a picture, a model or a database. Accuracy on it says nothing about
real deer.
"""

"""Measures of images, of attacks and of models; one module for each kind of question."""
